"""Input lag: how far a process is behind the ends of its inputs, for those who watch it.

The money loop is not asked: a reader of its own looks, when somebody wants to know, and no more
often than every few seconds. What it does not find out in time is not known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, NamedTuple

from insurance_fund.events import topics
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.processor import Processor

FRESH_S: Final = 5.0
# A scrape waits no longer; what comes later is there for the next.
WAIT_S: Final = 2.0
# What was found out so long ago says nothing of now.
STALE_S: Final = 30.0

_log = logging.getLogger(__name__)


class Lag(NamedTuple):
    """What a shard has not read of a partition: how many offsets, and the age of the first record.

    `seconds` is None where that record cannot be read: it is not committed yet, or gone.
    """

    ledger: str
    where: TopicPartition
    records: int
    seconds: float | None


class InputLag:
    """Looks, for all shards of a process; `open_reader` opens the log anew."""

    def __init__(
        self,
        open_reader: Callable[[], AbstractAsyncContextManager[LogReader]],
        processors: Sequence[Processor],
        names: Mapping[str, str],
        wall_ms: Callable[[], int],
    ) -> None:
        """`names` are the bus's names of input topics, by ours, where they differ."""
        self._open_reader = open_reader
        self._processors = processors
        self._names = names
        self._wall_ms = wall_ms
        self._opened = AsyncExitStack()
        self._reader: LogReader | None = None
        self._looking: asyncio.Task[None] | None = None
        self._found: list[Lag] = []
        self._found_at_s = float("-inf")

    def known(self) -> list[Lag]:
        """Return what is known; nothing, where it was found out too long ago."""
        return self._found if time.monotonic() - self._found_at_s <= STALE_S else []

    async def refresh(self) -> None:
        """Look, unless that was done just now; come back in time, whether it is done or not."""
        if self._looking is None or self._looking.done():
            if time.monotonic() - self._found_at_s <= FRESH_S:
                return
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait([self._looking], timeout=WAIT_S)

    async def close(self) -> None:
        """Let go of the log."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._let_go()

    async def _look(self) -> None:
        running = [one for one in self._processors if one.started]
        if not running:
            return
        try:
            if self._reader is None:
                self._reader = await self._opened.enter_async_context(self._open_reader())
            found = [
                lag for processor in running for lag in await self._of(self._reader, processor)
            ]
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on without
            _log.warning("input lag is not known: %s", error)
            await self._let_go()
        else:
            self._found, self._found_at_s = found, time.monotonic()

    async def _let_go(self) -> None:
        opened, self._opened, self._reader = self._opened, AsyncExitStack(), None
        await opened.aclose()

    async def _of(self, reader: LogReader, processor: Processor) -> list[Lag]:
        found = []
        for topic in topics.INPUT_TOPICS:
            name = self._names.get(topic, topic)
            for partition in await reader.partitions(name):
                where, read = TopicPartition(topic, partition), TopicPartition(name, partition)
                end = await reader.end_offset(read)
                # It may be beyond that end by now, and it has not been read at all at first.
                offset = processor.inputs.next_offsets.get(where)
                if offset is not None:
                    seconds = await self._age_s(reader, read, offset, end)
                    records = max(0, end - offset)
                    found.append(Lag(processor.shard.name, where, records, seconds))
        return found

    async def _age_s(
        self, reader: LogReader, where: TopicPartition, offset: int, end: int
    ) -> float | None:
        if offset >= end:
            return 0.0
        records = (await reader.read(where, offset, 1)).records
        if not records:
            return None
        return max(0.0, (self._wall_ms() - records[0].timestamp_ms) / 1000)
