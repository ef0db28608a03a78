"""The simulated broker: topics in memory, as Kafka keeps them, in virtual time.

Records of a transaction stand in the log before it ends: readers see neither them nor what comes
behind them until it is committed, and never what was aborted. With `holes` every end of a
transaction takes an offset of its own, as Kafka's markers do; without, offsets have no holes.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.errors import FencedError, LogUnavailableError
from insurance_fund.streams.log import Batch, NewRecord, Record, TopicPartition


class VirtualClock:
    """A clock that stands where it is put; `skew_ms` is what the wall clock is wrong by."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self.skew_ms = 0

    def wall_ms(self) -> int:
        """Return the virtual time of day, milliseconds since 1970 UTC."""
        return self.now_ms + self.skew_ms

    def monotonic_ms(self) -> int:
        """Return the virtual time, in milliseconds."""
        return self.now_ms


class Appended(NamedTuple):
    """A record with its headers."""

    record: Record
    headers: Sequence[tuple[str, bytes]]


class _Partition:
    """Committed records by offset; what is open or aborted has taken offsets all the same."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.committed: list[Appended] = []
        self.first_offset = 0
        self.next_offset = 0
        # Transactions by number: the offset of their first record here.
        self.open: dict[int, int] = {}

    @property
    def stable_offset(self) -> int:
        """Return the last stable offset: that of the oldest open record, else the end."""
        return min(self.open.values(), default=self.next_offset)


class Transaction:
    """Records that stand in the log and are seen by nobody until they are committed."""

    def __init__(self, broker: Broker, number: int, *, marker: bool) -> None:
        self._broker = broker
        self._number = number
        self._marker = marker
        self._appended: dict[TopicPartition, list[Appended]] = {}

    def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records; they take their offsets now."""
        for new in records:
            where = TopicPartition(topic, new.partition)
            partition = self._broker.partition(where)
            partition.open.setdefault(self._number, partition.next_offset)
            self._appended.setdefault(where, []).append(self._broker.appended(partition, new))

    def commit(self) -> None:
        """Let everybody see the records."""
        self._end(committed=True)

    def abort(self) -> None:
        """Let nobody ever see the records."""
        self._end(committed=False)

    def _end(self, *, committed: bool) -> None:
        for where, appended in self._appended.items():
            partition = self._broker.partition(where)
            del partition.open[self._number]
            if self._marker:
                partition.next_offset += 1
            if committed:
                self._broker.show(where, partition, appended)
        self._appended = {}
        self._broker.changed()


