"""Contracts and prices: what a position is worth and at which price it is bankrupt, exactly.

One algebra serves all contract types. The *notional* of q contracts at price P, in the margin
currency, is `q cs P` (linear, quanto) or `q cs / P` (inverse), and with `sigma` = s for linear and
quanto and -s for inverse (s = +1 long, -1 short)

    PnL = sigma (sum of notionals at the closing prices - n e),    e = entry notional per contract.

A position with margin M closed at notional x with closing fee f is worth
`M + sigma (x - N e) - f x`; the bankruptcy price is where that is zero (the bankruptcy
formulas that BitMEX and Bybit publish are the case f = 0).
"""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec.structs import force_setattr

from insurance_fund.events.amounts import (
    EXTRA_DIGITS,
    ONE,
    ZERO,
    amount_text,
    ceil_div,
    ceil_to,
    exact,
    floor_div,
    floor_scale,
    floor_to,
    is_multiple,
    number,
)
from insurance_fund.events.errors import InputError
from insurance_fund.events.fields import OrderSide, PositionSide
from insurance_fund.events.terms import Terms

PRICE_DIGITS = 18


class Price(NamedTuple):
    """An exact price `numerator / denominator`; the denominator is above zero."""

    numerator: Decimal
    denominator: Decimal

    def times(self, factor: Decimal) -> Price:
        """Return the price multiplied by `factor`."""
        return Price(self.numerator * factor, self.denominator)

    def at_least(self, price: Decimal) -> bool:
        """Tell whether this price is not below `price`."""
        return self.numerator >= price * self.denominator

    @exact
    def text(self) -> str:
        """Write the price for reading, floored to 18 digits."""
        return amount_text(floor_to(self.numerator, self.denominator, PRICE_DIGITS))


class Contract(NamedTuple):
    """The numbers of an instrument's terms."""

    inverse: bool
    size: Decimal
    tick: Decimal
    step: Decimal
    fee_rate: Decimal

    def check_step(self, quantity: Decimal) -> None:
        """Raise InputError unless the quantity is a multiple of the quantity step."""
        if not is_multiple(quantity, self.step):
            raise InputError(
                "off_step_quantity",
                f"quantity {amount_text(quantity)} is no multiple of the quantity step "
                f"{amount_text(self.step)}",
            )

    def notional(
        self, quantity: Decimal, price: Decimal, side: PositionSide, scale: int
    ) -> Decimal:
        """Return the notional of `quantity` contracts at `price`, in the margin currency.

        An inverse value is rounded once, against the fund, at scale + 18 digits: up for a long,
        down for a short (docs/rules.md section 3).
        """
        face = quantity * self.size
        if not self.inverse:
            return face * price
        digits = scale + EXTRA_DIGITS
        return ceil_to(face, price, digits) if side == "long" else floor_to(face, price, digits)

    def to_tick(self, price: Price, side: PositionSide) -> Decimal:
        """Round to the tick on the fund's side: up for a long (sell), down for a short (buy)."""
        return self.ticks(price, side) * self.tick

    def ticks(self, price: Price, side: PositionSide) -> Decimal:
        """Return `to_tick` counted in ticks."""
        round_div = ceil_div if side == "long" else floor_div
        return round_div(price.numerator, price.denominator * self.tick)


@functools.lru_cache(maxsize=4096)
def contract_of(terms: Terms) -> Contract:
    """Return the numbers of these terms."""
    return Contract(
        inverse=terms.contract_type == "inverse",
        size=number(terms.contract_size),
        tick=number(terms.tick_size),
        step=number(terms.quantity_step),
        fee_rate=number(terms.closing_fee_rate),
    )


def closing_side(side: PositionSide) -> OrderSide:
    """Return the side of an order that closes a position: a long is sold, a short bought."""
    return "sell" if side == "long" else "buy"


