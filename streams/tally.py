"""A tally: what the effects of a ledger came to, per liquidation and per margin currency.

Two tallies of the same records under two policies can be compared. Amounts are of the margin
currency, quantities contracts.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any, Final

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ONE, ZERO, amount_text, exact, floor_scale, number
from insurance_fund.fund.bookings import book
from insurance_fund.fund.state import State

Row = dict[str, Any]

OPEN: Final = "open"
# An ADL trigger asks for all that is left, and the records end before that was executed.
DELEVERAGING: Final = "deleveraging"
OUTCOMES: Final = ("better_than_bankruptcy", "compensated", "deleveraged", DELEVERAGING, OPEN)
SUMMED: Final = ("delta", "gains", "draws", "granted", "deleveraged_notional")
OF_FUND: Final = ("fund_lowest", "fund_after", "shortfall")
FIGURES: Final = (*OUTCOMES, *SUMMED, "deleveraged_liquidations", *OF_FUND)


class LiquidationTally(msgspec.Struct):
    """One liquidation: how it ended, and what its closings brought or cost the fund.

    `gains` are at or above zero, `draws` at or below; `granted` is the compensation over all its
    orders. `asked` is the part of `deleveraged` that a trigger still asks for, `notional` that of
    all of `deleveraged`, `scale` that of the currency.
    """

    instrument_id: str
    margin_currency: str
    scale: int
    outcome: str = OPEN
    gains: Decimal = ZERO
    draws: Decimal = ZERO
    granted: Decimal = ZERO
    deleveraged: Decimal = ZERO
    notional: Decimal = ZERO
    asked: Decimal = ZERO

    @property
    def delta(self) -> Decimal:
        """Return what the fund got of it."""
        return self.gains + self.draws

    @property
    def deleveraged_notional(self) -> Decimal:
        """Return the notional of what was deleveraged, floored to the scale."""
        return floor_scale(self.notional, self.scale)

    def book(self, delta: Decimal) -> None:
        """Add what a closing brought or cost."""
        if delta < ZERO:
            self.draws += delta
        else:
            self.gains += delta

    def deleverage(self, quantity: Decimal, notional: Decimal) -> None:
        """Add what a counterparty took, or is asked to take."""
        self.deleveraged += quantity
        self.notional += notional


class FundTally(msgspec.Struct):
    """The fund of one margin currency: available and reserved together, and what it owes.

    `lowest` is the least it had since its first takeover, None before that.
    """

    after: Decimal = ZERO
    lowest: Decimal | None = None
    shortfall: Decimal = ZERO

    def move(self, amount: Decimal, shortfall: Decimal = ZERO) -> None:
        """Add to the fund, and to its shortfall."""
        self.after += amount
        self.shortfall += shortfall
        if self.lowest is not None:
            self.lowest = min(self.lowest, self.after)


class Tally:
    """Folds effects, one after the other; `settle` ends it."""

    def __init__(self) -> None:
        self.liquidations: dict[str, LiquidationTally] = {}
        self.funds: dict[str, FundTally] = defaultdict(FundTally)

    @exact
    def take(self, effect: fx.AnyEffect) -> None:
        """Add one effect."""
        match effect:
            case fx.FillBooked() | fx.AdlExecuted():
                self._booked(effect)
            case fx.PositionTakenOver():
                self._taken_over(effect)
            case fx.CompensationReserved():
                self.liquidations[effect.liquidation_id].granted += number(effect.granted)
            case fx.LiquidationClosed():
                self.liquidations[effect.liquidation_id].outcome = effect.outcome
            case fx.FundDeposited():
                self.funds[effect.margin_currency].move(number(effect.amount))
            case fx.FundWithdrawn():
                self.funds[effect.margin_currency].move(-number(effect.amount))
            case fx.ShortfallPaid():
                self.funds[effect.margin_currency].move(ZERO, number(effect.amount))

    def _taken_over(self, effect: fx.PositionTakenOver) -> None:
        new = LiquidationTally(
            effect.terms.instrument_id, effect.margin_currency, effect.policy.scale
        )
        # An id may come again after it was forgotten: then one line tells of both.
        self.liquidations.setdefault(effect.liquidation_id, new).outcome = OPEN
        fund = self.funds[effect.margin_currency]
        if fund.lowest is None:
            fund.lowest = fund.after

    def _booked(self, effect: fx.FillBooked | fx.AdlExecuted) -> None:
        liquidation = self.liquidations[effect.liquidation_id]
        delta, shortfall = number(effect.delta), number(effect.shortfall_delta)
        liquidation.book(delta)
        if isinstance(effect, fx.AdlExecuted):
            liquidation.deleverage(number(effect.quantity), number(effect.notional))
        self.funds[effect.margin_currency].move(delta - shortfall, shortfall)

    @exact
    def settle(self, state: State) -> None:
        """Count what triggers still ask for as deleveraged, at their price and the ADL fee rate.

        It is not booked: the balances of the funds stay as they are.
        """
        for liquidation in state.liquidations.values():
            quantity, trigger = liquidation.trigger_target, liquidation.trigger
            if not quantity or trigger is None:
                continue
            price = number(trigger.price)
            notional = liquidation.takeover.notional(quantity, price)
            fee = number(liquidation.policy.adl_fee_rate) * notional
            tally = self.liquidations[liquidation.liquidation_id]
            tally.asked = quantity
            tally.deleverage(quantity, notional)
            tally.book(book(liquidation, quantity, price, fee).delta)
            if quantity == liquidation.quantity - liquidation.closed:
                tally.outcome = DELEVERAGING


@exact
def differing_liquidations(recorded: Tally, other: Tally) -> list[Row]:
    """Return a row for each liquidation that came to something else.

    Those that ended otherwise come first, all in the order of takeover.
    """
    rows = []
    for liquidation_id, before in recorded.liquidations.items():
        after = other.liquidations.get(liquidation_id)
        if after is None:
            after = LiquidationTally(
                before.instrument_id, before.margin_currency, before.scale, "not_taken_over"
            )
        if before == after:
            continue
        row: Row = {
            "liquidation_id": liquidation_id,
            "instrument_id": before.instrument_id,
            "margin_currency": before.margin_currency,
            "outcome": {"recorded": before.outcome, "what_if": after.outcome},
        }
        for figure in (*SUMMED, "deleveraged", "asked"):
            row[figure] = _pair(getattr(before, figure), getattr(after, figure))
        rows.append(row)
    return sorted(rows, key=lambda row: len(set(row["outcome"].values())) == 1)


@exact
def sums_by_currency(recorded: Tally, other: Tally) -> list[Row]:
    """Return a row for each margin currency that has a fund: `FIGURES` of both tallies."""
    before, after = _sums(recorded), _sums(other)
    rows: list[Row] = []
    for currency in sorted(recorded.funds):
        row: Row = {"margin_currency": currency}
        for figure in FIGURES:
            row[figure] = _pair(before[currency][figure], after[currency][figure])
        rows.append(row)
    return rows


def _sums(tally: Tally) -> dict[str, dict[str, Decimal]]:
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for one in tally.liquidations.values():
        figures = sums[one.margin_currency]
        figures[one.outcome] += ONE
        figures["deleveraged_liquidations"] += bool(one.deleveraged)
        for figure in SUMMED:
            figures[figure] += getattr(one, figure)
    for currency, fund in tally.funds.items():
        figures = sums[currency]
        figures["fund_lowest"] = fund.after if fund.lowest is None else fund.lowest
        figures["fund_after"] = fund.after
        figures["shortfall"] = fund.shortfall
    return sums


def _pair(recorded: Decimal, other: Decimal) -> dict[str, str]:
    return {
        "recorded": amount_text(recorded),
        "what_if": amount_text(other),
        "difference": amount_text(other - recorded),
    }
