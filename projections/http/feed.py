"""The feed: follows a ledger as it grows, checks its chain, and tells all who listen.

Whoever listens keeps nothing here but the sequence that it waits for: events stand in one ring,
and older ones are read from the log. So a client that is slow costs no memory and no time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from insurance_fund.events.errors import (
    CorruptionError,
    InsuranceFundError,
    LogUnavailableError,
)
from insurance_fund.events.ledger import GENESIS, Head
from insurance_fund.projections.http.ring import Event, Ring
from insurance_fund.streams.log import LogReader, Record, TopicPartition

READ_MAX: Final = 500
WAIT_S: Final = 5.0
RETRY_S: Final = 0.5
RETRY_S_MAX: Final = 5.0
_log = logging.getLogger(__name__)


class Feed:
    """Follows one ledger; `trouble` says why it does not, None while it does."""

    def __init__(self, ledger: str, opened: Callable[[], LogReader], where: TopicPartition) -> None:
        self.ledger = ledger
        self.trouble: str | None = "the ledger is not read yet"
        self.closed = False
        self.ring = Ring()
        # Of the last entry: what it is, and where the log goes on behind it.
        self._head: Head | None = None
        self._next_offset: int | None = None
        self.now_ms = 0
        self._opened = opened
        self._where = where
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def head(self) -> Head | None:
        """Return the last entry of the ledger, None where there is none yet."""
        return self._head

    @property
    def next_sequence(self) -> int:
        """Return the sequence that the next entry will have."""
        return 0 if self._head is None else self._head.sequence + 1

    async def run(self) -> None:
        """Follow the ledger until cancelled; what goes wrong is told, and tried again."""
        pause_s = RETRY_S
        while True:
            try:
                await self._follow()
            except InsuranceFundError as error:
                if self.trouble is None:
                    pause_s = RETRY_S
                if self.trouble != str(error):
                    _log.warning("ledger %s cannot be followed: %s", self.ledger, error)
                self.trouble = str(error)
                self._tell()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def beyond(self, sequence: int, timeout_s: float) -> None:
        """Return when there is an entry at a sequence, or after `timeout_s`, or in trouble."""
        if self.next_sequence > sequence or self.over:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter
        finally:
            self._waiting.discard(waiter)

    @property
    def over(self) -> bool:
        """Say whether whoever listens must come back later."""
        return self.closed or self.trouble is not None

    def close(self) -> None:
        """Let those who listen go."""
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _follow(self) -> None:
        log = self._opened()
        try:
            if self._where.partition not in await log.partitions(self._where.topic):
                raise LogUnavailableError("no entry was written yet: is the fund running?")
            if self._next_offset is None:
                await self._find_end(log)
            assert self._next_offset is not None
            offset = self._next_offset
            while True:
                batch = await log.read(self._where, offset, READ_MAX)
                for record in batch.records:
                    self._take(record)
                offset = self._next_offset = batch.next_offset
                self.trouble = None
                if batch.records:
                    self._tell()
                else:
                    await log.wait(WAIT_S)
        finally:
            await log.close()

    async def _find_end(self, log: LogReader) -> None:
        """Find the last entry: behind it there may be offsets without a record."""
        first, end = await log.first_offset(self._where), await log.end_offset(self._where)
        back = 1
        while True:
            offset = max(first, end - back)
            last: Record | None = None
            while True:
                batch = await log.read(self._where, offset, READ_MAX)
                if not batch.records and batch.next_offset <= offset:
                    break
                last = batch.records[-1] if batch.records else last
                offset = batch.next_offset
            if last is not None:
                event = self._event(last)
                self._head = Head(event.ledger, event.sequence, event.head)
                self.now_ms = event.now_ms
                self.ring.add(event)
            if last is not None or end - back <= first:
                self._next_offset = offset
                return
            back *= 8

    def _take(self, record: Record) -> None:
        event = self._event(record)
        expected = self.next_sequence
        previous = GENESIS if self._head is None else self._head.sha256
        if event.sequence != expected or event.previous != previous:
            raise CorruptionError(
                f"the chain is broken at entry {expected}: {event.sequence} stands there, behind "
                f"{event.previous}, and the entry before is {previous}; `insurance-fund verify` "
                "says more",
                expected,
            )
        self._head, self.now_ms = Head(event.ledger, event.sequence, event.head), event.now_ms
        self._next_offset = record.offset + 1
        self.ring.add(event)

    def _event(self, record: Record) -> Event:
        event = Event(record.value or b"")
        if event.ledger != self.ledger:
            raise CorruptionError(
                f"{self._where} holds ledger {event.ledger!r}, not {self.ledger!r}: the order of "
                "the shards in the settings says where each stands"
            )
        return event
