"""The log port: what the fund asks of an event bus. Adapters pass one contract suite.

A topic-partition is an append-only sequence of records whose offsets rise but may have holes. All
times are milliseconds. Readers see committed records only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


class Record(NamedTuple):
    """A record as it stands in the log."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Batch(NamedTuple):
    """Records in order of their offsets, and the offset to read on from (behind any holes)."""

    records: Sequence[Record]
    next_offset: int


class NewRecord(NamedTuple):
    """A record to be appended; headers are (name, value) pairs.

    `timestamp_ms` is given where the time of the event is known and is to be the record's own, so
    that a recording published twice gives the same records; else it is the time of the append.
    """

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None


class LogReader(Protocol):
    """The reader side of a log."""

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising; empty where the topic does not exist."""
        ...

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record that is retained."""
        ...

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the offset that the next record will have at least (the high watermark)."""
        ...

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return up to `records_max` committed records from `offset` on, none at the end.

        Large records may end a read earlier, so that memory has a bound.

        Raises LogUnavailableError for an offset that is no longer, or not yet, in the log.
        """
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return when something may have been appended, at the latest after `timeout_s`.

        What counts are the partitions that were read since the wait before.
        """
        ...

    async def close(self) -> None:
        """Let go of the log."""
        ...


class LogWriter(LogReader, Protocol):
    """The writer side: one writer a shard, the newest wins."""

    async def take(self, shard: str) -> None:
        """Become the writer of a shard: older writers of it can no longer commit."""
        ...

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        """Append entries and outgoing messages in one atomic transaction.

        Raises FencedError where a newer writer took the shard, CommitUnknownError where it cannot
        be told whether the transaction happened.
        """
        ...


class Outbound(NamedTuple):
    """A message to be committed together with entries."""

    topic: str
    record: NewRecord


class LogPublisher(Protocol):
    """Appends outside of a shard's transactions: input records, and snapshots."""

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic, making the partition where the adapter can."""
        ...


def by_partition(
    records: Iterable[tuple[str, NewRecord]],
) -> dict[TopicPartition, list[NewRecord]]:
    """Group records, each with its topic, by the partition they go to, keeping their order."""
    groups: dict[TopicPartition, list[NewRecord]] = {}
    for topic, record in records:
        groups.setdefault(TopicPartition(topic, record.partition), []).append(record)
    return groups
