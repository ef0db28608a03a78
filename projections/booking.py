"""A booking: the numbers of a fill or of an execution of ADL, read once for all who sum them up."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.projections.tables import Row


class Booking(NamedTuple):
    """What a fill or an execution changed, in the margin currency.

    `used` is by how much it changed what its liquidation has used of the fund; what that means says
    `projections/outcomes.py`.
    """

    effect: fx.FillBooked | fx.AdlExecuted
    by_adl: bool
    quantity: Decimal
    notional: Decimal
    delta: Decimal
    reserved: Decimal
    shortfall: Decimal
    used: Decimal

    def add_to(self, row: Row) -> None:
        """Add this to what a row sums up: gains, draws, used, and notionals by how they closed."""
        delta, notional = self.delta, self.notional
        row["notional"] += notional
        row["used"] += self.used
        if delta < ZERO:
            row["draws"] += delta
            row["deleveraged_notional" if self.by_adl else "compensated_notional"] += notional
        else:
            row["gains"] += delta
            if self.by_adl:
                row["deleveraged_notional"] += notional


def booking_of(effect: fx.FillBooked | fx.AdlExecuted, liquidation: Row) -> Booking:
    """Return what an effect books; `liquidation` is its row from before it."""
    delta, shortfall = number(effect.delta), number(effect.shortfall_delta)
    owed, brought = liquidation["shortfall"] + shortfall, liquidation["delta"] + delta
    return Booking(
        effect,
        isinstance(effect, fx.AdlExecuted),
        number(effect.quantity),
        number(effect.notional),
        delta,
        number(effect.reserved_delta),
        shortfall,
        max(ZERO, owed - brought) - liquidation["used"],
    )
