"""Differences: the outcomes of the same records under two policies, side by side."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any, Final

from insurance_fund.events.amounts import SCALE_MAX, ZERO, exact
from insurance_fund.events.ledger import Entry
from insurance_fund.fund.state import State
from insurance_fund.projections.outcomes import (
    DELEVERAGING,
    ENDED,
    OPEN,
    FundOutcome,
    LiquidationOutcome,
    Outcomes,
    floored_text,
)

Row = dict[str, Any]

_BOOKED: Final = ("delta", "gains", "draws", "granted", "deleveraged_notional")
_ASKED: Final = ("asked_notional", "asked_delta")
_OF_FUND: Final = ("fund_lowest", "fund_after", "shortfall")
FIGURES: Final = (
    *ENDED,
    DELEVERAGING,
    OPEN,
    *_BOOKED,
    "deleveraged_liquidations",
    *_ASKED,
    *_OF_FUND,
)


class Side:
    """One side of a comparison: outcomes, with every liquidation kept, closed ones too.

    An id may come again after it was forgotten: the key of a liquidation is its id and how often
    that came before.
    """

    def __init__(self) -> None:
        self.outcomes = Outcomes(self._keep)
        self.liquidations: dict[tuple[str, int], LiquidationOutcome] = {}
        self._times: Counter[str] = Counter()

    def apply(self, entry: Entry) -> None:
        """Apply the next entry."""
        self.outcomes.apply(entry)

    def ask(self, state: State) -> None:
        """End with the state that the entries have come to: triggers may still ask for more."""
        self.outcomes.ask(state)

    def _keep(self, liquidation: LiquidationOutcome) -> None:
        name = liquidation.liquidation_id
        self.liquidations[name, self._times[name]] = liquidation
        self._times[name] += 1


@exact
def differing_liquidations(recorded: Side, other: Side) -> list[Row]:
    """Return a row for each liquidation that came to something else.

    Those that ended otherwise come first, all in the order of takeover.
    """
    rows = []
    for key, before in recorded.liquidations.items():
        name, instrument, currency = (
            before.liquidation_id,
            before.instrument_id,
            before.margin_currency,
        )
        missing = LiquidationOutcome(name, instrument, currency, "not_taken_over")
        after = other.liquidations.get(key, missing)
        if before == after:
            continue
        row: Row = {
            "liquidation_id": name,
            "instrument_id": instrument,
            "margin_currency": currency,
            "outcome": {"recorded": before.outcome, "what_if": after.outcome},
        }
        scale = recorded.outcomes.funds[currency].scale
        for figure in (*_BOOKED, "shortfall", *_ASKED):
            row[figure] = _pair(getattr(before, figure), getattr(after, figure), scale)
        for quantity in ("deleveraged", "asked"):
            row[quantity] = _pair(getattr(before, quantity), getattr(after, quantity), SCALE_MAX)
        rows.append(row)
    return sorted(rows, key=lambda row: len(set(row["outcome"].values())) == 1)


@exact
def sums_by_currency(recorded: Side, other: Side) -> list[Row]:
    """Return a row for each margin currency in which the ledger has money: `FIGURES` of both."""
    rows: list[Row] = []
    for currency, fund in sorted(recorded.outcomes.funds.items()):
        before, after = _figures(recorded, currency), _figures(other, currency)
        row: Row = {"margin_currency": currency}
        for figure in FIGURES:
            row[figure] = _pair(before[figure], after[figure], fund.scale)
        rows.append(row)
    return rows


def _figures(side: Side, currency: str) -> dict[str, Decimal]:
    fund = side.outcomes.funds.get(currency, FundOutcome())
    figures = {
        **{outcome: Decimal(group.liquidations) for outcome, group in fund.ended.items()},
        DELEVERAGING: ZERO,
        OPEN: ZERO,
        "delta": fund.gains + fund.draws,
        "gains": fund.gains,
        "draws": fund.draws,
        "granted": fund.granted,
        "deleveraged_notional": fund.deleveraged.notional,
        "deleveraged_liquidations": Decimal(fund.deleveraged.liquidations),
        **dict.fromkeys(_ASKED, ZERO),
        "fund_lowest": fund.lowest,
        "fund_after": fund.after,
        "shortfall": fund.shortfall,
    }
    for one in side.outcomes.open.values():
        if one.margin_currency == currency:
            figures[one.outcome] += 1
            for figure in _ASKED:
                figures[figure] += getattr(one, figure)
    return figures


def _pair(recorded: Decimal, other: Decimal, scale: int) -> dict[str, str]:
    return {
        "recorded": floored_text(recorded, scale),
        "what_if": floored_text(other, scale),
        "difference": floored_text(other - recorded, scale),
    }
