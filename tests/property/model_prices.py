"""Prices and PnL of docs/rules.md section 2, in exact fractions, from the text alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

ZERO = Fraction(0)


def floor_at(value: Fraction, digits: int) -> Fraction:
    """Round toward minus infinity to `digits` decimal places."""
    return Fraction(math.floor(value * 10**digits), 10**digits)


def ceil_at(value: Fraction, digits: int) -> Fraction:
    """Round toward plus infinity to `digits` decimal places."""
    return Fraction(math.ceil(value * 10**digits), 10**digits)


@dataclass(frozen=True)
class Position:
    """A position as handed over, with the terms of its instrument and the fund's scale."""

    contract_type: str
    contract_size: Fraction
    tick: Fraction
    step: Fraction
    fee_rate: Fraction
    scale: int
    side: str
    quantity: Fraction
    entry: Fraction
    margin: Fraction
    mark: Fraction | None = None
    unbounded_price_factor: Fraction = Fraction(2)

    @property
    def sign(self) -> int:
        return 1 if self.side == "long" else -1

    def size(self, quantity: Fraction) -> Fraction:
        """Return q (linear, quanto) or V (inverse) of so many contracts."""
        return quantity * self.contract_size

    def share(self, quantity: Fraction) -> Fraction:
        """Return the margin that came with so many contracts."""
        return self.margin * quantity / self.quantity

    def notional(self, quantity: Fraction, price: Fraction) -> Fraction:
        if self.contract_type == "inverse":
            return self.size(quantity) / price
        return self.size(quantity) * price

    def booked_notional(self, quantity: Fraction, price: Fraction) -> Fraction:
        """Return the notional, for inverse V / P rounded once against the fund."""
        exact = self.notional(quantity, price)
        if self.contract_type != "inverse":
            return exact
        digits = self.scale + 18
        return ceil_at(exact, digits) if self.side == "long" else floor_at(exact, digits)

    def _pnl(self, quantity: Fraction, notional: Fraction) -> Fraction:
        entry_notional = self.notional(quantity, self.entry)
        if self.contract_type == "inverse":
            return self.sign * (entry_notional - notional)
        return self.sign * (notional - entry_notional)

    def pnl(self, quantity: Fraction, price: Fraction) -> Fraction:
        return self._pnl(quantity, self.notional(quantity, price))

    def booked_pnl(self, quantity: Fraction, price: Fraction) -> Fraction:
        return self._pnl(quantity, self.booked_notional(quantity, price))

    def equity(self, quantity: Fraction, price: Fraction) -> Fraction:
        """Return what closing so many contracts at `price` leaves, after the fee at the rate."""
        fee = self.fee_rate * self.notional(quantity, price)
        return self.share(quantity) + self.pnl(quantity, price) - fee

    def worth_at(self, quantity: Fraction, limit: Fraction) -> Fraction:
        """Return PnL less fee at the rate of an order's rest, V / L rounded like a fill."""
        notional = self.booked_notional(quantity, limit)
        return self._pnl(quantity, notional) - self.fee_rate * notional

    def zero_price(
        self, quantity: Fraction, margin: Fraction, fee_rate: Fraction
    ) -> Fraction | None:
        """Return the price at which `margin` and PnL just pay the fee; None if there is none."""
        size = self.size(quantity)
        if self.contract_type == "inverse":
            base = size / self.entry + self.sign * margin
            return (1 + self.sign * fee_rate) * size / base if base > 0 else None
        return (self.entry - self.sign * margin / size) / (1 - self.sign * fee_rate)

    def bankruptcy_price(self) -> Fraction | None:
        return self.zero_price(self.quantity, self.margin, self.fee_rate)

    def is_degenerate(self) -> bool:
        price = self.bankruptcy_price()
        return price is None or price <= 0

    def has_no_order_price(self) -> bool:
        """Say whether it is a short whose bankruptcy price is below one tick."""
        price = self.bankruptcy_price()
        return self.side == "short" and price is not None and price < self.tick

    def degenerate_limit(self) -> Fraction:
        if self.side == "long":
            return self.tick
        limit = self.unbounded_price_factor * (self.mark or self.entry)
        return max(self.tick, self.to_tick(limit))

    def to_tick(self, price: Fraction) -> Fraction:
        """Round to the tick on the fund's side: a sell up, a buy down."""
        ticks = price / self.tick
        whole = math.ceil(ticks) if self.side == "long" else math.floor(ticks)
        return whole * self.tick

    def conceded_price(self, concession: Fraction) -> Fraction:
        """Return Pk of a position that is not degenerate."""
        price = self.bankruptcy_price()
        assert price is not None
        return price * (1 - self.sign * concession)

    def concession_cap(self, rest: Fraction, concession: Fraction) -> Fraction:
        if self.is_degenerate():
            return ZERO
        needed = -self.equity(rest, self.conceded_price(concession))
        return max(ZERO, floor_at(needed, self.scale))

    def closing_price(
        self, rest: Fraction, compensation: Fraction, concession: Fraction
    ) -> Fraction:
        """Return the limit: the less generous of what `compensation` and `concession` allow."""
        if self.is_degenerate():
            return self.degenerate_limit()
        allowed = self.zero_price(rest, self.share(rest) + compensation, self.fee_rate)
        conceded = self.conceded_price(concession)
        if allowed is None:
            return self.to_tick(conceded)
        if self.side == "long":
            return self.to_tick(max(allowed, conceded))
        return self.to_tick(min(allowed, conceded))

    def adl_price(self, adl_fee_rate: Fraction) -> tuple[Fraction, str]:
        """Return the price of a deleveraging and what it is based on."""
        price = self.zero_price(self.quantity, self.margin, adl_fee_rate)
        if price is None or price <= 0:
            return self.degenerate_limit(), "order_price"
        return max(self.tick, self.to_tick(price)), "bankruptcy_price"
