"""Matching: open liquidation orders against a tape of trades.

An order takes from the trades of its instrument whose price satisfies its limit, at their prices,
in whole quantity steps. It stands from its arrival on; at `expires_at_ms` it ends, and a trade of
that very millisecond finds it gone. Of several orders the one that concedes most is first, of
equals the one that came first; together they take no more than the trade's quantity.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from typing import NamedTuple

from insurance_fund.events.amounts import exact, number
from insurance_fund.events.messages import LiquidationOrder
from insurance_fund.streams.paper.tape import Trade


class Execution(NamedTuple):
    """An order took `quantity` contracts at `price`; `rest` is what it still wants."""

    order: LiquidationOrder
    price: Decimal
    quantity: Decimal
    rest: Decimal


class Ended(NamedTuple):
    """An order ended with `filled` contracts executed in all."""

    order: LiquidationOrder
    filled: Decimal


@dataclass(slots=True, eq=False)
class _Resting:
    order: LiquidationOrder
    limit: Decimal
    step: Decimal
    number: int
    rest: Decimal

    def priority(self, price: Decimal) -> tuple[Decimal, int]:
        # Who concedes most at a price, of equals who came first; the least comes first.
        return -abs(price - self.limit), self.number


class _Book:
    """The open orders of one instrument, on each side the best limit first."""

    def __init__(self) -> None:
        self.sells: list[_Resting] = []
        self.buys: list[_Resting] = []

    def add(self, resting: _Resting) -> None:
        if resting.order.order_side == "sell":
            bisect.insort(self.sells, resting, key=lambda r: (r.limit, r.number))
        else:
            bisect.insort(self.buys, resting, key=lambda r: (-r.limit, r.number))

    def remove(self, resting: _Resting) -> None:
        (self.sells if resting.order.order_side == "sell" else self.buys).remove(resting)

    def wants(self, price: Decimal) -> bool:
        sells, buys = self.sells, self.buys
        return bool((sells and sells[0].limit <= price) or (buys and buys[0].limit >= price))

    def willing(self, price: Decimal) -> list[_Resting]:
        sells = list(takewhile(lambda r: r.limit <= price, self.sells))
        buys = list(takewhile(lambda r: r.limit >= price, self.buys))
        if not (sells and buys):
            return sells or buys
        return sorted([*sells, *buys], key=lambda r: r.priority(price))


class Matching:
    """The open orders of all instruments."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._expiries: list[tuple[int, int, _Resting]] = []
        self._arrived = 0

    @exact
    def add(self, order: LiquidationOrder, quantity_step: Decimal) -> None:
        """Let an order stand that has not expired."""
        quantity = number(order.quantity)
        resting = _Resting(order, number(order.price), quantity_step, self._arrived, quantity)
        self._arrived += 1
        self._books.setdefault(order.instrument_id, _Book()).add(resting)
        heapq.heappush(self._expiries, (order.expires_at_ms, resting.number, resting))

    def instruments(self) -> Iterator[str]:
        """Yield the instruments that have open orders."""
        for instrument_id, book in self._books.items():
            if book.sells or book.buys:
                yield instrument_id

    def next_expiry_ms(self) -> int | None:
        """Return when the next open order expires."""
        while self._expiries and not self._expiries[0][2].rest:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def wants(self, trade: Trade) -> bool:
        """Tell whether the price of a trade satisfies an open order."""
        return self._books[trade.instrument_id].wants(trade.price)

    @exact
    def match(self, trade: Trade) -> list[Execution]:
        """Let the orders that a trade satisfies share it."""
        book, left = self._books[trade.instrument_id], trade.quantity
        executions = []
        for resting in book.willing(trade.price):
            quantity = min(resting.rest, left) // resting.step * resting.step
            if not quantity:
                continue
            left -= quantity
            resting.rest -= quantity
            executions.append(Execution(resting.order, trade.price, quantity, resting.rest))
            if not resting.rest:
                book.remove(resting)
        return executions

    @exact
    def expire(self, now_ms: int) -> list[Ended]:
        """End the orders that expire by `now_ms`."""
        ended = []
        while (expiry_ms := self.next_expiry_ms()) is not None and expiry_ms <= now_ms:
            resting = heapq.heappop(self._expiries)[2]
            order = resting.order
            self._books[order.instrument_id].remove(resting)
            ended.append(Ended(order, number(order.quantity) - resting.rest))
        return ended
