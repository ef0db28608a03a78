"""What every adapter of the log port must do; one class of cases, one fixture `logs` an adapter.

| cases about | the rule of Kafka that they stand for |
|---|---|
| order, keys and values | a partition keeps the order of its appends; keys and values may be null |
| committed records only | `read_committed`: open and aborted transactions are not seen |
| atomicity over topics | one transaction spans partitions of many topics, all or none |
| no partial transaction | the last stable offset never lies inside of a transaction |
| the newest writer wins | `InitProducerId` bumps the epoch, the older gets `ProducerFenced` |
| shards are independent | one fixed `transactional.id` a shard, each with its own epoch |
| a fence outlives its maker | the coordinator keeps the epoch, not the producer |
| positions behind holes | transaction markers and compaction take offsets; positions pass them |
| ends | `end_offsets`: the offset behind the newest record, never going back |
| offsets outside of the log | `auto_offset_reset="none"`: `OffsetOutOfRange` on both sides |
| partitions | metadata: the partitions of a topic, none for an unknown one |
| partitions are apart | each partition has offsets of its own |
| compaction | `cleanup.policy=compact`: of a key the newest record stays, older ones may |
| two readers | consumers without a group share nothing |
| large values | `max.message.bytes` is set above the largest record |
| waiting | a fetch waits for new records of the partitions that are read, up to its longest wait |
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from insurance_fund.events.errors import FencedError, LogUnavailableError
from insurance_fund.events.topics import COMPACTED_TOPICS
from insurance_fund.streams.log import (
    LogPublisher,
    LogReader,
    LogWriter,
    NewRecord,
    Outbound,
    Record,
    TopicPartition,
)
from tests.embedded.appender import RECORDS_OF

FILLS = TopicPartition("fills", 0)
LEDGER = TopicPartition("fund-ledger", 0)
ORDERS = TopicPartition("liquidation-orders", 0)
TRIGGERS = TopicPartition("adl-triggers", 0)

# Never waited out by a case that passes; a case that hangs ends here.
HANG_S = 30
LONG_WAIT_S = 10 * HANG_S
TRANSACTIONS_ELSEWHERE = 150


class Logs(ABC):
    """One log that begins empty, and what the suite asks of an adapter beside the port."""

    @abstractmethod
    async def reader(self) -> LogReader:
        """Return a new reader that shares no connection with the others."""

    @abstractmethod
    async def writer(self) -> LogWriter:
        """Return a new writer."""

    @abstractmethod
    async def publisher(self) -> LogPublisher:
        """Return a new publisher."""

    @abstractmethod
    async def make_topic(self, topic: str, partitions: int) -> None:
        """Make a topic where the adapter does not do so by itself."""

    @abstractmethod
    def committing_elsewhere(self, transactions: int) -> AbstractAsyncContextManager[None]:
        """Let another process commit transactions of `appender`; leaving waits for its end."""

    def uncommitted(self, where: TopicPartition, value: bytes) -> AbstractAsyncContextManager[None]:
        """Hold a record in an open transaction; leaving aborts it."""
        raise pytest.skip.Exception(f"no transaction can be left open for {where}, {value!r}")

    async def make_hole(self, where: TopicPartition, offset: int) -> None:
        """Take a record out of the log."""
        pytest.skip(f"no record can be taken out at {where} {offset}")

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        """Delete the records in front of an offset, as retention does."""
        pytest.skip(f"no records can be deleted in front of {where} {offset}")


def new(*values: bytes | None, partition: int = 0, key: bytes | None = None) -> list[NewRecord]:
    """Return records to be appended."""
    return [NewRecord(partition, key, value) for value in values]


def outbound(where: TopicPartition, *values: bytes) -> list[Outbound]:
    """Return messages to be committed with entries."""
    return [Outbound(where.topic, record) for record in new(*values, partition=where.partition)]


async def records_to_end(
    reader: LogReader, where: TopicPartition, offset: int, records_max: int = 1_000
) -> tuple[list[Record], int]:
    """Return the records from an offset to the end as it is now, and that end."""
    end = await reader.end_offset(where)
    records: list[Record] = []
    while offset < end:
        batch = await reader.read(where, offset, records_max)
        assert batch.next_offset > offset, "a read in front of the end must go on"
        records += batch.records
        offset = batch.next_offset
    return [record for record in records if record.offset < end], end


async def values(reader: LogReader, where: TopicPartition) -> list[bytes | None]:
    """Return the values that stand in a partition."""
    records, _ = await records_to_end(reader, where, await reader.first_offset(where))
    return [record.value for record in records]


async def offsets(reader: LogReader, where: TopicPartition) -> Sequence[int]:
    """Return the offsets that stand in a partition."""
    records, _ = await records_to_end(reader, where, await reader.first_offset(where))
    return [record.offset for record in records]


class LogContract:
    """The cases; a subclass in a test module brings the fixture."""

    async def test_records_come_back_in_the_order_of_their_appends(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        expected: list[bytes | None] = [str(number).encode() for number in range(25)]
        for start in range(0, 25, 5):
            await publisher.publish("fills", new(*expected[start : start + 5]))
        assert await values(reader, FILLS) == expected
        found = await offsets(reader, FILLS)
        assert found == sorted(set(found))

    async def test_keys_and_values_come_back_byte_for_byte_and_may_be_null(
        self, logs: Logs
    ) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        pairs: list[tuple[bytes | None, bytes | None]] = [
            (b"BTC-USDT", b"{}"),
            (None, b"\x00\xff\n"),
            (b"", b""),
            (b"key", None),
            (None, None),
        ]
        await publisher.publish("fills", [NewRecord(0, key, value) for key, value in pairs])
        records, _ = await records_to_end(reader, FILLS, 0)
        assert [(record.key, record.value) for record in records] == pairs

    async def test_a_value_of_two_megabytes_comes_back_whole(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        large = bytes(range(256)) * 8_192
        await publisher.publish("fills", new(b"before", large, b"after"))
        assert await values(reader, FILLS) == [b"before", large, b"after"]

    async def test_a_topic_that_nobody_wrote_to_reads_as_empty(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader = await logs.reader()
        assert await reader.first_offset(FILLS) == 0
        assert await reader.end_offset(FILLS) == 0
        batch = await reader.read(FILLS, 0, 10)
        assert (list(batch.records), batch.next_offset) == ([], 0)

    async def test_a_read_takes_up_where_the_batch_before_it_ended(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        expected = [str(number).encode() for number in range(10)]
        await publisher.publish("fills", new(*expected))
        offset, found, sizes = 0, list[bytes | None](), list[int]()
        for _ in range(10):
            batch = await reader.read(FILLS, offset, 4)
            found += [record.value for record in batch.records]
            sizes.append(len(batch.records))
            offset = batch.next_offset
            if offset >= await reader.end_offset(FILLS):
                break
        assert found == expected
        assert max(sizes) <= 4

    async def test_a_read_from_an_offset_begins_with_the_record_at_it(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b", b"c", b"d"))
        third = (await offsets(reader, FILLS))[2]
        batch = await reader.read(FILLS, third, 1)
        assert [(record.offset, record.value) for record in batch.records] == [(third, b"c")]

    async def test_a_read_at_the_end_is_empty_and_stays_where_it_is(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b"))
        end = await reader.end_offset(FILLS)
        batch = await reader.read(FILLS, end, 10)
        assert (list(batch.records), batch.next_offset) == ([], end)

    async def test_an_offset_behind_the_end_is_refused(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b"))
        end = await reader.end_offset(FILLS)
        with pytest.raises(LogUnavailableError, match="fills:0"):
            await reader.read(FILLS, end + 1, 10)

    async def test_an_offset_in_front_of_the_first_retained_one_is_refused(
        self, logs: Logs
    ) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b", b"c", b"d"))
        third = (await offsets(reader, FILLS))[2]
        await logs.delete_before(FILLS, third)
        assert await reader.first_offset(FILLS) == third
        assert await values(reader, FILLS) == [b"c", b"d"]
        with pytest.raises(LogUnavailableError, match="fills:0"):
            await reader.read(FILLS, third - 1, 10)

    async def test_the_end_never_goes_back_when_all_records_are_deleted(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b"))
        end = await reader.end_offset(FILLS)
        await logs.delete_before(FILLS, end)
        assert await reader.first_offset(FILLS) == await reader.end_offset(FILLS) == end
        await publisher.publish("fills", new(b"c"))
        assert await offsets(reader, FILLS) == [end]

    async def test_a_hole_between_records_is_passed(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b", b"c"))
        hole = (await offsets(reader, FILLS))[1]
        await logs.make_hole(FILLS, hole)
        assert await values(reader, FILLS) == [b"a", b"c"]
        batch = await reader.read(FILLS, hole, 1)
        assert [record.value for record in batch.records] == [b"c"]
        assert batch.next_offset > hole + 1

    async def test_a_hole_at_the_end_is_passed_so_that_positions_reach_the_end(
        self, logs: Logs
    ) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b"))
        end = await reader.end_offset(FILLS)
        await logs.make_hole(FILLS, (await offsets(reader, FILLS))[1])
        records, reached = await records_to_end(reader, FILLS, 0)
        assert [record.value for record in records] == [b"a"]
        assert reached == end == await reader.end_offset(FILLS)

    async def test_a_topic_has_the_partitions_that_were_written_to(self, logs: Logs) -> None:
        await logs.make_topic("fills", 3)
        reader, publisher = await logs.reader(), await logs.publisher()
        assert list(await reader.partitions("nobody-made-this")) == []
        for partition in (2, 0, 1):
            await publisher.publish("fills", new(b"x", partition=partition))
        assert list(await reader.partitions("fills")) == [0, 1, 2]

    async def test_each_partition_has_offsets_of_its_own(self, logs: Logs) -> None:
        await logs.make_topic("fills", 2)
        reader, publisher = await logs.reader(), await logs.publisher()
        one = TopicPartition("fills", 1)
        mixed = [*new(b"a"), *new(b"x", partition=1), *new(b"b"), *new(b"y", partition=1)]
        await publisher.publish("fills", mixed)
        assert await values(reader, FILLS) == [b"a", b"b"]
        assert await values(reader, one) == [b"x", b"y"]
        assert await reader.first_offset(FILLS) == await reader.first_offset(one) == 0

    async def test_a_compacted_topic_keeps_the_newest_record_of_a_key(self, logs: Logs) -> None:
        (topic,) = COMPACTED_TOPICS
        await logs.make_topic(topic, 2)
        reader, publisher = await logs.reader(), await logs.publisher()
        where, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
        await publisher.publish(topic, new(b"of another partition", partition=1, key=b"a"))
        end = await reader.end_offset(where)
        for transaction in ("a1 b1", "a2 c1 a3", "b2", "c2 d1 a4", "b3"):
            pairs = [(text[:1].encode(), text.encode()) for text in transaction.split()]
            await publisher.publish(topic, [NewRecord(0, key, value) for key, value in pairs])
            before, end = end, await reader.end_offset(where)
            assert end >= before + len(pairs), "what is compacted keeps its offset"
        records, _ = await records_to_end(reader, where, await reader.first_offset(where))
        newest = {record.key: record for record in records}
        in_order = sorted(newest.values(), key=lambda record: record.offset)
        assert [record.value for record in in_order] == [b"c2", b"d1", b"a4", b"b3"]
        assert len({record.offset for record in records}) == len(records)
        assert await values(reader, other) == [b"of another partition"]

    async def test_a_commit_appends_to_several_topics(self, logs: Logs) -> None:
        for topic in (LEDGER.topic, ORDERS.topic, TRIGGERS.topic):
            await logs.make_topic(topic, 1)
        reader, writer = await logs.reader(), await logs.writer()
        await writer.take("main")
        messages = [*outbound(ORDERS, b"o1"), *outbound(TRIGGERS, b"t1"), *outbound(ORDERS, b"o2")]
        await writer.commit(LEDGER, new(b"e1", b"e2"), messages)
        assert await values(reader, LEDGER) == [b"e1", b"e2"]
        assert await values(reader, ORDERS) == [b"o1", b"o2"]
        assert await values(reader, TRIGGERS) == [b"t1"]

    async def test_a_record_of_an_open_or_aborted_transaction_is_never_read(
        self, logs: Logs
    ) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"before"))
        async with logs.uncommitted(FILLS, b"open"):
            batch = await reader.read(FILLS, 0, 10)
            assert [record.value for record in batch.records] == [b"before"]
        assert await values(reader, FILLS) == [b"before"]
        await publisher.publish("fills", new(b"after"))
        assert await values(reader, FILLS) == [b"before", b"after"]

    async def test_a_fenced_commit_raises_and_leaves_nothing_in_any_topic(self, logs: Logs) -> None:
        for topic in (LEDGER.topic, ORDERS.topic):
            await logs.make_topic(topic, 1)
        reader, older, newer = await logs.reader(), await logs.writer(), await logs.writer()
        await older.take("main")
        await older.commit(LEDGER, new(b"e1"), outbound(ORDERS, b"o1"))
        await newer.take("main")
        with pytest.raises(FencedError):
            await older.commit(LEDGER, new(b"zombie"), outbound(ORDERS, b"zombie"))
        await newer.commit(LEDGER, new(b"e2"), outbound(ORDERS, b"o2"))
        assert await values(reader, LEDGER) == [b"e1", b"e2"]
        assert await values(reader, ORDERS) == [b"o1", b"o2"]

    async def test_the_newest_taker_wins_even_if_it_was_fenced_before(self, logs: Logs) -> None:
        await logs.make_topic(LEDGER.topic, 1)
        reader, one, two = await logs.reader(), await logs.writer(), await logs.writer()
        await one.take("main")
        await two.take("main")
        await one.take("main")
        with pytest.raises(FencedError):
            await two.commit(LEDGER, new(b"two"), [])
        await one.commit(LEDGER, new(b"one"), [])
        assert await values(reader, LEDGER) == [b"one"]

    async def test_a_fence_outlives_the_writer_that_made_it(self, logs: Logs) -> None:
        await logs.make_topic(LEDGER.topic, 1)
        reader, older, newer = await logs.reader(), await logs.writer(), await logs.writer()
        await older.take("main")
        await newer.take("main")
        await newer.close()
        with pytest.raises(FencedError):
            await older.commit(LEDGER, new(b"zombie"), [])
        assert await values(reader, LEDGER) == []

    async def test_taking_one_shard_does_not_fence_the_writer_of_another(self, logs: Logs) -> None:
        other = TopicPartition(LEDGER.topic, 1)
        await logs.make_topic(LEDGER.topic, 2)
        reader = await logs.reader()
        usdt, btc, rival = await logs.writer(), await logs.writer(), await logs.writer()
        await usdt.take("usdt")
        await btc.take("btc")
        await rival.take("usdt")
        await btc.commit(other, new(b"btc", partition=1), [])
        with pytest.raises(FencedError):
            await usdt.commit(LEDGER, new(b"zombie"), [])
        assert await values(reader, LEDGER) == []
        assert await values(reader, other) == [b"btc"]

    async def test_two_readers_share_no_position(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        one, two, publisher = await logs.reader(), await logs.reader(), await logs.publisher()
        await publisher.publish("fills", new(b"a", b"b", b"c"))
        batch = await one.read(FILLS, 0, 2)
        assert await values(two, FILLS) == [b"a", b"b", b"c"]
        rest, _ = await records_to_end(one, FILLS, batch.next_offset)
        found = [*batch.records, *rest]
        assert [record.value for record in found] == [b"a", b"b", b"c"]

    async def test_a_wait_ends_when_something_is_appended(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await reader.wait(0)
        assert not (await reader.read(FILLS, 0, 10)).records
        waiting = asyncio.create_task(reader.wait(LONG_WAIT_S))
        await publisher.publish("fills", new(b"a"))
        async with asyncio.timeout(HANG_S):
            await waiting
            assert await values(reader, FILLS) == [b"a"]

    async def test_an_append_between_two_waits_ends_the_second_one(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader, publisher = await logs.reader(), await logs.publisher()
        await reader.wait(0)
        assert not (await reader.read(FILLS, 0, 10)).records
        await publisher.publish("fills", new(b"a"))
        async with asyncio.timeout(HANG_S):
            await reader.wait(LONG_WAIT_S)

    async def test_a_wait_ends_without_an_append_when_its_time_is_over(self, logs: Logs) -> None:
        await logs.make_topic("fills", 1)
        reader = await logs.reader()
        async with asyncio.timeout(HANG_S):
            await reader.wait(0.05)

    async def test_a_reader_never_sees_a_part_of_a_transaction(self, logs: Logs) -> None:
        for where in RECORDS_OF:
            await logs.make_topic(where.topic, where.partition + 1)
        reader = await logs.reader()
        positions = dict.fromkeys(RECORDS_OF, 0)
        seen = dict.fromkeys(RECORDS_OF, 0)
        order = list(RECORDS_OF)
        async with asyncio.timeout(HANG_S), logs.committing_elsewhere(TRANSACTIONS_ELSEWHERE):
            while min(seen.values()) < TRANSACTIONS_ELSEWHERE:
                # What is looked at later may hold more transactions, never fewer. Turning the
                # order each time catches a part that shows in any of the topics first.
                order.reverse()
                counts = []
                for where in order:
                    records, positions[where] = await records_to_end(
                        reader, where, positions[where]
                    )
                    numbers = [int(record.value or b"-1") for record in records]
                    each = RECORDS_OF[where]
                    last = seen[where] + len(records) // each
                    expected = [n for n in range(seen[where], last) for _ in range(each)]
                    assert numbers == expected
                    seen[where] = last
                    counts.append(last)
                assert counts == sorted(counts)