class Takeover(msgspec.Struct, frozen=True, gc=False):
    """A position as it was taken over: the fixed numbers of every later computation.

    `quantity` in contracts, `entry_price` in the quote currency, `margin` in the margin currency
    (a multiple of `10 ** -scale`). Derived: `sign` is s, `sigma` the sign of the PnL by notional
    (s, or -s for inverse), `e_num / e_den` the entry notional e of one contract.
    """

    contract: Contract
    side: PositionSide
    quantity: Decimal
    entry_price: Decimal
    margin: Decimal
    scale: int
    sign: Decimal = ZERO
    sigma: Decimal = ZERO
    e_num: Decimal = ZERO
    e_den: Decimal = ONE

    @exact
    def __post_init__(self) -> None:
        sign = ONE if self.side == "long" else -ONE
        size, inverse = self.contract.size, self.contract.inverse
        force_setattr(self, "sign", sign)
        force_setattr(self, "sigma", -sign if inverse else sign)
        force_setattr(self, "e_num", size if inverse else size * self.entry_price)
        force_setattr(self, "e_den", self.entry_price if inverse else ONE)

    def notional(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Return the notional of `quantity` contracts of this position at `price`."""
        return self.contract.notional(quantity, price, self.side, self.scale)

    def pnl(self, closed: Decimal, notional: Decimal) -> Decimal:
        """Return B, the floored PnL of `closed` contracts whose closing notionals sum to this."""
        gain = self.sigma * (notional * self.e_den - closed * self.e_num)
        if self.e_den is ONE:
            return floor_scale(gain, self.scale)
        return floor_to(gain, self.e_den, self.scale)

    def worth(self, closed: Decimal, notional: Decimal, fee: Decimal = ZERO) -> Decimal:
        """Return floor(M n / N + PnL - fee): what `closed` contracts bring, with their margin."""
        quantity, e_den = self.quantity, self.e_den
        if e_den is ONE:
            gain = self.sigma * (notional - closed * self.e_num) - fee
            return floor_to(self.margin * closed + gain * quantity, quantity, self.scale)
        gain = self.sigma * (notional * e_den - closed * self.e_num) - fee * e_den
        numerator = self.margin * closed * e_den + gain * quantity
        return floor_to(numerator, quantity * e_den, self.scale)

    def _core(self) -> Decimal:
        # N e - sigma M, times the denominator of e: the notional at bankruptcy before the fee.
        return self.e_num * self.quantity - self.sigma * self.margin * self.e_den

    def bankruptcy_price(self, fee_rate: Decimal | None = None) -> Price | None:
        """Return Pb, the price at which nothing is left after the closing fee.

        `Pb = (E - s M / q) / (1 - s f)` (linear, quanto; at or below zero for a long whose margin
        covers everything) or `(1 + s f) V / (V / E + s M)` (inverse; None where none is finite).
        """
        fee = self.contract.fee_rate if fee_rate is None else fee_rate
        return self._price(self._core(), ONE, fee)

    def price_allowed_by(self, compensation: Decimal, rest: Decimal) -> Price | None:
        """Return Pc, the bankruptcy price of the `rest` with its margin share plus `compensation`.

        None where no price is too bad (inverse short).
        """
        core = self._core() * rest - self.sigma * compensation * self.quantity * self.e_den
        return self._price(core, rest, self.contract.fee_rate)

    def _price(self, core: Decimal, rest: Decimal, fee_rate: Decimal) -> Price | None:
        fee_factor = ONE - self.sigma * fee_rate
        if not self.contract.inverse:
            return Price(core, rest * self.quantity * self.contract.size * fee_factor)
        if core <= ZERO:
            return None
        return Price(self.contract.size * fee_factor * self.e_den * self.quantity * rest, core)

    def concession_cost(self, concession: Decimal, rest: Decimal) -> Decimal:
        """Return what closing `rest` at Pk = Pb (1 - s k) costs the fund, floored, at least zero.

        `-(M rest / N + PnL(rest at Pk) - f x notional)` at the unrounded Pk; it comes to
        `k (rest e - sigma M rest / N)`, over `1 - s k` for inverse contracts.
        """
        cost = concession * self._core() * rest
        divisor = self.e_den * self.quantity
        if self.contract.inverse:
            divisor *= ONE - self.sign * concession
        return max(ZERO, floor_to(cost, divisor, self.scale))


def degenerate_limit(
    position: Takeover, bankruptcy: Price | None, reference: Decimal, factor: Decimal
) -> Decimal | None:
    """Return the limit where no usable bankruptcy price exists, None where there is one.

    A long with Pb at or below zero: one tick. An inverse short without Pb: `factor` times the
    `reference` (mark or entry) price, on the tick.
    """
    contract = position.contract
    if bankruptcy is None:
        limit = contract.to_tick(Price(reference * factor, ONE), position.side)
        return max(limit, contract.tick)
    if position.side == "long" and bankruptcy.numerator <= ZERO:
        return contract.tick
    return None


def closing_price(
    position: Takeover,
    bankruptcy: Price,
    concession: Decimal,
    compensation: Decimal,
    rest: Decimal,
) -> Decimal:
    """Return the limit that `compensation` allows: the less generous of Pc and Pk, on the tick.

    `bankruptcy` is finite and above zero; Pk = Pb (1 - s k).
    """
    contract, side = position.contract, position.side
    conceded = contract.ticks(bankruptcy.times(ONE - position.sign * concession), side)
    allowed = position.price_allowed_by(compensation, rest)
    if allowed is None:
        return conceded * contract.tick
    pick = max if side == "long" else min
    return pick(conceded, contract.ticks(allowed, side)) * contract.tick
