"""Topics of a real cluster: made as planned, left as others set them, and judged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition as KafkaPartition

from insurance_fund.events import topics
from insurance_fund.events.errors import LogUnavailableError
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import Credentials, KafkaAccess
from insurance_fund.streams.log import NewRecord, Outbound, TopicPartition
from insurance_fund.streams.topic_acls import OPERATOR, Grant, grants
from insurance_fund.streams.topic_admin import Applied, apply_layout, dangers, look
from insurance_fund.streams.topic_judgement import Finding, unsafe
from insurance_fund.streams.topic_plan import ALL_TOPICS, Layout, plan_topics
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.command import command_json, run_command
from tests.kafka.acls import Acl, Operation, Resource
from tests.kafka.cluster import Cluster
from tests.kafka.node import Runtime
from tests.kafka.ready import admin_of
from tests.kafka.security import PASSWORDS, SecureCluster
from tests.kafka.topics import make_topics

LEDGER = TopicPartition(topics.FUND_LEDGER, 0)
WEEK_MS = "604800000"


def _log(cluster: Cluster, prefix: str) -> tuple[str, str]:
    return "--log", f"kafka://{cluster.bootstrap}/{prefix}"


async def _settings(cluster: Cluster, names: Sequence[str]) -> dict[str, dict[str, str]]:
    async with admin_of(cluster.bootstrap) as admin:
        (answer,) = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
    return {resource[3]: {e[0]: e[1] for e in resource[4]} for resource in answer.resources}


async def _partitions(cluster: Cluster, prefix: str) -> dict[str, int]:
    async with admin_of(cluster.bootstrap) as admin:
        found = await admin.describe_topics()
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in found
        if topic["topic"].startswith(f"{prefix}.")
    }


async def _make(cluster: Cluster, name: str, settings: dict[str, str], partitions: int = 1) -> None:
    await cluster.make_topic(name, partitions, settings)


def _three_shards(folder: Path) -> None:
    text = '[shards]\nusdt = ["USDT"]\ncoins = ["BTC"]\nrest = ["ETH"]\n'
    (folder / "insurance-fund.toml").write_text(text)


async def test_what_is_planned_is_made_and_found_without_fault(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    at = (*_log(broker, prefix), "--replication", 1, "--partitions", 3)
    planned = command_json(tmp_path, "topics", "plan", *at)["topics"]
    done = command_json(tmp_path, "topics", "apply", *at)
    assert done["created"] == [topic["name"] for topic in planned]
    assert await _partitions(broker, prefix) == {t["name"]: t["partitions"] for t in planned}
    there = await _settings(broker, done["created"])
    for topic in planned:
        assert topic["settings"].items() <= there[topic["name"]].items()
    found = command_json(tmp_path, "topics", "check", *_log(broker, prefix))
    assert [(one["severity"], one["setting"]) for one in found] == [("warning", "replication")]


async def test_applying_twice_changes_nothing(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    at = (*_log(broker, prefix), "--replication", 1)
    names = command_json(tmp_path, "topics", "apply", *at)["created"]
    before = await _settings(broker, names)
    again = command_json(tmp_path, "topics", "apply", *at)
    assert again == {"created": [], "grown": {}, "differing": [], "unchecked": []}
    assert await _settings(broker, names) == before


async def test_settings_of_others_are_told_with_the_command_and_left_as_they_are(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    ledger, fills = f"{prefix}.fund-ledger", f"{prefix}.fills"
    await _make(broker, ledger, {"retention.ms": WEEK_MS, "segment.bytes": "2097152"})
    await _make(broker, fills, {"cleanup.policy": "compact"}, partitions=4)
    before = await _settings(broker, [ledger, fills])
    at = (*_log(broker, prefix), "--replication", 1)
    done = command_json(tmp_path, "topics", "apply", *at)
    assert await _settings(broker, [ledger, fills]) == before
    assert len(done["created"]) == len(ALL_TOPICS) - 2
    assert (await _partitions(broker, prefix))[fills] == 4
    told = {one["name"]: one for one in done["differing"]}
    assert set(told) == {ledger, fills}
    assert told[ledger]["settings"]["retention.ms"] == {"is": WEEK_MS, "planned": "-1"}
    assert "segment.bytes" not in told[ledger]["settings"]
    assert told[ledger]["command"].startswith(
        f"kafka-configs.sh --bootstrap-server {broker.bootstrap} --alter --entity-type topics "
        f"--entity-name {ledger} --add-config "
    )
    shown = run_command(tmp_path, "topics", "apply", *at).stdout
    assert f"{ledger}: " in shown
    assert f"retention.ms = {WEEK_MS} (planned -1)" in shown


async def test_check_ends_with_1_where_the_ledger_would_be_deleted(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    await _make(broker, f"{prefix}.fund-ledger", {"retention.ms": WEEK_MS})
    await make_topics(broker.bootstrap, prefix)
    shown = run_command(tmp_path, "topics", "check", *_log(broker, prefix), code=1).stdout
    assert f"danger {prefix}.fund-ledger: retention.ms = {WEEK_MS}: " in shown
    assert f"--entity-name {prefix}.fund-ledger --add-config retention.ms=-1" in shown
    found = command_json(tmp_path, "topics", "check", *_log(broker, prefix), code=1)
    assert ("danger", "retention.ms") in [(one["severity"], one["setting"]) for one in found]


async def test_missing_topics_are_dangers(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    found = command_json(tmp_path, "topics", "check", *_log(broker, prefix), code=1)
    assert {one["where"] for one in found} == {f"{prefix}.{topic}" for topic in ALL_TOPICS}
    assert {one["severity"] for one in found} == {"danger"}


async def test_asking_makes_no_topic_where_brokers_would_make_one(
    runtime: Runtime, tmp_path: Path
) -> None:
    properties = {
        "auto.create.topics.enable": "true",
        "transaction.partition.verification.enable": "false",
    }
    cluster = Cluster(runtime, tmp_path / "cluster", properties=properties)
    try:
        await cluster.start()
        found = command_json(tmp_path, "topics", "check", *_log(cluster, "new"), code=1)
        assert await _partitions(cluster, "new") == {}
    finally:
        cluster.stop()
    brokers = {(one["severity"], one["setting"]) for one in found if one["where"] == "broker 0"}
    assert brokers == {
        ("warning", "auto.create.topics.enable"),
        ("warning", "transaction.partition.verification.enable"),
    }


async def test_new_shards_get_their_partitions(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    await make_topics(broker.bootstrap, prefix)
    _three_shards(tmp_path)
    found = command_json(tmp_path, "topics", "check", *_log(broker, prefix), code=1)
    assert (f"{prefix}.fund-ledger", "partitions") in [(o["where"], o["setting"]) for o in found]
    at = (*_log(broker, prefix), "--replication", 1)
    done = command_json(tmp_path, "topics", "apply", *at)
    sharded = [f"{prefix}.fund-ledger", f"{prefix}.fund-snapshots"]
    assert done["grown"] == {name: {"from": 1, "to": 3} for name in sharded}
    partitions = await _partitions(broker, prefix)
    assert [partitions[name] for name in sharded] == [3, 3]
    command_json(tmp_path, "topics", "check", *_log(broker, prefix))


async def test_ledger_whose_first_entries_were_deleted_is_a_danger(
    broker: Cluster, prefix: str
) -> None:
    url = await make_topics(broker.bootstrap, prefix)
    access = KafkaAccess(url)
    log = KafkaLog(access)
    try:
        await log.publish(topics.FUND_LEDGER, [NewRecord(0, None, b"{}")] * 3)
    finally:
        await log.close()
    async with admin_of(broker.bootstrap) as admin:
        partition = KafkaPartition(url.name(topics.FUND_LEDGER), 0)
        await admin.delete_records({partition: RecordsToDelete(before_offset=2)})
    (found,) = unsafe(await look(access, Layout(url, ("main",))))
    assert (found.setting, found.value) == ("first offset", "2")


async def test_more_replicas_than_brokers_are_refused_with_what_to_do(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    at = (*_log(broker, prefix), "--replication", 9)
    told = run_command(tmp_path, "topics", "apply", *at, code=2).stderr
    assert "there are not enough brokers: give a lower --replication" in told
    assert await _partitions(broker, prefix) == {}


async def test_topic_of_the_exchange_is_neither_made_nor_compared(
    broker: Cluster, prefix: str
) -> None:
    url = KafkaUrl(tuple(broker.bootstrap.split(",")), prefix)
    theirs = f"{prefix}.executions"
    layout = Layout(url, ("main",), replication=1, renamed={topics.FILLS: theirs})
    with pytest.raises(LogUnavailableError, match=rf"{theirs} \(inputs\.fills\)"):
        await apply_layout(KafkaAccess(url), layout)
    assert len(await _partitions(broker, prefix)) == len(ALL_TOPICS) - 1
    await _make(broker, theirs, {"cleanup.policy": "compact"})
    assert await apply_layout(KafkaAccess(url), layout) == Applied()
    (danger,) = unsafe(await look(KafkaAccess(url), layout))
    assert (danger.where, danger.setting) == (theirs, "cleanup.policy")


@pytest.mark.parametrize("command", ["plan", "apply", "check"])
def test_file_needs_no_topics(tmp_path: Path, command: str) -> None:
    told = run_command(tmp_path, "topics", command, "--log", "sqlite:log.db", code=2).stderr
    assert "a file makes its topics by itself" in told
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize("command", ["apply", "check"])
def test_cluster_that_is_not_there_is_told(tmp_path: Path, command: str) -> None:
    told = run_command(tmp_path, "topics", command, "--log", "kafka://127.0.0.1:1", code=2).stderr
    assert "no broker listens there" in told


async def test_topics_are_made_though_a_broker_has_just_died(trio: Cluster, prefix: str) -> None:
    trio.kill(0)
    url = await make_topics(trio.bootstrap, prefix, replication=3)
    assert unsafe(await look(KafkaAccess(url), Layout(url, ("shard-0",)))) == []
    log = KafkaLog(KafkaAccess(url))
    try:
        await log.take("shard-0")
        await log.commit(LEDGER, [NewRecord(0, b"k", b"v")], [])
    finally:
        await log.close()


def _access(secured: SecureCluster, prefix: str, user: str) -> KafkaAccess:
    return KafkaAccess(
        KafkaUrl((secured.scram,), prefix),
        Credentials(
            security="sasl_ssl",
            username=user,
            password=PASSWORDS[user],
            ca_file=secured.ca_file,
        ),
    )


def _acls(granted: Sequence[Grant], user: str) -> list[Acl]:
    """Returns what is printed for people as what the tests' cluster takes."""
    operations = {"DescribeConfigs": "describe_configs"}
    return [
        Acl(
            user,
            cast("Resource", grant.resource.replace("-", "_")),
            name,
            cast("Operation", operations.get(operation, operation.lower())),
        )
        for grant in granted
        for operation in grant.operations
        for name in grant.names or ("kafka-cluster",)
    ]


