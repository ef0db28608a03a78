"""What topics are to be like, and what is found where they are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.topic_acls import OPERATOR, VIEWS, Grant, grants
from insurance_fund.streams.topic_judgement import (
    TRANSACTION_STATE,
    DescribedTopic,
    Finding,
    judge_broker,
    judge_topics,
    unsafe,
)
from insurance_fund.streams.topic_plan import (
    ALL_TOPICS,
    Difference,
    Layout,
    PlannedTopic,
    alter_command,
    differences,
    plan_topics,
)
from insurance_fund.streams.urls import KafkaUrl
from insurance_fund.workers import PROJECTIONS, WEBHOOK

URL = KafkaUrl(("localhost:9092",))
DAY_MS = 86_400_000
SAFE_BROKER = {
    "transaction.max.timeout.ms": "900000",
    "transactional.id.expiration.ms": "604800000",
    "auto.create.topics.enable": "false",
    "transaction.partition.verification.enable": "true",
}


def _layout(*shards: str, replication: int = 3) -> Layout:
    return Layout(URL, shards or ("main",), replication=replication)


def _as_planned(layout: Layout) -> dict[str, DescribedTopic]:
    return {
        topic.name: DescribedTopic(topic.partitions, topic.replication, topic.settings)
        for topic in plan_topics(layout)
    }


def _planned(layout: Layout, topic: str) -> PlannedTopic:
    return next(planned for planned in plan_topics(layout) if planned.topic == topic)


def _found(layout: Layout, topic: str, **changed: Any) -> list[Finding]:
    described = _as_planned(layout)
    described[topic] = replace(described[topic], **changed)
    return judge_topics(plan_topics(layout), described)


def _found_with(topic: str, setting: str, value: str) -> list[Finding]:
    layout = _layout()
    settings = {**_planned(layout, topic).settings, setting: value}
    return _found(layout, topic, settings=settings)


@pytest.mark.parametrize("replication", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shards", [("main",), ("usdt", "coins", "rest")])
def test_what_is_as_planned_is_not_dangerous(replication: int, shards: tuple[str, ...]) -> None:
    layout = _layout(*shards, replication=replication)
    assert unsafe(judge_topics(plan_topics(layout), _as_planned(layout))) == []


def test_what_is_planned_for_three_brokers_is_not_even_worth_a_warning() -> None:
    layout = _layout()
    assert judge_topics(plan_topics(layout), _as_planned(layout)) == []


def test_plan_has_every_topic_under_its_name_on_the_cluster() -> None:
    planned = plan_topics(Layout(KafkaUrl(URL.brokers, "live"), ("main",)))
    assert [topic.topic for topic in planned] == list(ALL_TOPICS)
    assert [topic.name for topic in planned] == [f"live.{topic}" for topic in ALL_TOPICS]


def test_topic_of_the_exchange_keeps_its_name() -> None:
    layout = Layout(KafkaUrl(URL.brokers, "live"), ("main",), renamed={"fills": "executions"})
    assert layout.name("fills") == "executions"
    assert ("exchange", "executions") in _with("Write", grants(layout))
    assert ("insurance-fund", "executions") in _with("Read", grants(layout))


def test_ledger_and_snapshots_have_a_partition_for_each_shard() -> None:
    layout = Layout(URL, ("usdt", "coins", "rest"), partitions=8)
    partitions = {topic.topic: topic.partitions for topic in plan_topics(layout)}
    assert partitions == {
        "instruments": 1,
        "fund-transfers": 1,
        "liquidations": 8,
        "fills": 8,
        "liquidation-orders": 1,
        "adl-triggers": 1,
        "dead-letters": 1,
        "fund-ledger": 3,
        "fund-snapshots": 3,
    }


def test_nothing_ever_takes_an_entry_out_of_the_ledger() -> None:
    settings = _planned(_layout(), topics.FUND_LEDGER).settings
    assert settings["cleanup.policy"] == "delete"
    assert (settings["retention.ms"], settings["retention.bytes"]) == ("-1", "-1")


def test_of_instruments_the_newest_is_kept_for_ever() -> None:
    settings = _planned(Layout(URL, ("main",), input_days=3), topics.INSTRUMENTS).settings
    assert (settings["cleanup.policy"], settings["retention.ms"]) == ("compact", "-1")


def test_inputs_are_kept_for_the_days_that_are_asked_for() -> None:
    def kept_ms(topic: str, days: int) -> str:
        return _planned(Layout(URL, ("main",), input_days=days), topic).settings["retention.ms"]

    assert kept_ms(topics.FILLS, 3) == str(3 * DAY_MS)
    assert kept_ms(topics.FILLS, 0) == "-1"


@pytest.mark.parametrize("name", ["partitions", "replication", "input_days"])
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    changed: dict[str, Any] = {name: -1}
    with pytest.raises(SettingsError, match=name):
        replace(_layout(), **changed)


@pytest.mark.parametrize(
    ("topic", "setting", "value", "severity"),
    [
        ("fund-ledger", "retention.ms", "31536000000", "danger"),
        ("fund-ledger", "retention.ms", "0", "danger"),
        ("fund-ledger", "retention.bytes", "1073741824", "danger"),
        ("fund-ledger", "cleanup.policy", "compact", "danger"),
        ("fund-ledger", "cleanup.policy", "compact,delete", "danger"),
        ("fund-ledger", "max.message.bytes", "1048588", "danger"),
        ("fund-ledger", "unclean.leader.election.enable", "true", "danger"),
        ("fund-ledger", "min.insync.replicas", "1", "danger"),
        ("fund-ledger", "min.insync.replicas", "3", "warning"),
        ("fund-ledger", "min.insync.replicas", "4", "danger"),
        ("fills", "cleanup.policy", "compact", "danger"),
        ("liquidations", "cleanup.policy", "delete,compact", "danger"),
        ("fills", "unclean.leader.election.enable", "true", "danger"),
        ("fills", "message.timestamp.type", "LogAppendTime", "warning"),
        ("fills", "retention.ms", "3600000", "warning"),
        ("fills", "retention.bytes", "1073741824", "warning"),
        ("fills", "min.insync.replicas", "1", "warning"),
        ("liquidation-orders", "cleanup.policy", "compact", "danger"),
        ("liquidation-orders", "min.insync.replicas", "1", "danger"),
        ("liquidation-orders", "retention.ms", "3600000", "warning"),
        ("adl-triggers", "unclean.leader.election.enable", "true", "danger"),
        ("adl-triggers", "max.message.bytes", "100000", "danger"),
        ("dead-letters", "max.message.bytes", "1048588", "danger"),
        ("fund-snapshots", "cleanup.policy", "delete", "warning"),
        ("fund-snapshots", "cleanup.policy", "compact,delete", "warning"),
        ("fund-snapshots", "max.message.bytes", "100000", "warning"),
    ],
)
def test_setting_that_endangers_a_guarantee_is_found(
    topic: str, setting: str, value: str, severity: str
) -> None:
    (found,) = _found_with(topic, setting, value)
    assert (found.severity, found.where, found.setting, found.value) == (
        severity,
        topic,
        setting,
        value,
    )
    assert found.planned == _planned(_layout(), topic).settings[setting]


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        ("fills", "retention.ms", "-1"),
        ("fills", "retention.ms", str(DAY_MS)),
        ("fills", "max.message.bytes", "1048588"),
        ("fund-snapshots", "min.insync.replicas", "1"),
        ("fund-snapshots", "unclean.leader.election.enable", "true"),
        ("fund-ledger", "segment.bytes", "1048576"),
    ],
)
def test_setting_that_endangers_nothing_is_left_to_whoever_set_it(
    topic: str, setting: str, value: str
) -> None:
    assert _found_with(topic, setting, value) == []


def test_missing_topic_is_dangerous() -> None:
    layout = _layout()
    described = _as_planned(layout)
    del described[topics.FILLS]
    (found,) = judge_topics(plan_topics(layout), described)
    assert (found.severity, found.where, found.value) == ("danger", topics.FILLS, "missing")


def test_shard_without_a_partition_of_the_ledger_is_dangerous() -> None:
    (found,) = _found(_layout("usdt", "coins"), topics.FUND_LEDGER, partitions=1)
    assert (found.severity, found.setting, found.value) == ("danger", "partitions", "1")


@pytest.mark.parametrize(
    ("topic", "partitions"), [(topics.FUND_LEDGER, 3), (topics.FUND_SNAPSHOTS, 1)]
)
def test_other_partitions_than_shards_are_worth_a_warning(topic: str, partitions: int) -> None:
    (found,) = _found(_layout("usdt", "coins"), topic, partitions=partitions)
    assert (found.severity, found.setting) == ("warning", "partitions")


def test_exchange_may_have_as_many_partitions_of_its_topics_as_it_likes() -> None:
    assert _found(_layout(), topics.FILLS, partitions=64) == []


def test_single_replica_of_the_ledger_is_worth_a_warning() -> None:
    layout = _layout(replication=1)
    (found,) = judge_topics(plan_topics(layout), _as_planned(layout))
    assert (found.severity, found.where, found.setting) == (
        "warning",
        topics.FUND_LEDGER,
        "replication",
    )


def test_settings_that_are_hidden_are_told_and_do_not_stand_in_the_way() -> None:
    found = _found(_layout(), topics.FUND_LEDGER, settings=None)
    assert [(one.severity, one.value) for one in found] == [("warning", "hidden")]


def test_hidden_settings_do_not_hide_that_partitions_are_missing() -> None:
    found = _found(_layout("usdt", "coins"), topics.FUND_LEDGER, settings=None, partitions=1)
    assert [(one.severity, one.setting) for one in found] == [
        ("danger", "partitions"),
        ("warning", "settings"),
    ]


def test_transactions_with_fewer_replicas_than_the_ledger_are_worth_a_warning() -> None:
    layout = _layout()

    def found(replication: int) -> list[Finding]:
        there = {TRANSACTION_STATE: DescribedTopic(50, replication, None), **_as_planned(layout)}
        return judge_topics(plan_topics(layout), there)

    assert found(3) == []
    assert [(one.severity, one.where) for one in found(1)] == [("warning", TRANSACTION_STATE)]


def test_safe_broker_gives_no_finding() -> None:
    assert judge_broker("broker 1", SAFE_BROKER) == []


@pytest.mark.parametrize(
    ("setting", "value", "severity"),
    [
        ("transaction.max.timeout.ms", "19999", "danger"),
        ("transactional.id.expiration.ms", "3600000", "warning"),
        ("auto.create.topics.enable", "true", "warning"),
        ("transaction.partition.verification.enable", "false", "warning"),
    ],
)
def test_broker_setting_that_endangers_a_guarantee_is_found(
    setting: str, value: str, severity: str
) -> None:
    (found,) = judge_broker("broker 1", {**SAFE_BROKER, setting: value})
    assert (found.severity, found.where, found.setting) == (severity, "broker 1", setting)


def test_dangers_come_before_warnings() -> None:
    layout = _layout()
    described = _as_planned(layout)
    for topic, setting, value in (
        ("fills", "retention.bytes", "1"),
        ("fund-ledger", "retention.ms", "1"),
    ):
        settings = {**_planned(layout, topic).settings, setting: value}
        described[topic] = replace(described[topic], settings=settings)
    found = judge_topics(plan_topics(layout), described)
    assert [one.severity for one in found] == ["danger", "warning"]


def test_command_sets_what_differs_and_nothing_else() -> None:
    planned = _planned(_layout(), topics.FUND_LEDGER)
    there = {**planned.settings, "retention.ms": "604800000", "compression.type": "zstd"}
    assert differences(planned, there) == [
        Difference("fund-ledger", "retention.ms", "604800000", "-1")
    ]
    assert alter_command("--bootstrap-server b:1", planned.name, {"retention.ms": "-1"}) == (
        "kafka-configs.sh --bootstrap-server b:1 --alter --entity-type topics "
        "--entity-name fund-ledger --add-config retention.ms=-1"
    )


def _with(operation: str, granted: list[Grant]) -> set[tuple[str, str]]:
    return {
        (grant.user, name)
        for grant in granted
        if operation in grant.operations
        for name in grant.names or (grant.resource,)
    }


def test_only_the_service_may_write_what_it_writes() -> None:
    url = KafkaUrl(URL.brokers, "live")
    writes = _with("Write", grants(Layout(url, ("usdt", "coins")), service="fund"))
    inputs = {("exchange", f"live.{topic}") for topic in topics.INPUT_TOPICS}
    own = {
        *(("fund", f"live.{t}") for t in ALL_TOPICS if t not in topics.INPUT_TOPICS),
        ("fund", "live.insurance-fund.usdt"),
        ("fund", "live.insurance-fund.coins"),
    }
    assert writes == inputs | own


def test_only_the_operator_makes_topics_and_nobody_deletes_them_or_sets_anything() -> None:
    granted = grants(_layout())
    assert {user for user, _ in _with("Create", granted)} == {OPERATOR}
    assert _with("Alter", granted) == {(OPERATOR, "fund-ledger"), (OPERATOR, "fund-snapshots")}
    for operation in ("All", "Delete", "AlterConfigs", "ClusterAction"):
        assert _with(operation, granted) == set()


def test_workers_read_the_ledger_and_the_groups_by_which_they_share_it_out() -> None:
    granted = grants(_layout(), webhooks=["desk"])
    reads = {name for user, name in _with("Read", granted) if user == VIEWS}
    assert reads == {topics.FUND_LEDGER, PROJECTIONS, f"{WEBHOOK}.desk"}


def test_service_may_not_read_what_it_sends() -> None:
    reads = {name for user, name in _with("Read", grants(_layout())) if user == "insurance-fund"}
    assert reads == {
        *topics.INPUT_TOPICS,
        topics.FUND_LEDGER,
        topics.FUND_SNAPSHOTS,
        "insurance-fund",
        *(f"insurance-fund.{shard}" for shard in _layout().shards),
    }


def test_grant_is_told_as_a_command_of_kafka() -> None:
    grant = Grant("service", "fund", ("Read", "Write"), "topic", ("fund-ledger", "fund-snapshots"))
    assert grant.command("--bootstrap-server b:1") == (
        "kafka-acls.sh --bootstrap-server b:1 --add --allow-principal User:fund "
        "--operation Read --operation Write --topic fund-ledger --topic fund-snapshots"
    )
    cluster = Grant("operator", "op", ("DescribeConfigs",), "cluster")
    assert cluster.command("--bootstrap-server b:1").endswith("DescribeConfigs --cluster")
