"""The simulated log keeps the contract of the log port, and breaks as Kafka does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from insurance_fund.events.errors import FencedError
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.simulator.client import SimulatedLog
from tests.embedded.appender import append_transaction
from tests.embedded.log_contract import FILLS, LEDGER, LogContract, Logs, new, offsets, values


class SimulatedLogs(Logs):
    """A broker of its own for each case."""

    def __init__(self, *, holes: bool) -> None:
        self.broker = Broker(holes=holes)

    async def reader(self) -> SimulatedLog:
        return SimulatedLog(self.broker)

    writer = reader
    publisher = reader

    async def make_topic(self, topic: str, partitions: int) -> None:
        self.broker.make_topic(topic, partitions)

    @asynccontextmanager
    async def committing_elsewhere(self, transactions: int) -> AsyncIterator[None]:
        writer = await self.writer()
        await writer.take("appender")

        async def append() -> None:
            for number in range(transactions):
                await append_transaction(writer, number)

        task = asyncio.create_task(append())
        yield
        await task

    @asynccontextmanager
    async def uncommitted(self, where: TopicPartition, value: bytes) -> AsyncIterator[None]:
        transaction = self.broker.transaction()
        transaction.append(where.topic, new(value, partition=where.partition))
        yield
        transaction.abort()

    async def make_hole(self, where: TopicPartition, offset: int) -> None:
        self.broker.delete(where, offset)

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        self.broker.delete_before(where, offset)


@pytest.fixture(params=[False, True], ids=["without holes", "with markers"])
def logs(request: pytest.FixtureRequest) -> SimulatedLogs:
    return SimulatedLogs(holes=request.param)


class TestSimulatedLogKeepsTheContract(LogContract):
    """The cases that hold for every adapter."""


class TestTransactions:
    async def test_marker_takes_an_offset_in_each_partition_of_the_transaction(self) -> None:
        log = SimulatedLog(Broker(holes=True))
        await log.take("main")
        await log.commit(LEDGER, new(b"a", b"b"), [])
        await log.commit(LEDGER, new(b"c"), [])
        assert await offsets(log, LEDGER) == [0, 1, 3]
        assert await log.end_offset(LEDGER) == 5

    async def test_open_transaction_hides_what_comes_behind_it_and_counts_for_the_end(
        self,
    ) -> None:
        broker = Broker()
        log = SimulatedLog(broker)
        await log.publish("fills", new(b"before"))
        transaction = broker.transaction()
        transaction.append("fills", new(b"open"))
        await log.publish("fills", new(b"behind"))
        batch = await log.read(FILLS, 0, 10)
        assert ([r.value for r in batch.records], batch.next_offset) == ([b"before"], 1)
        assert await log.end_offset(FILLS) == 3
        transaction.commit()
        assert await values(log, FILLS) == [b"before", b"open", b"behind"]

    async def test_aborted_records_leave_holes(self) -> None:
        broker = Broker(holes=True)
        log = SimulatedLog(broker)
        transaction = broker.transaction()
        transaction.append("fills", new(b"a", b"b"))
        transaction.abort()
        await log.publish("fills", new(b"c"))
        assert await offsets(log, FILLS) == [3]

    async def test_transaction_that_a_writer_left_open_ends_when_the_shard_is_taken(self) -> None:
        broker = Broker()
        epoch = broker.take("main")
        left = broker.begin("main", epoch, {LEDGER.topic: [NewRecord(0, None, b"left")]})
        log = SimulatedLog(broker)
        assert await log.end_offset(LEDGER) == 1
        await log.take("main")
        with pytest.raises(FencedError):
            broker.end("main", epoch, left)
        await log.commit(LEDGER, new(b"next"), [])
        assert await values(log, LEDGER) == [b"next"]
        assert await offsets(log, LEDGER) == [1]

    async def test_compacted_topic_keeps_the_newest_record_of_each_key(self) -> None:
        log = SimulatedLog(Broker())
        where = TopicPartition("fund-snapshots", 0)
        for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")):
            await log.publish(where.topic, [NewRecord(0, key, value)])
        assert await values(log, where) == [b"2", b"3"]
        assert await offsets(log, where) == [1, 2]
