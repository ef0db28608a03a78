"""What a host and its children tell those who watch them, on a real broker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from insurance_fund.events import topics
from insurance_fund.streams.kafka_access import KafkaAccess
from tests.embedded.watched import (
    HOST_METRICS,
    ask,
    free_ports,
    ready,
    scrape,
    until,
    until_listening,
    until_ready,
)
from tests.kafka.cluster import Cluster
from tests.kafka.fund import Fund, open_fund
from tests.kafka.topics import make_topics

SHARDS = ("main", "coins")
FILL = b'{"type": "fill", "fill_id": "of-nobody", "liquidation_id": "liq-9"}'


@asynccontextmanager
async def fund_of(folder: Path, broker: Cluster, prefix: str, port: int) -> AsyncIterator[Fund]:
    folder.joinpath("insurance-fund.toml").write_text(
        '[shards]\nmain = ["USDT", "USDC"]\ncoins = ["XBT", "BTC", "ETH"]\n', encoding="utf-8"
    )
    url = await make_topics(broker.bootstrap, prefix, SHARDS)
    async with open_fund(folder, url, {"METRICS_PORT": str(port)}) as fund:
        yield fund


def child_of(pid: int, shard: str) -> int:
    """Return the process id of a supervisor's child."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if "--shard" in words and words[words.index("--shard") + 1] == shard:
                return int(child)
    raise LookupError(shard)


async def test_supervisor_and_children_tell_of_themselves_at_ports_in_a_row(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    port = free_ports(3)
    async with fund_of(tmp_path, broker, prefix, port) as fund:
        process = await fund.start("run")
        await until_listening(port)
        # Standing by, or waiting for the shards: never ready before it has been given some.
        was_ready, missing = await ready(port)
        assert not was_ready
        assert missing
        await until_ready(port)
        for number, shard in enumerate(SHARDS):
            assert await ready(port + 1 + number) == (True, [])
            told = await scrape(port + 1 + number)
            assert told.labels("shard_ready") == [{"ledger": shard}]
        told = await scrape(port)
        assert told.names >= HOST_METRICS
        for shard in SHARDS:
            assert told.value("shard_assigned", ledger=shard) == 1
            assert told.value("child_up", ledger=shard) == 1
            assert told.value("child_restarts_total", ledger=shard) == 0

        await fund.take_over(3)
        await until(lambda: _has_written(port + 1, 10))
        told = await scrape(port + 1)
        assert told.value("transaction_duration_seconds_count") > 0
        assert told.value("input_to_commit_seconds_count") > 0

        os.kill(child_of(process.pid, "main"), signal.SIGKILL)
        await until(lambda: _has_restarted(port))
        await until_ready(port)
        assert (await scrape(port)).value("child_restarts_total", ledger="coins") == 0
        # It has read back what the one before it wrote.
        again = await scrape(port + 1)
        assert again.value("chain_verified_sequence") >= 10
        process.send_signal(signal.SIGTERM)
        assert (await fund.ended(process)).code == 0


async def _has_written(port: int, entries: int) -> bool:
    return (await scrape(port)).value("entries_written_total") >= entries


async def _has_restarted(port: int) -> bool:
    return (await scrape(port)).value("child_restarts_total", ledger="main") == 1


async def test_lag_of_what_nobody_may_read_yet_is_counted_and_its_age_is_not_told(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    port = free_ports(1)
    async with fund_of(tmp_path, broker, prefix, port) as fund:
        process = await fund.start("run", "--shard", "main", "--shard", "coins")
        await until_ready(port)
        fills = {"ledger": "main", "topic": "fills", "partition": 0}

        async def lag() -> tuple[float | None, float | None]:
            told = await scrape(port)
            return told.get("input_lag_records", **fills), told.get("input_lag_seconds", **fills)

        async def is_read() -> bool:
            return await lag() == (0, 0)

        async def is_behind() -> bool:
            records, seconds = await lag()
            return records is not None and records > 0 and seconds is None

        await until(is_read)
        producer = AIOKafkaProducer(
            **KafkaAccess(fund.url).options(), transactional_id=f"{prefix}.somebody"
        )
        await producer.start()
        try:
            async with producer.transaction():
                await producer.send_and_wait(fund.url.name(topics.FILLS), FILL)
                await until(is_behind)
            await until(is_read)
        finally:
            await producer.stop()
        process.send_signal(signal.SIGTERM)
        assert (await fund.ended(process)).code == 0


async def test_children_of_one_host_whose_port_is_in_use_are_told_by_it(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    port = free_ports(3)
    async with fund_of(tmp_path, broker, prefix, port) as fund:
        server = await asyncio.start_server(
            lambda _reader, writer: writer.close(), "127.0.0.1", port
        )
        try:
            ended = await fund.call("run", code=2)
            assert f"metrics cannot be served at 127.0.0.1:{port}: " in ended.told
        finally:
            server.close()
            await server.wait_closed()
        server = await asyncio.start_server(
            lambda _reader, writer: writer.close(), "127.0.0.1", port + 2
        )
        process = await fund.start("run")
        try:
            await fund.said(process, f"metrics cannot be served at 127.0.0.1:{port + 2}: ")
            answer = await ask(port, "/readyz")
            assert answer.status_code == 503
        finally:
            server.close()
            await server.wait_closed()
        # As soon as the port is free the child runs.
        await until_ready(port)
        assert (await scrape(port)).value("child_restarts_total", ledger="coins") >= 1
