"""A liquidation as the rules define it: lists of fills, every sum taken anew each time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.property.model_prices import ZERO, Position, ceil_at, floor_at

MINUTE_MS = 60_000


@dataclass
class Booking:
    """A fill, or an ADL execution (without an order)."""

    order_id: str | None
    quantity: Fraction
    pnl: Fraction
    fee: Fraction
    delta: Fraction = ZERO
    shortfall_delta: Fraction = ZERO


@dataclass
class Order:
    """An order of ours or of the exchange; `status` is open, dead (our deadline) or closed."""

    order_id: str
    price: Fraction
    quantity: Fraction
    step: int = 0
    content: Any = None
    status: str = "open"
    reported: Fraction | None = None
    report_content: Any = None
    hold_over: bool = False
    held: Fraction = ZERO
    covers: Fraction = ZERO
    whole: bool = True


@dataclass
class Liquidation:
    """What is known of one liquidation."""

    liquidation_id: str
    currency: str
    instrument_id: str
    position: Position
    policy: dict[str, Any]
    content: Any
    orders: dict[str, Order] = field(default_factory=dict)
    bookings: list[Booking] = field(default_factory=list)
    trigger_total: Fraction = ZERO
    revision: int = 0
    reasons: set[str] = field(default_factory=set)
    closed: bool = False
    newest_event_ms: int = 0

    def filled(self) -> Fraction:
        """Return n: what fills and ADL executions have closed."""
        return sum((b.quantity for b in self.bookings), ZERO)

    def deleveraged(self) -> Fraction:
        return sum((b.quantity for b in self.bookings if b.order_id is None), ZERO)

    def seen(self, order: Order) -> Fraction:
        return sum((b.quantity for b in self.bookings if b.order_id == order.order_id), ZERO)

    def counted(self, order: Order) -> Fraction:
        return max(order.reported or ZERO, self.seen(order))

    def awaited(self, order: Order) -> Fraction:
        return self.counted(order) - self.seen(order)

    def residual(self) -> Fraction:
        counted = sum((self.counted(o) for o in self.orders.values()), ZERO)
        return self.position.quantity - self.deleveraged() - counted

    def rest(self, order: Order) -> Fraction:
        return order.quantity - self.seen(order)

    def open_quantity(self) -> Fraction:
        return sum((self.rest(o) for o in self.orders.values() if o.status == "open"), ZERO)

    def reserving_quantity(self, order: Order) -> Fraction:
        """Return what an order reserves for: min(its claim, residual + what is awaited of it)."""
        alive = order.status == "open" or (order.status == "dead" and not order.hold_over)
        claim = self.rest(order) if alive else self.awaited(order)
        return min(claim, self.residual() + self.awaited(order))

    def pending(self) -> Fraction:
        """Return what the trigger still asks for."""
        return max(ZERO, self.trigger_total - self.deleveraged())

    def target(self) -> Fraction:
        return max(ZERO, self.residual() - self.open_quantity())

    def pnl_floor(self) -> Fraction:
        """Return B."""
        return floor_at(sum((b.pnl for b in self.bookings), ZERO), self.position.scale)

    def fees(self) -> Fraction:
        """Return Phi."""
        return sum((ceil_at(b.fee, self.position.scale) for b in self.bookings), ZERO)

    def _raw(self) -> Fraction:
        return self.position.share(self.filled()) + sum((b.pnl for b in self.bookings), ZERO)

    def fund_result(self) -> Fraction:
        """Return F: what the fund has got so far."""
        return floor_at(self._raw(), self.position.scale) - self.fees()

    def result_after(self, rest: Fraction, limit: Fraction) -> Fraction:
        """Return W: F after `rest` more at the limit, its fee at the rate."""
        more = self.position.share(rest) + self.position.worth_at(rest, limit)
        return floor_at(self._raw() + more, self.position.scale) - self.fees()

    def needs(self, order: Order, quantity: Fraction) -> Fraction:
        """Return max(0, F - W) for so much of an order, 0 when nothing is open."""
        if quantity == 0:
            return ZERO
        return max(ZERO, self.fund_result() - self.result_after(quantity, order.price))

    def held(self) -> Fraction:
        return sum((o.held for o in self.orders.values()), ZERO)

    def gross_draws(self) -> Fraction:
        return sum((max(ZERO, -b.delta) for b in self.bookings), ZERO)

    def own_shortfall(self) -> Fraction:
        return -sum((b.shortfall_delta for b in self.bookings), ZERO)


@dataclass
class Notes:
    """All values ever noted of one figure, and when."""

    values: list[tuple[int, Fraction]] = field(default_factory=list)

    def note(self, now_ms: int, value: Fraction) -> None:
        self.values.append((now_ms, value))

    def highest(self, now_ms: int, window_ms: int) -> Fraction:
        """Return the maximum over whole minutes in the window and the last value before it."""
        first = math.floor(Fraction(now_ms - window_ms, MINUTE_MS))
        before = [v for at, v in self.values if at // MINUTE_MS < first]
        inside = [v for at, v in self.values if at // MINUTE_MS >= first]
        return max([before[-1] if before else ZERO, *inside])


@dataclass
class Fund:
    """The money of one currency."""

    scale: int
    floor: Fraction
    available: Fraction = ZERO
    shortfall: Fraction = ZERO
    withdrawn: Fraction = ZERO
    total: Notes = field(default_factory=Notes)

    @property
    def unit(self) -> Fraction:
        return Fraction(1, 10**self.scale)
