"""Outcomes: how the liquidations of a ledger ended, and what that was to the fund.

The one fold of these figures; docs/policy.md says what each means. Amounts are of the margin
currency and exact: the notional of inverse contracts has more digits than the currency and is
floored to its scale where it is written. Quantities are contracts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, get_args

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import (
    SCALE_MAX,
    ZERO,
    amount_text,
    exact,
    floor_scale,
    number,
)
from insurance_fund.events.ledger import Entry
from insurance_fund.fund.bookings import book
from insurance_fund.fund.state import State

ENDED: Final[tuple[fx.Outcome, ...]] = get_args(fx.Outcome)
OPEN: Final = "open"
# An ADL trigger asks for all that is left, and the records end before that was executed.
DELEVERAGING: Final = "deleveraging"


def floored_text(amount: Decimal, scale: int) -> str:
    """Write an amount with at most the decimals of its currency."""
    return amount_text(floor_scale(amount, scale))


@dataclass(slots=True)
class LiquidationOutcome:
    """One liquidation: what it has come to so far.

    `gains` are at or above zero, `draws` at or below, and so is `shortfall`, what of its draws the
    fund could not pay. `deleveraged` is what counterparties took, `asked` what a trigger still
    asks them for; `asked_notional` and `asked_delta` are what that will be at the trigger's price.
    """

    liquidation_id: str
    instrument_id: str
    margin_currency: str
    outcome: str = OPEN
    notional: Decimal = ZERO
    gains: Decimal = ZERO
    draws: Decimal = ZERO
    shortfall: Decimal = ZERO
    granted: Decimal = ZERO
    deleveraged: Decimal = ZERO
    deleveraged_notional: Decimal = ZERO
    asked: Decimal = ZERO
    asked_notional: Decimal = ZERO
    asked_delta: Decimal = ZERO

    @property
    def delta(self) -> Decimal:
        """Return what the fund got of it."""
        return self.gains + self.draws

    @property
    def used(self) -> Decimal:
        """Return what it cost the fund on the whole, without what the fund could not pay."""
        return max(ZERO, self.shortfall - self.delta)


@dataclass(slots=True)
class Group:
    """How many liquidations, and the notional at which they, or a part of each, were closed."""

    liquidations: int = 0
    notional: Decimal = ZERO

    def rows(self, scale: int) -> dict[str, Any]:
        """Return plain values."""
        return {
            "liquidations": self.liquidations,
            "notional": floored_text(self.notional, scale),
        }


@dataclass(slots=True)
class FundOutcome:
    """The fund of one margin currency, and what the liquidations in it have come to.

    `before` is what it had at the first takeover, `lowest` the least after any booking or transfer
    since, `after` what it has now; `draws` and `shortfall` are at or below zero. `ended` holds
    whole liquidations by how they ended, `deleveraged` only what was deleveraged of any.
    `by_instrument` is what each instrument drew, `costliest` the liquidation that drew most: (its
    draws, its id).
    `scale` is that of the currency, known with the first takeover (`begun`).
    """

    before: Decimal = ZERO
    lowest: Decimal = ZERO
    after: Decimal = ZERO
    gains: Decimal = ZERO
    draws: Decimal = ZERO
    granted: Decimal = ZERO
    used: Decimal = ZERO
    shortfall: Decimal = ZERO
    ended: dict[fx.Outcome, Group] = field(
        default_factory=lambda: {outcome: Group() for outcome in ENDED}
    )
    deleveraged: Group = field(default_factory=Group)
    by_instrument: dict[str, Decimal] = field(default_factory=dict)
    costliest: tuple[Decimal, str] | None = None
    scale: int = SCALE_MAX
    begun: bool = False

    @property
    def worst_instrument(self) -> str | None:
        """Return the instrument that drew most, None where nothing was drawn."""
        return min(self.by_instrument, key=lambda name: self.by_instrument[name], default=None)

    def move(self, amount: Decimal) -> None:
        """Add to what the fund has."""
        self.after += amount
        if self.begun:
            self.lowest = min(self.lowest, self.after)
        else:
            self.before = self.lowest = self.after

    def draw(self, liquidation: LiquidationOutcome, delta: Decimal) -> None:
        """Count a booking that cost money; the liquidation has it already."""
        self.draws += delta
        name = liquidation.instrument_id
        self.by_instrument[name] = self.by_instrument.get(name, ZERO) + delta
        cost = (liquidation.draws, liquidation.liquidation_id)
        self.costliest = cost if self.costliest is None else min(self.costliest, cost)

    @exact
    def rows(self) -> dict[str, Any]:
        """Return plain values."""
        amounts = ("before", "lowest", "after", "gains", "draws", "granted", "used", "shortfall")
        return {
            **{name: amount_text(getattr(self, name)) for name in amounts},
            "ended": {outcome: group.rows(self.scale) for outcome, group in self.ended.items()},
            "deleveraged": self.deleveraged.rows(self.scale),
            "by_instrument": {name: amount_text(x) for name, x in self.by_instrument.items()},
        }


class Outcomes:
    """Folds the entries of a ledger; `funds` is what they have come to so far.

    Of liquidations only the open ones are kept; `on_takeover` is handed each one as it begins, for
    who wants to keep more.
    """

    def __init__(self, on_takeover: Callable[[LiquidationOutcome], None] | None = None) -> None:
        self.funds: dict[str, FundOutcome] = {}
        self.open: dict[str, LiquidationOutcome] = {}
        self._on_takeover = on_takeover

    @exact
    def apply(self, entry: Entry) -> None:
        """Apply the next entry."""
        for effect in entry.effects:
            match effect:
                case fx.PositionTakenOver():
                    self._taken_over(effect)
                case fx.CompensationReserved():
                    self.open[effect.liquidation_id].granted += number(effect.granted)
                    self.funds[effect.margin_currency].granted += number(effect.granted)
                case fx.FillBooked() | fx.AdlExecuted():
                    self._booked(effect)
                case fx.LiquidationClosed():
                    self._closed(effect)
                case fx.FundDeposited():
                    self._fund(effect.margin_currency).move(number(effect.amount))
                case fx.FundWithdrawn():
                    self._fund(effect.margin_currency).move(-number(effect.amount))
                case fx.ShortfallPaid():
                    self._fund(effect.margin_currency).shortfall += number(effect.amount)

    @exact
    def ask(self, state: State) -> None:
        """Note what the triggers of a ledger's state still ask for, beside what is booked.

        Notional and delta are reckoned at the trigger's price and the ADL fee rate.
        """
        for liquidation in state.liquidations.values():
            quantity, trigger = liquidation.trigger_target, liquidation.trigger
            if not quantity or trigger is None:
                continue
            price = number(trigger.price)
            notional = liquidation.takeover.notional(quantity, price)
            fee = number(liquidation.policy.adl_fee_rate) * notional
            outcome = self.open[liquidation.liquidation_id]
            outcome.asked, outcome.asked_notional = quantity, notional
            outcome.asked_delta = book(liquidation, quantity, price, fee).delta
            if quantity == liquidation.quantity - liquidation.closed:
                outcome.outcome = DELEVERAGING

    def _fund(self, currency: str) -> FundOutcome:
        return self.funds.setdefault(currency, FundOutcome())

    def _taken_over(self, effect: fx.PositionTakenOver) -> None:
        fund = self._fund(effect.margin_currency)
        fund.begun, fund.scale = True, effect.policy.scale
        liquidation = LiquidationOutcome(
            effect.liquidation_id, effect.terms.instrument_id, effect.margin_currency
        )
        self.open[effect.liquidation_id] = liquidation
        if self._on_takeover is not None:
            self._on_takeover(liquidation)

    def _booked(self, effect: fx.FillBooked | fx.AdlExecuted) -> None:
        fund, liquidation = self.funds[effect.margin_currency], self.open[effect.liquidation_id]
        delta, shortfall = number(effect.delta), number(effect.shortfall_delta)
        notional, used = number(effect.notional), liquidation.used
        liquidation.notional += notional
        liquidation.shortfall += shortfall
        if delta < ZERO:
            liquidation.draws += delta
            fund.draw(liquidation, delta)
        else:
            liquidation.gains += delta
            fund.gains += delta
        if isinstance(effect, fx.AdlExecuted):
            fund.deleveraged.liquidations += not liquidation.deleveraged
            fund.deleveraged.notional += notional
            liquidation.deleveraged += number(effect.quantity)
            liquidation.deleveraged_notional += notional
        fund.used += liquidation.used - used
        fund.shortfall += shortfall
        fund.move(delta - shortfall)

    def _closed(self, effect: fx.LiquidationClosed) -> None:
        liquidation = self.open.pop(effect.liquidation_id)
        liquidation.outcome = effect.outcome
        group = self.funds[effect.margin_currency].ended[effect.outcome]
        group.liquidations += 1
        group.notional += liquidation.notional
