"""Worked examples of other exchanges as cases: a vector's inputs, its position, and a fund to run.

Amounts run at 18 decimals, the policy's most, so that no rounding comes between; kinds about
rounding take the scale that their inputs name. Nothing here looks at a vector's id.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ONE, ZERO, amount_text, unit
from insurance_fund.events.fields import ContractType, PositionSide
from insurance_fund.events.terms import Terms
from insurance_fund.fund.bookkeeper import Written
from insurance_fund.fund.contracts import (
    Price,
    Takeover,
    closing_side,
    contract_of,
)
from tests.unit.life import Life

SCALE: Final = 18
FINEST: Final = unit(SCALE)
NAME: Final = "liq-7"
UNLIMITED: Final = Decimal(10) ** 18
MOST: Final = Decimal("0.99")
NO_CONCESSION_BINDS: Final = {"long": ONE, "short": Decimal(10) ** 9}
MILLION: Final = 1_000_000
HOURS_9_MS: Final = 9 * 3_600_000
# A source that does not write a value out has rounded it to the nearest at its last digit, and
# none of them at fewer than six decimals.
SOURCE_DIGITS: Final = 6

# Where our answer differs from the source's: by how much is asserted where it is used.
DIFFERENCES: Final = {
    "fee_cap": "the source leaves the account what its fee cap does not take: of {ours} the fund "
    "keeps {source} there and all of it here; within a sequence the rest is withdrawn at once",
    "adl_at_mark": "the source deleverages at the mark where the bankruptcy price is far from it; "
    "ours is always the bankruptcy price (docs/rules.md 2), here {apart} from the mark",
    "below_one_tick": "a buy below one tick is not sent (docs/rules.md 2): the price is that of "
    "its ADL trigger",
    "balance_gate": "the source does not look at the drawdown of a pool of {balance}; here the "
    "share holds at any balance",
    "floor": "an inverse value that does not end is rounded once, against the fund "
    "(docs/rules.md 3): {ours} in place of nothing",
    "multiple": "the margin does not end at 18 decimals; a position {times} times as large was "
    "taken, which is bankrupt at the same price",
    "no_message": "a takeover message cannot say this (no price above zero leaves a margin of "
    "zero or more): only the price functions were run",
    "beyond_concession": "the compensation is above what a concession of 99 % can cost: only "
    "the price functions were run",
}


class NotRunnableError(Exception):
    """This vector cannot be run, though its kind can: the message says why."""


@dataclass
class Vector:
    """A worked example, what of it was compared, and remarks for a reader."""

    name: str
    kind: str
    inputs: dict[str, Any]
    expected: dict[str, Any]
    compared: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def not_compared(self) -> list[str]:
        return sorted(set(self.expected) - self.compared)

    def maybe(self, *names: str) -> Decimal | None:
        """Return the first of these inputs that is given, as a number."""
        for name in names:
            value = self.inputs.get(name)
            if value is None or value == "unlimited":
                continue
            if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", str(value)) is None:
                raise NotRunnableError(f"the input {name} is prose, not a number: {value!r}")
            return said(value)
        return None

    def amount(self, *names: str) -> Decimal:
        value = self.maybe(*names)
        if value is None:
            raise NotRunnableError(f"the inputs name none of: {', '.join(names)}")
        return value

    def has(self, *names: str) -> bool:
        return any(self.inputs.get(name) is not None for name in names)

    def side(self, size: Decimal | None = None) -> PositionSide:
        """Return the side of the position, by name, by its closing order or by the sign."""
        word = self.inputs.get("position_side") or self.inputs.get("side")
        if word is None and self.inputs.get("order_side"):
            word = "long" if self.inputs["order_side"] == "sell" else "short"
        if word is None and size:
            word = "long" if size > 0 else "short"
        if word not in ("long", "short"):
            raise NotRunnableError(f"the side {word!r} is neither long nor short")
        return "long" if word == "long" else "short"

    def compare(self, name: str, ours: Any) -> None:
        """Compare one expected field, if the vector has it."""
        if name not in self.expected:
            return
        self.compared.add(name)
        theirs = self.expected[name]
        assert agree(ours, theirs), f"{self.name}, {name}: ours {ours}, expected {theirs}"

    def differs(self, why: str, **values: Any) -> None:
        self.notes.append(DIFFERENCES[why].format(**values))


def agree(ours: Any, theirs: Any) -> bool:
    """Tell whether two answers are the same; amounts to the last digit that the source wrote."""
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(agree, ours, theirs))
    if theirs is None or not isinstance(ours, Decimal | Fraction):
        return bool(ours == theirs)
    digits = max(SOURCE_DIGITS, len(str(theirs).partition(".")[2]))
    scaled = Fraction(ours) * 10**digits
    apart = abs(scaled - Fraction(str(theirs)) * 10**digits)
    # Half a digit of the source's rounding and one unit of our own floor.
    slack = Fraction(1, 2) + Fraction(10**digits, 10**SCALE)
    return bool(apart <= (slack if scaled.denominator > 1 else 0))


def said(value: Any) -> Decimal:
    """Read an amount that stands within a list or an object of a vector."""
    try:
        return Decimal(str(value))
    except ArithmeticError as error:
        raise NotRunnableError(f"{value!r} is prose, not a number") from error


def floored(value: Fraction | Decimal, scale: int = SCALE) -> Decimal:
    return Decimal(math.floor(Fraction(value) * 10**scale)).scaleb(-scale)


def decimals(*values: Decimal) -> int:
    return max(-int(value.normalize().as_tuple().exponent) for value in (ZERO, *values))


def fraction(price: Price) -> Fraction:
    """Return an exact price; how it is written for reading is checked on the way."""
    value = Fraction(price.numerator) / Fraction(price.denominator)
    assert Decimal(price.text()) == floored(value)
    return value


@dataclass(frozen=True)
class Position:
    """A position to hand over, with the terms of its instrument."""

    side: PositionSide
    quantity: Decimal
    entry: Decimal
    margin: Decimal = ZERO
    contract: ContractType = "linear"
    size: Decimal = ONE
    tick: Decimal = FINEST
    fee_rate: Decimal = ZERO
    times: Fraction = Fraction(1)

    @property
    def sign(self) -> int:
        return 1 if self.side == "long" else -1

    @property
    def sendable(self) -> bool:
        return self.entry > 0 and self.margin >= 0

    def terms(self, instrument_id: str = "X") -> Terms:
        return Terms(
            instrument_id=instrument_id,
            margin_currency="USDT",
            contract_type=self.contract,
            contract_size=amount_text(self.size),
            tick_size=amount_text(self.tick),
            quantity_step=amount_text(FINEST),
            closing_fee_rate=amount_text(self.fee_rate),
        )

    def takeover(self, scale: int = SCALE) -> Takeover:
        return Takeover(
            contract_of(self.terms()),
            self.side,
            self.quantity,
            self.entry,
            floored(self.margin, scale),
            scale,
        )

    def bankruptcy_price(self) -> Fraction | None:
        price = self.takeover().bankruptcy_price()
        return None if price is None else fraction(price)

    def fee(self, quantity: Decimal, price: Decimal) -> Decimal:
        return floored(self.fee_rate * self.takeover().notional(quantity, price))


class Run:
    """A whole fund that takes positions over and hears of fills."""

    def __init__(
        self,
        position: Position,
        balance: Decimal | None = UNLIMITED,
        *,
        pricing: Literal["fund", "exchange"] = "fund",
        concession: Decimal = ZERO,
        limit: Decimal | None = None,
        share: Decimal = ONE,
        floor: Decimal = ZERO,
        scale: int = SCALE,
    ) -> None:
        self.scale = scale
        self.balance = UNLIMITED if balance is None else balance
        if self.balance < 0:
            raise NotRunnableError("a fund never holds less than nothing")
        self.life = Life(
            {
                "currencies": {"USDT": {"scale": scale, "floor": amount_text(floor)}},
                "default": {
                    "order_pricing": pricing,
                    "attempts": [[amount_text(concession), 30_000]],
                    "liquidation_limit": None if limit is None else amount_text(limit),
                    "instrument_share": amount_text(share),
                },
            },
            deposit=None,
            instruments=(),
        )
        self.transfers = 0
        for name in ("X", "OTHER"):
            terms = position.terms(name)
            fields = {name: getattr(terms, name) for name in terms.__struct_fields__}
            self.life.send("instruments", "instrument_defined", **fields)
        self.transfer(self.balance)

    def transfer(self, amount: Decimal) -> None:
        """Put money into the fund, or take it out."""
        if floored(amount, self.scale) != amount:
            raise NotRunnableError(f"a transfer of {amount} is finer than the currency's scale")
        if amount:
            kind = "fund_deposit" if amount > 0 else "fund_withdrawal"
            self.transfers += 1
            self.life.transfer(kind, amount_text(abs(amount)), f"t{self.transfers}")
            assert not self.life.sent(), self.life.sent()

    def take_over(self, position: Position, name: str = NAME, instrument: str = "X") -> Written:
        if not position.sendable:
            raise NotRunnableError("a takeover message cannot say a price or margin below zero")
        written = self.life.take_over(
            name,
            instrument_id=instrument,
            position_side=position.side,
            quantity=amount_text(position.quantity),
            entry_price=amount_text(position.entry),
            margin=amount_text(floored(position.margin)),
        )
        taken = self.life.only(fx.PositionTakenOver)
        price = position.takeover().bankruptcy_price()
        assert taken.bankruptcy_price == (None if price is None else price.text())
        return written

    def send_fill(self, side: str, quantity: Decimal, price: Decimal, **fields: Any) -> Written:
        message = {"order": f"{NAME}:1", "instrument_id": "X", **fields}
        name = f"f{self.life.offsets}"
        return self.life.fill(amount_text(quantity), amount_text(price), name, side=side, **message)

    def fill(
        self, position: Position, quantity: Decimal, price: Decimal, fee: Decimal = ZERO, **on: Any
    ) -> fx.FillBooked:
        side = closing_side(position.side)
        self.send_fill(side, quantity, price, fee=amount_text(fee), **on)
        return self.life.only(fx.FillBooked)

    def move(self, name: str, amount: Decimal, instrument: str = "X") -> None:
        """Let one liquidation bring or cost the fund this amount."""
        if not amount:
            return
        position, _ = claiming(abs(amount))
        self.take_over(position, name, instrument)
        price = position.entry + amount
        on: dict[str, Any] = {"order": f"{name}:1", "instrument_id": instrument}
        assert self.fill(position, ONE, price, **on).delta == amount_text(amount)

    @property
    def total(self) -> Decimal:
        return self.life.available() + self.life.reserved()

    @property
    def shortfall(self) -> Decimal:
        return -self.life.state.funds["USDT"].shortfall

    def order_price(self) -> Decimal:
        """Return the price of the order just sent or, where there is none, of the trigger."""
        effects = self.life.last.entry.effects
        (found,) = [e for e in effects if isinstance(e, fx.OrderIssued | fx.AdlTriggered)]
        return Decimal(found.price)


def claiming(loss: Decimal) -> tuple[Position, Decimal]:
    """Return a position, and the concession at which closing it costs exactly this loss."""
    return Position("long", ONE, 2 * loss or ONE), Decimal("0.5") if loss else ZERO


def contract_type(vector: Vector) -> ContractType:
    named = vector.inputs.get("contract") or ("inverse" if "inverse" in vector.kind else "linear")
    kinds: dict[str, ContractType] = {"linear": "linear", "inverse": "inverse", "quanto": "quanto"}
    if named not in kinds:
        raise NotRunnableError(f"no contract type of ours is called {named!r}")
    return kinds[named]


def at_bankruptcy(vector: Vector, quantity: Decimal | None = None, price: Any = None) -> Position:
    """Return a position of which only the bankruptcy price is known (docs/rules.md 1).

    A long bankrupt at or below zero is handed over at 1 with the margin that brings it there.
    """
    at = vector.amount("bankruptcy_price") if price is None else said(price)
    side = vector.side(vector.maybe("size"))
    size = vector.amount("size", "quantity", "contracts") if quantity is None else quantity
    factor = vector.maybe("contract_size", "multiplier") or ONE
    contract = contract_type(vector)
    margin = ZERO
    if at <= 0 and side == "long" and contract != "inverse":
        margin, at = abs(size) * factor * (1 - at), ONE
    return Position(side, abs(size), at, margin, contract, factor)


def account(size: Decimal, cash: Decimal) -> Position:
    """Return the position of an account that holds this cash: bankrupt at -cash / size."""
    bankrupt = -Fraction(cash) / Fraction(size)
    entry = Decimal(max(1, math.ceil(bankrupt))) if size > 0 else floored(bankrupt)
    side: PositionSide = "long" if size > 0 else "short"
    if entry <= 0:
        entry = ONE
    return Position(side, abs(size), entry, cash + size * entry)


def priced(vector: Vector) -> Position:
    """Return a position that is given by its entry price and its margin or leverage.

    A margin that would have to be floored is made exact by a multiple of the position.
    """
    contract, entry = contract_type(vector), vector.amount("entry_price")
    quantity = vector.maybe("size", "quantity", "contracts", "quantity_usd")
    factor = vector.maybe("contract_size", "multiplier") or ONE
    if quantity is None:
        notional = Fraction(vector.amount("notional"))
        quantity = floored(notional if contract == "inverse" else notional / Fraction(entry))
    face = Fraction(abs(quantity) * factor)
    value = face / Fraction(entry) if contract == "inverse" else face * Fraction(entry)
    leverage = vector.maybe("leverage") or ONE
    margin = vector.maybe("margin", "remaining_margin", "position_margin")
    if margin is not None:
        initial = Fraction(margin + (vector.maybe("wallet_balance") or ZERO))
    elif vector.has("leverage"):
        initial = value / Fraction(leverage)
    else:
        initial = value * Fraction(vector.amount("initial_margin_rate"))
    vector.compare("position_value", value)
    vector.compare("initial_margin", initial)
    multiples = (Fraction(t) for t in (ONE, leverage, entry, leverage * entry))
    times = next((t for t in multiples if floored(initial * t) == initial * t), Fraction(1))
    if times != 1:
        vector.differs("multiple", times=times)
    return Position(
        vector.side(quantity),
        abs(quantity) * floored(times),
        entry,
        floored(initial * times),
        contract,
        factor,
        vector.maybe("tick_size") or FINEST,
        vector.maybe("trade_fee_rate", "close_fee_rate", "closing_fee_rate") or ZERO,
        times,
    )
