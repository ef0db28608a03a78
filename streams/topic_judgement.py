"""What a live cluster's settings endanger, judged against the topics as they are planned.

Nothing here asks a broker: `streams/topic_admin.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from insurance_fund.events import topics
from insurance_fund.streams.kafka import BATCH_BYTES, RECORD_BYTES_MAX
from insurance_fund.streams.kafka_access import TRANSACTION_MS
from insurance_fund.streams.topic_plan import DAY_MS, SHARDED, PlannedTopic

# Where brokers keep who may write as a transactional id.
TRANSACTION_STATE: Final = "__transaction_state"

_LEDGER: Final = frozenset({topics.FUND_LEDGER})
_INPUTS: Final = frozenset(topics.INPUT_TOPICS)
_OUTPUTS: Final = frozenset(topics.OUTPUT_TOPICS)
_MONEY: Final = _LEDGER | _OUTPUTS

Severity = Literal["danger", "warning"]


@dataclass(frozen=True, slots=True)
class DescribedTopic:
    """A topic as it is. `replication` is that of the partition with the fewest replicas.

    `settings` is None where this user may not see them.
    """

    partitions: int
    replication: int
    settings: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A setting of the live cluster that endangers a guarantee, and what to do about it.

    `planned` is the value that a plan has for a topic's setting, where it has one.
    """

    severity: Severity
    where: str
    setting: str
    value: str
    text: str
    planned: str | None = None

    @property
    def told(self) -> str:
        """Return it in one line."""
        return f"{self.where}: {self.setting} = {self.value}: {self.text}"


class _Rule(NamedTuple):
    """A setting, on which topics and when it endangers what."""

    setting: str
    topics: frozenset[str]
    is_wrong: Callable[[str], bool]
    severity: Severity
    text: str


def _finite(value: str) -> bool:
    return int(value) >= 0


def _compacted(value: str) -> bool:
    return "compact" in value


def _below(least: int) -> Callable[[str], bool]:
    return lambda value: int(value) < least


def _shorter_than_a_day(value: str) -> bool:
    return 0 <= int(value) < DAY_MS


_DELETED: Final = "the brokers delete ledger entries; auditors replay them years later"
_RULES: Final = (
    _Rule("retention.ms", _LEDGER, _finite, "danger", _DELETED),
    _Rule("retention.bytes", _LEDGER, _finite, "danger", _DELETED),
    _Rule("cleanup.policy", _LEDGER, _compacted, "danger", "compaction removes ledger entries"),
    _Rule(
        "cleanup.policy",
        _INPUTS - {topics.INSTRUMENTS},
        _compacted,
        "danger",
        "of records with one key all but the newest are dropped before they are read",
    ),
    _Rule(
        "cleanup.policy",
        _OUTPUTS,
        _compacted,
        "danger",
        "of messages with one key all but the newest are dropped before they are taken",
    ),
    _Rule(
        "cleanup.policy",
        frozenset({topics.FUND_SNAPSHOTS}),
        lambda value: value != "compact",
        "warning",
        "old snapshots pile up, or the newest is deleted and a start reads the whole ledger",
    ),
    _Rule(
        "unclean.leader.election.enable",
        _MONEY | _INPUTS,
        lambda value: value == "true",
        "danger",
        "a replica that is behind may become the leader: records that were there are gone, and "
        "their offsets are given to others",
    ),
    _Rule(
        "max.message.bytes",
        frozenset({topics.FUND_LEDGER, topics.DEAD_LETTERS}),
        _below(RECORD_BYTES_MAX),
        "danger",
        "an entry that does not fit ends the run, and each run after it",
    ),
    _Rule(
        "max.message.bytes",
        frozenset({topics.LIQUIDATION_ORDERS, topics.ADL_TRIGGERS}),
        _below(BATCH_BYTES),
        "danger",
        "a batch of messages that does not fit ends the run, and each run after it",
    ),
    _Rule(
        "max.message.bytes",
        frozenset({topics.FUND_SNAPSHOTS}),
        _below(BATCH_BYTES),
        "warning",
        "snapshots do not fit: a start reads the whole ledger",
    ),
    _Rule(
        "message.timestamp.type",
        _INPUTS,
        lambda value: value != "CreateTime",
        "warning",
        "records get the brokers' time: a recording published twice gives two different ledgers",
    ),
    _Rule(
        "retention.ms",
        _INPUTS,
        _shorter_than_a_day,
        "warning",
        "records are deleted unread when the service stands still for so long",
    ),
    _Rule(
        "retention.bytes",
        _INPUTS,
        _finite,
        "warning",
        "in a crash of the market records can be deleted before they are read",
    ),
    _Rule(
        "retention.ms",
        _OUTPUTS,
        _shorter_than_a_day,
        "warning",
        "messages are deleted when whoever takes them stands still for so long",
    ),
)

