"""The ledgers that a Faust worker carries: caught up, taken from, and let go of in time.

What Faust hands over is a hint. Entries that come twice are passed by; where one seems to be
missing the log itself is read from the stored position on, and only what is missing there ends the
worker. So it does not matter what a rebalance drops, repeats or hands to a worker too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError, LogUnavailableError, SettingsError
from insurance_fund.projections.follower import check_same
from insurance_fund.projections.subscribers import Subscriber
from insurance_fund.streams import kafka_trouble
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogReader, Record, TopicPartition

# Further behind than this, the bare reader takes a ledger on: it is many times as fast as Faust.
BEHIND_MAX: Final = 1_000
ENTRIES_MAX: Final = 5_000

_log = logging.getLogger(__name__)


class Ledgers:
    """The ledgers of the log by partition, each with its subscriber; one is taken from at a time.

    `fail` ends the process: it is told what cannot be mended by going on. `begin` is called with
    the log before anything is taken.
    """

    def __init__(
        self,
        access: KafkaAccess,
        subscribers: Sequence[Subscriber],
        fail: Callable[[Exception], None],
        begin: Callable[[LogReader], Awaitable[None]] | None = None,
    ) -> None:
        self.access = access
        self._subscribers = subscribers
        self._fail = fail
        self._begin = begin
        self._assigned: frozenset[int] = frozenset()
        self._halted = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @property
    def topic(self) -> str:
        """The ledgers' topic as the cluster calls it."""
        return self.access.topic(topics.FUND_LEDGER)

    async def open(self) -> None:
        """See that the ledgers are there and can be followed."""
        await self._run(self._open())

    async def carry(self, partitions: Iterable[int]) -> None:
        """Begin to carry some ledgers; those that are far behind are caught up first.

        It takes as long as it takes: the group is told of this worker's life by another thread.
        """
        self._halted.clear()
        self._assigned = frozenset(partitions)
        for partition in sorted(self._assigned):
            await self._run(self._catch_up(partition))

    async def offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return where to read on in each ledger."""
        found: dict[int, int] = {}

        async def ask() -> None:
            for partition in partitions:
                found[partition] = (await self._subscribers[partition].position()).next_offset

        await self._guarded(ask())
        return found

    async def ask(self, doing: str, call: Callable[[], Awaitable[None]]) -> None:
        """Ask something of the cluster; what it refuses ends the process."""

        async def asked() -> None:
            async with kafka_trouble.answered(self.access, doing):
                await call()

        await self._guarded(asked())

    async def take(self, partition: int, records: Sequence[Record]) -> None:
        """Take what Faust hands over of a ledger."""
        if partition in self._assigned and not self._halted.is_set():
            await self._run(self._take(partition, records))

    async def halt(self) -> None:
        """Take nothing more, and come back when what was begun has ended.

        Another worker that carries a ledger on then finds its position where this one left it.
        """
        self._halted.set()
        if self._work is not None:
            await asyncio.wait([self._work])

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        # Not to be cut off with whoever waits for it: a message that is on its way ends first.
        self._work = asyncio.create_task(self._guarded(work))
        await asyncio.shield(self._work)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(error)
            raise

    async def _open(self) -> None:
        async with self._reader() as log:
            partitions = await log.partitions(topics.FUND_LEDGER)
            if not partitions:
                raise LogUnavailableError(
                    f"{self.access} has no topic {self.topic}: `insurance-fund topics apply` makes "
                    "it"
                )
            if len(partitions) > len(self._subscribers):
                raise SettingsError(
                    f"{self.topic} holds {len(partitions)} ledgers, the settings name "
                    f"{len(self._subscribers)} shards: a worker needs the same [shards] as the fund"
                )
            if self._begin is not None:
                await self._begin(log)

    async def _catch_up(self, partition: int) -> None:
        subscriber, where = self._subscribers[partition], _where(partition)
        before = -1
        async with self._reader() as log:
            while not self._halted.is_set():
                position = await subscriber.position()
                reached, end = position.next_offset, await log.end_offset(where)
                if reached > end:
                    raise LogUnavailableError(
                        f"{where} of {self.access} ends at offset {end}, in front of {reached}, "
                        f"where ledger {subscriber.ledger} was read to: was the topic made anew, "
                        "or is this another cluster?"
                    )
                if position.sequence >= 0 and before < 0:
                    await check_same(log, where, subscriber.ledger, position)
                if end - reached <= BEHIND_MAX or reached == before:
                    return
                before = reached
                _log.info("ledger %s is %d behind: catching up", subscriber.ledger, end - reached)
                await self._read_on(log, where, subscriber)

    async def _take(self, partition: int, records: Sequence[Record]) -> None:
        subscriber, where = self._subscribers[partition], _where(partition)
        try:
            await subscriber.take(records, self._halted)
        except CorruptionError as error:
            _log.warning("%s: reading the log from the stored position on", error)
            async with self._reader() as log:
                await self._read_on(log, where, subscriber)

    async def _read_on(self, log: LogReader, where: TopicPartition, subscriber: Subscriber) -> None:
        position = await subscriber.position()
        offset = max(position.next_offset, await log.first_offset(where))
        records: list[Record] = []
        async for record in partition_records(log, where, offset, ENTRIES_MAX):
            records.append(record)
            if len(records) == ENTRIES_MAX:
                await subscriber.take(records, self._halted)
                records = []
            if self._halted.is_set():
                return
        if records:
            await subscriber.take(records, self._halted)

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[KafkaReader]:
        reader = KafkaReader(self.access)
        try:
            yield reader
        finally:
            await reader.close()


def _where(partition: int) -> TopicPartition:
    return TopicPartition(topics.FUND_LEDGER, partition)
