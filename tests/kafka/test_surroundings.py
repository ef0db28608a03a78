"""The service where the cluster is not as it should be: it says what to do, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

import insurance_fund.streams
from insurance_fund.events import topics
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.topic_plan import ALL_TOPICS, Layout, plan_topics
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.service import record
from tests.kafka.cluster import Cluster
from tests.kafka.fund import Fund, open_fund
from tests.kafka.ready import admin_of, until
from tests.kafka.topics import make_topics

# What is promised: so long an answer is waited for, and so often it is seen what topics there are.
DEADLINE_S: Final = 15
KNOWN_S: Final = 10
# What a loaded machine may add.
SLACK_S: Final = 8
WAIT_S: Final = 30
ONE_SHARD: Final = ("main",)


async def _topics(cluster: Cluster, prefix: str) -> KafkaUrl:
    return await make_topics(cluster.bootstrap, prefix, ONE_SHARD, replication=cluster.replication)


async def _running(fund: Fund, *arguments: str) -> Process:
    """Start the service, and come back once it has taken what is there."""
    process = await fund.serve(*arguments)
    await fund.until_entries(process, 3)
    return process


async def _idle(fund: Fund) -> None:
    await fund.call("run", "--until-idle")


async def _delete(cluster: Cluster, url: KafkaUrl, topic: str) -> None:
    """Delete a topic, and come back once it is gone."""
    async with asyncio.timeout(WAIT_S), admin_of(cluster.bootstrap) as admin:
        await admin.delete_topics([url.name(topic)])

        async def gone() -> bool:
            there = await admin.describe_topics()
            return url.name(topic) not in {one["topic"] for one in there}

        await until(gone)


async def _delete_before(cluster: Cluster, url: KafkaUrl, topic: str, offset: int) -> None:
    named = KafkaPartition(url.name(topic), 0)
    async with admin_of(cluster.bootstrap) as admin:
        await admin.delete_records({named: RecordsToDelete(before_offset=offset)})


async def _settings_of(cluster: Cluster, url: KafkaUrl) -> dict[str, dict[str, str]]:
    """Return all settings of all topics as the brokers have them."""
    wanted = [ConfigResource(ConfigResourceType.TOPIC, url.name(topic)) for topic in ALL_TOPICS]
    async with admin_of(cluster.bootstrap) as admin:
        (answer,) = await admin.describe_configs(wanted)
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for _, _, _, name, entries in answer.resources
    }


async def _set(cluster: Cluster, url: KafkaUrl, topic: str, **changed: str) -> None:
    """Give a topic other settings than those planned, and come back once they count."""
    planned = plan_topics(Layout(url, ONE_SHARD, replication=cluster.replication, input_days=0))
    settings = next(dict(one.settings) for one in planned if one.topic == topic)
    settings |= {name.replace("_", "."): value for name, value in changed.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, url.name(topic), settings)
    async with asyncio.timeout(WAIT_S), admin_of(cluster.bootstrap) as admin:
        await admin.alter_configs([resource])

        async def counts() -> bool:
            there = (await _settings_of(cluster, url))[url.name(topic)]
            return settings.items() <= there.items()

        await until(counts)


async def test_missing_topic_ends_a_start_and_is_named(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(broker, prefix)
    async with open_fund(tmp_path, url) as fund:
        await fund.take_over()
        await _delete(broker, url, topics.ADL_TRIGGERS)
        for arguments in (["run"], ["run", "--until-idle"]):
            ended = await fund.call(*arguments, code=2)
            assert f"{prefix}.{topics.ADL_TRIGGERS}: topic = missing" in ended.told
            assert "topics apply" in ended.told
        assert not await fund.entries()
        await fund.call("topics", "apply", "--replication", "1", "--input-days", "0")
        await _idle(fund)
        await fund.assert_whole()


async def test_running_service_notices_what_becomes_of_topics(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async def of_input() -> None:
        url = await _topics(broker, f"{prefix}.a")
        async with open_fund(tmp_path / "a", url) as fund:
            await fund.take_over()
            await _idle(fund)
            process = await _running(fund, "--shard", "main")
            await _delete(broker, url, topics.FILLS)
            ended = await fund.ended(process, KNOWN_S + SLACK_S)
            assert ended.code == 2
            assert f"{topics.FILLS}:0 is gone: the topic was deleted" in ended.told
            # What is made in its place is empty, and not what was read.
            await fund.call("topics", "apply", "--replication", "1", "--input-days", "0")
            ended = await fund.call("run", "--until-idle", code=1)
            assert f"{topics.FILLS}:0 ends at offset 0" in ended.told
            assert "made anew?" in ended.told

    async def of_ledger() -> None:
        url = await _topics(broker, f"{prefix}.b")
        async with open_fund(tmp_path / "b", url) as fund:
            process = await _running(fund, "--shard", "main")
            await _delete(broker, url, topics.FUND_LEDGER)
            ended = await fund.ended(process, KNOWN_S + SLACK_S)
            assert ended.code == 2
            assert f"{topics.FUND_LEDGER}:0 is gone" in ended.told

    async def of_partitions() -> None:
        url = await _topics(broker, f"{prefix}.c")
        async with open_fund(tmp_path / "c", url) as fund:
            process = await _running(fund, "--shard", "main")
            async with admin_of(broker.bootstrap) as admin:
                await admin.create_partitions({url.name(topics.FILLS): NewPartitions(2)})
            fill = record("fill", "USDT", liquidation_id="liq-x", fill_id="f")
            await fund.publish(topics.FILLS, fill, partition=1)
            async with asyncio.timeout(KNOWN_S + SLACK_S):
                await fund.until_entries(process, 4)
            process.send_signal(signal.SIGTERM)
            assert (await fund.ended(process)).code == 0
            await fund.assert_whole()

    async with asyncio.TaskGroup() as group:
        for change in (of_input, of_ledger, of_partitions):
            group.create_task(change())


async def test_topic_made_anew_and_longer_is_told_by_its_records(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(broker, prefix)
    async with open_fund(tmp_path, url) as fund:
        await fund.take_over()
        await _idle(fund)
        await _delete(broker, url, topics.FILLS)
        await fund.call("topics", "apply", "--replication", "1", "--input-days", "0")
        await fund.publish(topics.FILLS, *(b'{"fill_id": "%d"}' % n for n in range(10)))
        before = await fund.entries()
        ended = await fund.call("run", "--until-idle", code=1)
        assert ended.told.startswith(f"halted: {topics.FILLS}:0 offset 0 is not the record")
        assert await fund.entries() == before


async def test_records_deleted_unread_are_told_and_the_rest_is_read(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(broker, prefix)
    async with open_fund(tmp_path, url) as fund:
        process = await _running(fund, "--shard", "main")
        # It stands still while records come and go; what it has asked for gets the first of them.
        process.send_signal(signal.SIGSTOP)
        for names in (range(3), range(3, 6)):
            await fund.publish(topics.FUND_TRANSFERS, *(_deposit(f"d{n}") for n in names))
        await _delete_before(broker, url, topics.FUND_TRANSFERS, 6)
        process.send_signal(signal.SIGCONT)
        ended = await fund.ended(process)
        assert ended.code == 2
        assert re.search(r"begins at offset 6, offset [14] was deleted", ended.told)
        ended = await fund.call("run", "--until-idle")
        assert f"{topics.FUND_TRANSFERS}:0 begins at offset 6" in ended.err
        assert "lost to retention" in ended.err
        causes = [json.loads(line)["cause"] for line in await fund.entries()]
        read = [one["offset"] for one in causes if one.get("topic") == topics.FUND_TRANSFERS]
        assert read in ([0, 6], [0, 1, 2, 3, 6])
        await fund.call("verify")


@pytest.mark.parametrize("topic", [topics.DEAD_LETTERS, topics.FUND_LEDGER])
async def test_record_that_a_topic_refuses_waits_until_it_is_taken(
    broker: Cluster, prefix: str, tmp_path: Path, topic: str
) -> None:
    url = await _topics(broker, prefix)
    async with open_fund(tmp_path, url) as fund:
        process = await _running(fund, "--shard", "main")
        await _set(broker, url, topic, max_message_bytes="4000")
        await fund.take_over()
        await fund.publish(topics.FUND_TRANSFERS, b'{"memo": "%s"}' % (b"m" * 6000))
        ended = await fund.ended(process)
        assert ended.code == 2
        assert f"too large for topic {url.name(topic)}" in ended.told
        assert "raise its max.message.bytes" in ended.told
        # A start sees it before it takes the shard.
        ended = await fund.call("run", "--until-idle", code=2)
        assert f"{url.name(topic)}: max.message.bytes = 4000" in ended.told
        await _set(broker, url, topic)
        await _idle(fund)
        await fund.assert_whole()


async def test_too_few_replicas_end_the_service_and_it_goes_on_when_they_are_back(
    trio: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(trio, prefix)
    async with open_fund(tmp_path, url) as fund:
        process = await _running(fund, "--shard", "main")
        await _set(trio, url, topics.FUND_LEDGER, min_insync_replicas="3")
        leader = await trio.leader_of(url.name(topics.FUND_LEDGER))
        trio.kill((leader + 1) % 3)
        await fund.log.publish(topics.INSTRUMENTS, [NewRecord(0, b"key", b"{")])
        ended = await fund.ended(process, DEADLINE_S + 4 * SLACK_S)
        assert ended.code in (1, 75)
        assert "min.insync.replicas" in ended.told
        await trio.restore()
        await fund.take_over()
        await _idle(fund)
        await fund.assert_whole()


async def test_dead_broker_ends_idle_and_busy_services_in_time(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:

        async def fund_of(name: str) -> Fund:
            url = await _topics(broker, f"{prefix}.{name}")
            return await stack.enter_async_context(open_fund(tmp_path / name, url))

        idle, busy, host = [await fund_of(name) for name in ("idle", "busy", "host")]
        funds = {
            idle: await _running(idle, "--shard", "main"),
            busy: await _running(busy, "--shard", "main"),
            host: await _running(host),
        }
        await busy.take_over(200)
        broker.kill(0)
        in_time_s = KNOWN_S + DEADLINE_S + SLACK_S
        ends = await asyncio.gather(*(fund.ended(funds[fund], in_time_s) for fund in (idle, busy)))
        for ended in ends:
            assert ended.code in (1, 2)
            assert "no broker listens there" in ended.told
        funds[host].send_signal(signal.SIGTERM)
        ended = await host.ended(funds[host], DEADLINE_S + SLACK_S)
        assert ended.code == 0
        await broker.restore()
        await asyncio.gather(*(_idle(fund) for fund in funds))
        await busy.assert_whole()


async def test_hanging_broker_ends_every_command_in_time(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(broker, prefix)
    async with open_fund(tmp_path, url) as fund:
        (tmp_path / "deposit.ndjson").write_bytes(_deposit("d1") + b"\n")
        commands = [
            "status",
            "verify",
            "topics check",
            f"publish {topics.FUND_TRANSFERS} deposit.ndjson",
            "run --until-idle",
            "run",
        ]
        broker.pause(0)
        try:
            processes = [await fund.start(*command.split()) for command in commands]
            in_time_s = DEADLINE_S + SLACK_S
            ends = await asyncio.gather(*(fund.ended(one, in_time_s) for one in processes))
        finally:
            broker.resume(0)
        for ended in ends:
            assert ended.code == 2
            assert "does not answer" in ended.told


async def test_record_of_somebody_else_in_the_ledger_halts_and_is_named(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async def with_alien(name: str, changed: Callable[[dict[str, Any]], bytes | None]) -> None:
        url = await _topics(broker, f"{prefix}.{name}")
        async with open_fund(tmp_path / name, url) as fund:
            await fund.take_over()
            await _idle(fund)
            last = json.loads((await fund.entries())[-1])
            sequence = last["sequence"] + 1
            await _append_plainly(broker, url, changed({**last, "sequence": sequence}))
            before = len(await fund.entries())
            ended = await fund.call("run", "--until-idle", code=1)
            assert ended.told.startswith("halted: ")
            assert f"entry {sequence}" in ended.told
            ended = await fund.call("verify", code=1)
            assert str(sequence) in ended.out
            assert len(await fund.entries()) == before

    aliens: dict[str, Callable[[dict[str, Any]], bytes | None]] = {
        "json": lambda _: b'{"hello": "world"}',
        "other": lambda entry: orjson.dumps({**entry, "ledger": "other"}),
        "wrong": orjson.dumps,
        "null": lambda _: None,
    }
    async with asyncio.TaskGroup() as group:
        for name, changed in aliens.items():
            group.create_task(with_alien(name, changed))


async def _append_plainly(cluster: Cluster, url: KafkaUrl, value: bytes | None) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
        await producer.send_and_wait(url.name(topics.FUND_LEDGER), value, b"main", partition=0)


async def test_compressed_inputs_are_read(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    url = await _topics(broker, prefix)
    codecs = ["gzip", "snappy", "lz4", "zstd"]
    async with open_fund(tmp_path, url) as fund:
        for codec in codecs:
            producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec)
            async with producer:
                await producer.send_and_wait(
                    url.name(topics.FUND_TRANSFERS), _deposit(codec), partition=0
                )
        await _idle(fund)
        await fund.assert_whole()
        assert len(await fund.entries()) == 3 + len(codecs)


async def test_settings_of_topics_are_never_changed(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await _topics(broker, prefix)
    await _set(broker, url, topics.FILLS, retention_ms="86400001", segment_ms="7200000")
    before = await _settings_of(broker, url)
    async with open_fund(tmp_path, url) as fund:
        await fund.take_over()
        await _idle(fund)
        await fund.call("topics", "apply", "--replication", "1")
        await fund.call("topics", "check")
    assert await _settings_of(broker, url) == before
    rooms = [Path(place) for place in insurance_fund.streams.__path__]
    for file in (file for room in rooms for file in room.rglob("*.py")):
        assert not re.search(r"\.(incremental_)?alter_configs\(", file.read_text()), file


def _deposit(name: str) -> bytes:
    return record("fund_deposit", "USDT", transfer_id=name, amount="1", memo="m")