_ANYWHERE: Final = frozenset[str]()
_BROKER_RULES: Final = (
    _Rule(
        "transaction.max.timeout.ms",
        _ANYWHERE,
        _below(TRANSACTION_MS),
        "danger",
        f"no shard can be taken: its transactions ask for {TRANSACTION_MS} ms",
    ),
    _Rule(
        "transactional.id.expiration.ms",
        _ANYWHERE,
        _below(DAY_MS),
        "warning",
        "a shard that commits nothing for so long ends at its next commit and must start again",
    ),
    _Rule(
        "auto.create.topics.enable",
        _ANYWHERE,
        lambda value: value == "true",
        "warning",
        "a topic whose name is misspelt somewhere is made, with the brokers' own settings",
    ),
    _Rule(
        "transaction.partition.verification.enable",
        _ANYWHERE,
        lambda value: value == "false",
        "warning",
        "a write that comes late can hang behind a transaction that was given up, and readers "
        "wait for ever in front of it",
    ),
)
BROKER_SETTINGS: Final = tuple(rule.setting for rule in _BROKER_RULES)


def judge_topics(
    planned: Iterable[PlannedTopic], described: Mapping[str, DescribedTopic]
) -> list[Finding]:
    """Return what is wrong with the topics that are there, the dangers first."""
    found: list[Finding] = []
    for topic in planned:
        there = described.get(topic.name)
        if there is None:
            text = (
                "it is not there, or hidden from this user (ACL Describe): `insurance-fund topics "
                "apply` makes it"
            )
            found.append(Finding("danger", topic.name, "topic", "missing", text))
            continue
        found += _partition_findings(topic, there)
        found += _replica_findings(topic, there)
        if there.settings is None:
            found.append(unchecked(topic.name))
        else:
            found += _setting_findings(topic, there.settings)
    found += _transaction_state_findings(described)
    return dangers_first(found)


def judge_broker(name: str, settings: Mapping[str, str]) -> list[Finding]:
    """Return what is wrong with a broker's own settings."""
    return [
        Finding(rule.severity, name, rule.setting, settings[rule.setting], rule.text)
        for rule in _BROKER_RULES
        if rule.setting in settings and rule.is_wrong(settings[rule.setting])
    ]


def unchecked(where: str) -> Finding:
    """Return that somebody's settings could not be seen."""
    text = (
        "its settings could not be checked: this user may not see them (ACL DescribeConfigs); "
        "`insurance-fund topics check` of an operator sees them"
    )
    return Finding("warning", where, "settings", "hidden", text)


def dangers_first(found: Iterable[Finding]) -> list[Finding]:
    """Return findings in their order, the dangers in front of the warnings."""
    return sorted(found, key=lambda one: one.severity != "danger")


def _setting_findings(topic: PlannedTopic, settings: Mapping[str, str]) -> list[Finding]:
    return [
        Finding(
            rule.severity,
            topic.name,
            rule.setting,
            settings[rule.setting],
            rule.text,
            topic.settings.get(rule.setting),
        )
        for rule in _RULES
        if topic.topic in rule.topics
        and rule.setting in settings
        and rule.is_wrong(settings[rule.setting])
    ]


def _partition_findings(topic: PlannedTopic, there: DescribedTopic) -> list[Finding]:
    if topic.topic not in SHARDED or there.partitions == topic.partitions:
        return []
    if there.partitions < topic.partitions:
        text = (
            f"there are {topic.partitions} shards, each has a partition of its own: "
            "`insurance-fund topics apply` adds them"
        )
        severity: Severity = "danger" if topic.topic == topics.FUND_LEDGER else "warning"
    else:
        text = (
            f"there are {topic.partitions} shards in the settings: a ledger that was written "
            "before has no writer, or these are not the settings of this cluster"
        )
        severity = "warning"
    return [Finding(severity, topic.name, "partitions", str(there.partitions), text)]


def _replica_findings(topic: PlannedTopic, there: DescribedTopic) -> list[Finding]:
    found: list[Finding] = []
    if topic.topic == topics.FUND_LEDGER and there.replication == 1:
        text = "whoever loses the disk of one broker loses the ledger: keep exports elsewhere"
        found.append(Finding("warning", topic.name, "replication", "1", text))
    value = (there.settings or {}).get("min.insync.replicas")
    told = None if value is None else _in_sync_told(topic.topic, int(value), there.replication)
    if value is not None and told is not None:
        planned = topic.settings["min.insync.replicas"]
        found.append(Finding(told[0], topic.name, "min.insync.replicas", value, told[1], planned))
    return found


def _in_sync_told(topic: str, least: int, replication: int) -> tuple[Severity, str] | None:
    if topic == topics.FUND_SNAPSHOTS:
        return None
    if least > replication:
        return "danger", "more replicas must have a record than there are: nothing can be written"
    if replication == 1:
        return None
    if least == 1:
        return (
            "warning" if topic in _INPUTS else "danger",
            "a record counts as written when one broker has it: with that broker it is gone, "
            "though others have acted on it",
        )
    if least == replication:
        return "warning", "nothing can be written while one broker is down: add a replica"
    return None


def _transaction_state_findings(described: Mapping[str, DescribedTopic]) -> list[Finding]:
    # Whoever may not see it is told by nobody; operators may.
    there = described.get(TRANSACTION_STATE)
    most = max((t.replication for n, t in described.items() if n != TRANSACTION_STATE), default=0)
    if there is None or there.replication >= most:
        return []
    text = (
        f"it says who may write a shard and has fewer replicas than the topics ({most}): set "
        "transaction.state.log.replication.factor and add replicas with "
        "kafka-reassign-partitions.sh"
    )
    value = str(there.replication)
    return [Finding("warning", TRANSACTION_STATE, "replication", value, text)]


def unsafe(found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with which no shard may be run."""
    return [one for one in found if one.severity == "danger"]