async def test_acls_of_the_operator_are_enough_to_apply_and_to_check(
    secured: SecureCluster, prefix: str
) -> None:
    access = _access(secured, prefix, "stranger")
    layout = Layout(access.url, ("usdt",), replication=1)
    with pytest.raises(LogUnavailableError, match="this user may not do that"):
        await apply_layout(access, layout)
    granted = [grant for grant in grants(layout) if grant.user == OPERATOR]
    await secured.grant(*_acls(granted, "stranger"))
    assert len((await apply_layout(access, layout)).created) == len(ALL_TOPICS)
    more = Layout(access.url, ("usdt", "coins"), replication=1)
    assert len((await apply_layout(access, more)).grown) == 2
    assert [one.setting for one in await look(access, more)] == ["replication"]


async def test_acls_of_the_service_are_enough_to_run(
    secured: SecureCluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    access = _access(secured, prefix, "fund")
    layout = await _made(secured, prefix)
    granted = [grant for grant in grants(layout, service="fund") if grant.user == "fund"]
    await secured.grant(*_acls(granted, "fund"))
    assert await _dangers(access, layout, caplog) == ([], {"replication"})
    log = KafkaLog(access)
    try:
        await log.take("main")
        sent = [Outbound(topic, NewRecord(0, b"k", b"v")) for topic in topics.OUTPUT_TOPICS]
        await log.commit(LEDGER, [NewRecord(0, b"k", b"v")], sent)
        await log.publish(topics.FUND_SNAPSHOTS, [NewRecord(0, b"k", b"v")])
        for topic in (*topics.INPUT_TOPICS, topics.FUND_LEDGER, topics.FUND_SNAPSHOTS):
            await log.read(TopicPartition(topic, 0), 0, 1)
        with pytest.raises(LogUnavailableError, match="may not write topic"):
            await log.publish(topics.FILLS, [NewRecord(0, b"k", b"v")])
    finally:
        await log.close()


async def test_service_that_may_not_see_settings_runs_and_says_so(
    secured: SecureCluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    access = _access(secured, prefix, "fund")
    layout = await _made(secured, prefix, without=topics.FILLS)
    names = [topic.name for topic in plan_topics(layout)]
    await secured.grant(*(Acl("fund", "topic", name, "describe") for name in names))
    found, warned = await _dangers(access, layout, caplog)
    assert [(one.where, one.value) for one in found] == [(layout.name(topics.FILLS), "missing")]
    assert warned == {"replication", "settings"}
    hidden = [r for r in caplog.records if "could not be checked" in r.getMessage()]
    assert len(hidden) == len(ALL_TOPICS) - 1


async def _made(secured: SecureCluster, prefix: str, without: str = "") -> Layout:
    url = await make_topics(secured.cluster.bootstrap, prefix, shards=["main"])
    if without:
        async with admin_of(secured.cluster.bootstrap) as admin:
            await admin.delete_topics([url.name(without)])
    return Layout(url, ("main",))


async def _dangers(
    access: KafkaAccess, layout: Layout, caplog: pytest.LogCaptureFixture
) -> tuple[list[Finding], set[str]]:
    """Returns the dangers, and which settings were warned of."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="insurance_fund.streams.topic_admin"):
        found = await dangers(access, layout)
    ours = [r for r in caplog.records if r.name == "insurance_fund.streams.topic_admin"]
    return found, {r.getMessage().partition(" = ")[0].rpartition(" ")[2] for r in ours}