class Broker:
    """All topics, the epoch of each shard's writer, and who is told of changes."""

    def __init__(self, clock: VirtualClock | None = None, *, holes: bool = False) -> None:
        self.clock = clock or VirtualClock()
        self.holes = holes
        # Rises with whatever a reader could notice.
        self.version = 0
        self.listeners: list[Callable[[], None]] = []
        # Ends that are told as they once were.
        self.stale_ends: dict[TopicPartition, int] = {}
        self._topics: dict[str, dict[int, _Partition]] = {}
        self._epochs: dict[str, int] = {}
        self._unfinished: dict[str, Transaction] = {}
        self._transactions = 0

    # What readers ask.

    def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising."""
        return sorted(self._topics.get(topic, ()))

    def first_offset(self, where: TopicPartition) -> int:
        """Return the offset that the log begins with."""
        return self._find(where).first_offset

    def end_offset(self, where: TopicPartition) -> int:
        """Return the high watermark: open transactions count."""
        return self.stale_ends.get(where, self._find(where).next_offset)

    def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return committed records in front of the last stable offset.

        Raises LogUnavailableError for an offset that is no longer, or not yet, in the log.
        """
        partition = self._find(where)
        if offset < partition.first_offset:
            raise LogUnavailableError(
                f"{where} begins at offset {partition.first_offset}, offset {offset} was deleted"
            )
        if offset > partition.next_offset:
            raise LogUnavailableError(
                f"{where} ends at offset {partition.next_offset}, there is no offset {offset} yet"
            )
        start = bisect.bisect_left(partition.offsets, offset)
        stable = partition.stable_offset
        stop = min(start + records_max, bisect.bisect_left(partition.offsets, stable))
        records = [appended.record for appended in partition.committed[start:stop]]
        if len(records) < records_max:
            return Batch(records, max(offset, stable))
        return Batch(records, records[-1].offset + 1)

    def appended_to(self, where: TopicPartition) -> Sequence[Appended]:
        """Return everything committed to a partition, with headers."""
        return self._find(where).committed

    # What writers do.

    def make_topic(self, topic: str, partitions: int) -> None:
        """Make partitions of a topic that nothing was appended to yet."""
        for number in range(partitions):
            self.partition(TopicPartition(topic, number))

    def take(self, shard: str) -> int:
        """Give a shard a new writer and return its epoch; what the older one left open is over."""
        self._epochs[shard] = self._epochs.get(shard, 0) + 1
        left = self._unfinished.pop(shard, None)
        if left is not None:
            left.abort()
        return self._epochs[shard]

    def is_newest(self, shard: str, epoch: int) -> bool:
        """Tell whether no newer writer took the shard."""
        return self._epochs.get(shard) == epoch

    def begin(
        self, shard: str, epoch: int, messages: Mapping[str, Sequence[NewRecord]]
    ) -> Transaction:
        """Append records in a transaction of a shard's writer, which is then to be ended.

        Raises FencedError where a newer writer took the shard.
        """
        self.check_epoch(shard, epoch)
        transaction = self.transaction()
        for topic, records in messages.items():
            transaction.append(topic, records)
        self._unfinished[shard] = transaction
        return transaction

    def end(self, shard: str, epoch: int, transaction: Transaction) -> None:
        """Commit a transaction of a shard's writer.

        Raises FencedError where a newer writer took the shard.
        """
        self.check_epoch(shard, epoch)
        self._unfinished.pop(shard, None)
        transaction.commit()

    def check_epoch(self, shard: str, epoch: int) -> None:
        """Raise FencedError where a newer writer took the shard."""
        if not self.is_newest(shard, epoch):
            raise FencedError(f"a newer writer took shard {shard}")

    def transaction(self, *, marker: bool | None = None) -> Transaction:
        """Begin a transaction of a producer that nobody fences; `marker` is by default `holes`."""
        self._transactions += 1
        return Transaction(
            self, self._transactions, marker=self.holes if marker is None else marker
        )

    def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records without a transaction."""
        for new in records:
            where = TopicPartition(topic, new.partition)
            partition = self.partition(where)
            self.show(where, partition, [self.appended(partition, new)])
        self.changed()

    def delete_before(self, where: TopicPartition, offset: int) -> None:
        """Delete records in front of an offset, as retention does."""
        partition = self._find(where)
        partition.first_offset = max(partition.first_offset, offset)
        at = bisect.bisect_left(partition.offsets, offset)
        del partition.offsets[:at], partition.committed[:at]

    def delete(self, where: TopicPartition, offset: int) -> None:
        """Take one record out, as compaction does."""
        partition = self._find(where)
        at = partition.offsets.index(offset)
        del partition.offsets[at], partition.committed[at]

    def alter(self, where: TopicPartition, offset: int, value: bytes) -> None:
        """Put another value in the place of a record's, as damage does."""
        partition = self._find(where)
        at = partition.offsets.index(offset)
        one = partition.committed[at]
        partition.committed[at] = one._replace(record=one.record._replace(value=value))

    # What transactions need of it.

    def partition(self, where: TopicPartition) -> _Partition:
        """Return a partition, made where it is not there yet."""
        return self._topics.setdefault(where.topic, {}).setdefault(where.partition, _Partition())

    def appended(self, partition: _Partition, new: NewRecord) -> Appended:
        """Return a record with the next offset of its partition."""
        timestamp_ms = self.clock.now_ms if new.timestamp_ms is None else new.timestamp_ms
        record = Record(partition.next_offset, timestamp_ms, new.key, new.value)
        partition.next_offset += 1
        return Appended(record, new.headers)

    def show(
        self, where: TopicPartition, partition: _Partition, appended: Sequence[Appended]
    ) -> None:
        """Let records be seen; of a compacted topic, in place of those with the same keys."""
        for one in appended:
            at = bisect.bisect_left(partition.offsets, one.record.offset)
            partition.offsets.insert(at, one.record.offset)
            partition.committed.insert(at, one)
        if where.topic in topics.COMPACTED_TOPICS:
            self._compact(partition)

    def changed(self) -> None:
        """Tell whoever waits that something may have been appended."""
        self.version += 1
        for listener in self.listeners:
            listener()

    def _compact(self, partition: _Partition) -> None:
        newest = {one.record.key: one.record.offset for one in partition.committed}
        partition.committed = [
            one for one in partition.committed if newest[one.record.key] == one.record.offset
        ]
        partition.offsets = [one.record.offset for one in partition.committed]

    def _find(self, where: TopicPartition) -> _Partition:
        return self._topics.get(where.topic, {}).get(where.partition) or _Partition()
