"""Outcomes: how the liquidations of a ledger ended, and what that was to the fund.

All of it is folded from effects and postings; amounts are of the margin currency.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, get_args

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text, exact, number
from insurance_fund.events.ledger import Entry

ENDED: Final[tuple[fx.Outcome, ...]] = get_args(fx.Outcome)


@dataclass(slots=True)
class Group:
    """How many liquidations, and the notional at which they, or a part of each, were closed."""

    liquidations: int = 0
    notional: Decimal = ZERO

    def rows(self) -> dict[str, Any]:
        """Return plain values."""
        return {"liquidations": self.liquidations, "notional": amount_text(self.notional)}


@dataclass(slots=True)
class FundOutcome:
    """The fund of one margin currency, and what the liquidations in it came to.

    `before` is what it had at the first takeover, `lowest` the least since then, `after` what it
    has now; `draws` are at or below zero. `ended` holds whole liquidations by how they ended,
    `deleveraged` only what was deleveraged of them. `by_instrument` is what each one brought or
    cost the fund, `costliest` the liquidation that cost most, or brought least: (delta, its id).
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

    @property
    def worst_instrument(self) -> str | None:
        """Return the instrument that cost the fund most or brought it least."""
        return min(self.by_instrument, key=lambda name: self.by_instrument[name], default=None)

    def rows(self) -> dict[str, Any]:
        """Return plain values."""
        amounts = ("before", "lowest", "after", "gains", "draws", "granted", "used", "shortfall")
        return {
            **{name: amount_text(getattr(self, name)) for name in amounts},
            "ended": {outcome: group.rows() for outcome, group in self.ended.items()},
            "deleveraged": self.deleveraged.rows(),
            "by_instrument": {name: amount_text(x) for name, x in self.by_instrument.items()},
        }


@dataclass(slots=True)
class _Liquidation:
    instrument_id: str
    notional: Decimal = ZERO
    deleveraged: bool = False


class Outcomes:
    """Folds the entries of a ledger; `funds` is what they have come to so far."""

    def __init__(self) -> None:
        self.funds: dict[str, FundOutcome] = {}
        self._open: dict[str, _Liquidation] = {}
        self._begun: set[str] = set()

    @exact
    def apply(self, entry: Entry) -> None:
        """Apply the next entry."""
        for effect in entry.effects:
            match effect:
                case fx.PositionTakenOver():
                    self._taken_over(effect)
                case fx.FillBooked() | fx.AdlExecuted():
                    self._booked(effect)
                case fx.LiquidationClosed():
                    self._closed(effect)
        for account, amount in entry.postings.items():
            kind, _, rest = account.partition(":")
            if kind == "fund":
                self._fund(rest.partition(":")[0]).after += number(amount)
            elif kind == "shortfall":
                self._fund(rest).shortfall += number(amount)
        for currency, fund in self.funds.items():
            if currency in self._begun:
                fund.lowest = min(fund.lowest, fund.after)
            else:
                fund.before = fund.lowest = fund.after

    def _fund(self, currency: str) -> FundOutcome:
        return self.funds.setdefault(currency, FundOutcome())

    def _taken_over(self, effect: fx.PositionTakenOver) -> None:
        self._open[effect.liquidation_id] = _Liquidation(effect.terms.instrument_id)
        self._fund(effect.margin_currency)
        self._begun.add(effect.margin_currency)

    def _booked(self, effect: fx.FillBooked | fx.AdlExecuted) -> None:
        fund, liquidation = self._fund(effect.margin_currency), self._open[effect.liquidation_id]
        delta, notional = number(effect.delta), number(effect.notional)
        if delta > ZERO:
            fund.gains += delta
        else:
            fund.draws += delta
        known = fund.by_instrument.get(liquidation.instrument_id, ZERO)
        fund.by_instrument[liquidation.instrument_id] = known + delta
        liquidation.notional += notional
        if isinstance(effect, fx.AdlExecuted):
            fund.deleveraged.notional += notional
            fund.deleveraged.liquidations += not liquidation.deleveraged
            liquidation.deleveraged = True

    def _closed(self, effect: fx.LiquidationClosed) -> None:
        fund, liquidation = self._fund(effect.margin_currency), self._open[effect.liquidation_id]
        del self._open[effect.liquidation_id]
        group, delta = fund.ended[effect.outcome], number(effect.delta)
        group.liquidations += 1
        group.notional += liquidation.notional
        fund.granted += number(effect.granted)
        fund.used += max(ZERO, -delta - number(effect.shortfall))
        cost = (delta, effect.liquidation_id)
        fund.costliest = cost if fund.costliest is None else min(fund.costliest, cost)
