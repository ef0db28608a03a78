"""The money of docs/rules.md sections 3 and 4, naively: caps, reservations, bookings.

Facts are dicts named like effects, with the fields that the rules fix; amounts are fractions.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests.property.model_liquidation import Booking, Fund, Liquidation, Notes, Order
from tests.property.model_prices import ZERO, ceil_at, floor_at

Fact = dict[str, Any]
CAPS = ("price_concession", "fund", "per_liquidation", "per_instrument")


class Money:
    """Funds, reservations, orders and triggers of all liquidations."""

    def __init__(self, policy: dict[str, Any]) -> None:
        self.policy = policy
        self.now_ms = 0
        self.facts: list[Fact] = []
        self.funds = {
            name: Fund(scale=c["scale"], floor=Fraction(c["floor"]))
            for name, c in policy["currencies"].items()
        }
        self.liquidations: dict[str, Liquidation] = {}
        self.instrument_results: dict[str, Fraction] = {}
        self.instrument_notes: dict[str, Notes] = {}
        self.deadlines: dict[str, int] = {}

    def say(self, kind: str, **fields: Any) -> None:
        self.facts.append({"type": kind, **fields})

    def reserved(self, currency: str) -> Fraction:
        return sum((q.held() for q in self.liquidations.values() if q.currency == currency), ZERO)

    def note(self, currency: str) -> None:
        """Note T + A of a fund."""
        fund = self.funds[currency]
        fund.total.note(self.now_ms, fund.available + self.reserved(currency) + fund.withdrawn)

    # -- caps and reservations (section 4)

    def caps(
        self, liq: Liquidation, rest: Fraction, concession: Fraction | None
    ) -> dict[str, Fraction | None]:
        fund = self.funds[liq.currency]
        scale = fund.scale
        own = self.instrument_notes.get(liq.instrument_id, Notes())
        result = self.instrument_results.get(liq.instrument_id, ZERO)
        window = liq.policy["instrument_window_ms"]
        total = fund.total.highest(self.now_ms, window) - fund.withdrawn
        on_instrument = sum(
            (q.held() for q in self.liquidations.values() if q.instrument_id == liq.instrument_id),
            ZERO,
        )
        headroom = (
            Fraction(liq.policy["instrument_share"]) * total
            - (own.highest(self.now_ms, window) - result)
            - on_instrument
        )
        limit = liq.policy["liquidation_limit"]
        left = None if limit is None else Fraction(limit) - liq.gross_draws() - liq.held()
        return {
            "price_concession": None
            if concession is None
            else liq.position.concession_cap(rest, concession),
            "fund": max(ZERO, fund.available - fund.floor),
            "per_liquidation": None if left is None else max(ZERO, floor_at(left, scale)),
            "per_instrument": max(ZERO, floor_at(headroom, scale)),
        }

    def least(self, caps: dict[str, Fraction | None]) -> tuple[Fraction, str]:
        given = [(value, name) for name in CAPS if (value := caps[name]) is not None]
        least = min(value for value, _ in given)
        return next((value, name) for value, name in given if value == least)

    def release(self, liq: Liquidation, order: Order, amount: Fraction) -> None:
        if amount:
            order.held -= amount
            self.funds[liq.currency].available += amount
            self.say(
                "reservation_released",
                liquidation_id=liq.liquidation_id,
                order_id=order.order_id,
                amount=amount,
            )

    def release_excess(self, liq: Liquidation, taken: Fraction = ZERO) -> None:
        """Release what orders no longer reserve for; `taken` is what ADL is about to cover."""
        for order in liq.orders.values():
            covers = liq.reserving_quantity(order)
            if taken:
                left = liq.residual() - taken + liq.awaited(order)
                covers = min(covers, left)
            if covers < order.covers:
                order.covers = covers
                order.whole = False
                self.release(liq, order, order.held - min(order.held, liq.needs(order, covers)))

    # -- booking (section 3)

    def book(self, liq: Liquidation, order: Order | None, message: dict[str, Any]) -> Fact:
        """Book a fill or an ADL execution; return the money fields of its fact."""
        fund = self.funds[liq.currency]
        quantity, price = message["quantity"], message["price"]
        result, pnl = liq.fund_result(), liq.pnl_floor()
        booking = Booking(
            order_id=None if order is None else order.order_id,
            quantity=quantity,
            pnl=liq.position.booked_pnl(quantity, price),
            fee=message["fee"],
        )
        liq.bookings.append(booking)
        delta = booking.delta = liq.fund_result() - result
        freed = used = shortfall_delta = ZERO
        if order is not None:
            order.covers = liq.reserving_quantity(order)
            freed = order.held - min(order.held, liq.needs(order, order.covers))
            order.held -= freed
        if delta < 0:
            draw = -delta - freed
            if draw > 0:
                draw -= min(draw, fund.available)
                used = min(draw, ZERO if order is None else order.held)
                shortfall_delta = -(draw - used)
        else:
            owes = min(liq.own_shortfall(), -fund.shortfall)
            shortfall_delta = max(ZERO, min(delta, owes))
        if order is not None and used:
            order.held -= used
            order.whole = False
        reserved_delta = -(freed + used)
        fund.available += delta - reserved_delta - shortfall_delta
        fund.shortfall += shortfall_delta
        booking.shortfall_delta = shortfall_delta
        instrument = liq.instrument_id
        self.instrument_results[instrument] = self.instrument_results.get(instrument, ZERO) + delta
        notes = self.instrument_notes.setdefault(instrument, Notes())
        notes.note(self.now_ms, self.instrument_results[instrument])
        self.note(liq.currency)
        return {
            "liquidation_id": liq.liquidation_id,
            "price": price,
            "quantity": quantity,
            "pnl": liq.pnl_floor() - pnl,
            "fee": ceil_at(message["fee"], fund.scale),
            "delta": delta,
            "reserved_delta": reserved_delta,
            "shortfall_delta": shortfall_delta,
            "filled": liq.filled(),
            "residual": liq.residual(),
        }

    def flags(self, liq: Liquidation, order: Order, message: dict[str, Any]) -> set[str]:
        found = set()
        if (message["price"] - order.price) * liq.position.sign < 0:
            found.add("limit_violated")
        notional = liq.position.booked_notional(message["quantity"], message["price"])
        unit = self.funds[liq.currency].unit
        if message["fee"] > liq.position.fee_rate * notional + unit:
            found.add("fee_above_rate")
        return found
