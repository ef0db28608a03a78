"""Clocks: the one place where the time of the world comes in."""

from __future__ import annotations

import time
from typing import Final, Protocol

from insurance_fund.events.errors import ClockError

JUMP_MS_MAX: Final = 5_000


class Clock(Protocol):
    """Reads the time, in milliseconds."""

    def wall_ms(self) -> int:
        """Return the time of day, milliseconds since 1970 UTC."""
        ...

    def monotonic_ms(self) -> int:
        """Return a time that never jumps, milliseconds since some moment."""
        ...


class SystemClock:
    """The clock of this machine."""

    def wall_ms(self) -> int:
        """Return the time of day, milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return the monotonic clock, in milliseconds."""
        return time.monotonic_ns() // 1_000_000


class LedgerClock:
    """Gives `now_ms` for a live ledger: the wall clock, never going back, halting on a jump."""

    def __init__(self, clock: Clock, last_ms: int) -> None:
        self._clock = clock
        self._last_ms = last_ms
        wall_ms = clock.wall_ms()
        if last_ms > wall_ms + JUMP_MS_MAX:
            raise ClockError(
                f"the ledger's last entry is {last_ms - wall_ms} ms ahead of this machine's clock; "
                "set the clock right, then start again"
            )
        self._offset_ms = wall_ms - clock.monotonic_ms()

    def now_ms(self) -> int:
        """Return max(last, wall clock).

        Raises ClockError where the wall clock has jumped against the monotonic one.
        """
        wall_ms = self._clock.wall_ms()
        offset_ms = wall_ms - self._clock.monotonic_ms()
        if abs(offset_ms - self._offset_ms) > JUMP_MS_MAX:
            raise ClockError(
                f"the wall clock jumped by {offset_ms - self._offset_ms} ms; "
                "see that it is right, then start again"
            )
        self._offset_ms = offset_ms
        self._last_ms = max(self._last_ms, wall_ms)
        return self._last_ms
