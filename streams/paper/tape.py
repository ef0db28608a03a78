"""The tape: what was traded on a market, as a source adapter read it or a synthetic one made it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple


class Trade(NamedTuple):
    """One trade at `time_ms`: `quantity` contracts of the instrument at `price`, both positive."""

    time_ms: int
    instrument_id: str
    price: Decimal
    quantity: Decimal


class Cursor:
    """Where an instrument's part of the tape was read to."""

    def __init__(self) -> None:
        self._trades: list[Trade] = []
        self._times: list[int] = []
        self._index = 0

    def add(self, trade: Trade) -> None:
        """Add the next trade of the instrument."""
        self._trades.append(trade)
        self._times.append(trade.time_ms)

    def seek(self, now_ms: int) -> None:
        """Go back to what was passed by because no order wanted it: a new one may."""
        self._index = bisect.bisect_left(self._times, now_ms)

    def next_wanted_ms(self, before_ms: int, wants: Callable[[Trade], bool]) -> int | None:
        """Pass by what nobody wants; return when a trade before `before_ms` is wanted, or None."""
        while self._index < len(self._times) and self._times[self._index] < before_ms:
            if wants(self._trades[self._index]):
                return self._times[self._index]
            self._index += 1
        return None

    def take(self, now_ms: int) -> Sequence[Trade]:
        """Return the trades from here to `now_ms`, and go behind them."""
        start = self._index
        self._index = bisect.bisect_right(self._times, now_ms, start)
        return self._trades[start : self._index]
