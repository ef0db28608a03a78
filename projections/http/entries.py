"""Entries of a ledger, read by sequence from the log.

One reader serves all requests, one after the other: what an adapter has fetched is for one task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from insurance_fund.events.errors import CorruptionError, InsuranceFundError
from insurance_fund.projections.http.problems import ProblemError, unavailable
from insurance_fund.projections.http.ring import Event
from insurance_fund.streams.log import LogReader, Record, TopicPartition

# So few that reading and sending them leaves the loop to others in between.
PAGE: Final = 200
# How long a request waits for those before it, and reads.
READ_S_MAX: Final = 20.0
# Two entries nearer to each other than this are read in one go.
GAP_MAX: Final = 32
_log = logging.getLogger(__name__)

# Returns (sequence, offset) of an entry at or before a sequence, None where none is known.
Index = Callable[[int], Awaitable[tuple[int, int] | None]]


class Entry(NamedTuple):
    """An entry byte for byte, and as an event."""

    line: bytes
    event: Event


class Entries:
    """Reads entries of one ledger."""

    def __init__(
        self, opened: Callable[[], LogReader], where: TopicPartition, index: Index
    ) -> None:
        self._opened = opened
        self._where = where
        self._index = index
        self._log: LogReader | None = None
        self._turn = asyncio.Lock()

    async def run(self, sequence: int, count: int) -> list[Entry]:
        """Return up to `count` entries (a page at most) from a sequence on, without a gap.

        Raises ProblemError where the first of them cannot be read.
        """
        known = await self._index(sequence)
        found: list[Entry] = []
        async with self._reading() as log:
            offset = await log.first_offset(self._where) if known is None else known[1]
            async for record in self._onwards(log, offset):
                entry = _entry(record)
                if entry is not None and entry.event.sequence == sequence + len(found):
                    found.append(entry)
                    if len(found) == min(count, PAGE):
                        break
                elif found or (entry is not None and entry.event.sequence > sequence):
                    break
        if not found:
            raise unavailable(
                f"entry {sequence} is not where it should be: it was deleted from the log, or the "
                "ledger is damaged; `insurance-fund verify` says more"
            )
        return found

    async def _onwards(self, log: LogReader, offset: int) -> AsyncIterator[Record]:
        """Yield what can be read from an offset on."""
        while True:
            batch = await log.read(self._where, offset, PAGE)
            for record in batch.records:
                yield record
            if batch.next_offset <= offset:
                return
            if not batch.records and batch.next_offset >= await log.end_offset(self._where):
                return
            offset = batch.next_offset

    async def at_offsets(self, offsets: Iterable[int]) -> list[Record]:
        """Return the records at some offsets, which rise.

        Raises ProblemError where the log cannot be read now.
        """
        wanted = list(offsets)
        found: list[Record] = []
        async with self._reading() as log:
            while len(found) < len(wanted):
                offset, last = self._run_of(wanted[len(found) :])
                batch = await log.read(self._where, offset, last - offset + 1)
                there = {record.offset: record for record in batch.records}
                before = len(found)
                while len(found) < len(wanted) and wanted[len(found)] in there:
                    found.append(there[wanted[len(found)]])
                if len(found) == before:
                    raise unavailable(f"offset {offset} of {self._where} cannot be read now")
        return found

    @staticmethod
    def _run_of(offsets: list[int]) -> tuple[int, int]:
        """Return the first of some offsets, and the last that is near enough to be read with it."""
        first = last = offsets[0]
        for offset in offsets[1:]:
            if offset - last > GAP_MAX or offset - first >= PAGE:
                break
            last = offset
        return first, last

    async def close(self) -> None:
        """Let go of the log."""
        log, self._log = self._log, None
        if log is not None:
            with suppress(InsuranceFundError):
                await log.close()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[LogReader]:
        try:
            # Both of it within the time: a turn, and the reading.
            async with asyncio.timeout(READ_S_MAX), self._turn:
                try:
                    if self._log is None:
                        self._log = self._opened()
                    yield self._log
                except BaseException:
                    # What an adapter has fetched and not handed over is lost: the next begins anew.
                    await self.close()
                    raise
        except TimeoutError:
            raise ProblemError(
                "busy", "many are reading the ledger now; ask again, or read less at once"
            ) from None
        except InsuranceFundError as error:
            _log.warning("reading %s: %s", self._where, error)
            raise unavailable(str(error)) from error


def _entry(record: Record) -> Entry | None:
    line = record.value or b""
    try:
        return Entry(line, Event(line))
    except CorruptionError:
        return None
