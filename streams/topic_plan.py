"""The topics on Kafka, and how each is to be.

Nothing here asks a broker: `streams/topic_admin.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.kafka import RECORD_BYTES_MAX
from insurance_fund.streams.urls import KafkaUrl

DAY_MS: Final = 86_400_000
FOREVER: Final = "-1"
# As much as the producers ask for at most, so that no topic refuses what they send.
MESSAGE_BYTES: Final = 2 * RECORD_BYTES_MAX
# Only closed segments are compacted: small ones, closed soon, or old snapshots pile up.
SNAPSHOT_SEGMENT_MS: Final = 3_600_000
SNAPSHOT_SEGMENT_BYTES: Final = 64 * 1024 * 1024
ORDER_DAYS: Final = 7
DEAD_LETTER_DAYS: Final = 30

# Keyed by the liquidation, so that they may have several partitions.
KEYED_INPUTS: Final = (topics.LIQUIDATIONS, topics.FILLS)
# A shard's partition is its place in the settings.
SHARDED: Final = (topics.FUND_LEDGER, topics.FUND_SNAPSHOTS)
ALL_TOPICS: Final = (*topics.INPUT_TOPICS, *topics.OUTPUT_TOPICS, *SHARDED)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a plan follows from: the cluster's names, the shards, and what a person chose.

    `partitions` are those of `liquidations` and `fills`; `input_days` is how long inputs are kept,
    0 for ever; `renamed` says by our name how the exchange calls an input of its own, which no
    prefix stands in front of. Raises SettingsError for numbers that make no sense.
    """

    url: KafkaUrl
    shards: tuple[str, ...]
    partitions: int = 1
    replication: int = 3
    input_days: int = 7
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("partitions", 1), ("replication", 1), ("input_days", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def name(self, topic: str) -> str:
        """Return how a topic is called on the cluster."""
        return self.renamed.get(topic) or self.url.name(topic)

    @property
    def in_sync_min(self) -> int:
        """Return how many replicas must have a record: two at least, where there are two."""
        return max(min(2, self.replication), self.replication - 1)


@dataclass(frozen=True, slots=True)
class PlannedTopic:
    """A topic as it is to be; `topic` is our word for it, `name` what it is on the cluster."""

    topic: str
    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


class Difference(NamedTuple):
    """A setting of a topic that is not as planned."""

    name: str
    setting: str
    value: str
    planned: str


def plan_topics(layout: Layout) -> list[PlannedTopic]:
    """Return all topics as they are to be."""
    return [
        PlannedTopic(
            topic,
            layout.name(topic),
            _partitions(topic, layout),
            layout.replication,
            _settings(topic, layout),
        )
        for topic in ALL_TOPICS
    ]


def _partitions(topic: str, layout: Layout) -> int:
    if topic in SHARDED:
        return len(layout.shards)
    return layout.partitions if topic in KEYED_INPUTS else 1


def _settings(topic: str, layout: Layout) -> dict[str, str]:
    settings = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MESSAGE_BYTES),
        "message.timestamp.type": "CreateTime",
        "min.insync.replicas": str(layout.in_sync_min),
        "unclean.leader.election.enable": "false",
    }
    if topic == topics.FUND_SNAPSHOTS:
        return settings | {
            "cleanup.policy": "compact",
            "delete.retention.ms": str(SNAPSHOT_SEGMENT_MS),
            "min.cleanable.dirty.ratio": "0.1",
            "segment.bytes": str(SNAPSHOT_SEGMENT_BYTES),
            "segment.ms": str(SNAPSHOT_SEGMENT_MS),
        }
    if topic == topics.INSTRUMENTS:
        # Of an instrument only the newest terms count, and those for ever.
        settings["cleanup.policy"] = "compact"
    if topic in topics.INPUT_TOPICS:
        # A record may bear any time: what is wrong with it is told by the ledger, not by a broker
        # that does not take it.
        settings["message.timestamp.after.max.ms"] = str(2**63 - 1)
    return settings | {"retention.bytes": FOREVER, "retention.ms": _retention_ms(topic, layout)}


def _retention_ms(topic: str, layout: Layout) -> str:
    days = {
        topics.LIQUIDATION_ORDERS: ORDER_DAYS,
        topics.DEAD_LETTERS: DEAD_LETTER_DAYS,
        **dict.fromkeys(topics.INPUT_TOPICS, layout.input_days),
        topics.INSTRUMENTS: 0,
    }.get(topic, 0)
    return str(days * DAY_MS) if days else FOREVER


def differences(planned: PlannedTopic, settings: Mapping[str, str]) -> list[Difference]:
    """Return which settings of a topic are not as planned."""
    return [
        Difference(planned.name, setting, settings.get(setting, ""), value)
        for setting, value in sorted(planned.settings.items())
        if settings.get(setting) != value
    ]


def alter_command(bootstrap: str, name: str, settings: Mapping[str, str]) -> str:
    """Return the command by which a person sets some of a topic's settings and no other."""
    pairs = ",".join(f"{setting}={value}" for setting, value in settings.items())
    return (
        f"kafka-configs.sh {bootstrap} --alter --entity-type topics --entity-name {name} "
        f"--add-config {pairs}"
    )
