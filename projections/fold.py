"""Fold: what an entry changes in the rows, effect by effect; no clock and no database.

Each projection says in `ON` what it does with an effect; a fill or an execution of ADL it is handed
as a booking. Of one effect the orders come first, then what sums them up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import exact
from insurance_fund.events.ledger import Entry
from insurance_fund.projections import (
    fund_rows,
    instrument_rows,
    ledger_rows,
    liquidation_rows,
    order_rows,
    tables,
    trigger_rows,
)
from insurance_fund.projections.booking import booking_of
from insurance_fund.projections.known import At, Known

_PROJECTIONS: Final = (
    {fx.PositionTakenOver: liquidation_rows.begin},
    ledger_rows.ON,
    order_rows.ON,
    fund_rows.ON,
    instrument_rows.ON,
    trigger_rows.ON,
    liquidation_rows.ON,
)


def _by_effect() -> dict[type[fx.Effect], tuple[Any, ...]]:
    found: dict[type[fx.Effect], list[Any]] = defaultdict(list)
    for projection in _PROJECTIONS:
        for effect, handler in projection.items():
            found[effect].append(handler)
    return {effect: tuple(handlers) for effect, handlers in found.items()}


_ON: Final = _by_effect()


@exact
def apply(entry: Entry, log_offset: int, known: Known) -> None:
    """Apply the next entry, which stands at `log_offset`: rows in `known` change, and are noted."""
    at = At(entry.sequence, entry.now_ms, log_offset)
    about: set[str] = set()
    for effect in entry.effects:
        told: Any = effect
        if isinstance(effect, fx.FillBooked | fx.AdlExecuted):
            told = booking_of(effect, known.liquidations[effect.liquidation_id])
        for handler in _ON.get(type(effect), ()):
            handler(told, at, known)
        if effect.parked is not None:
            ledger_rows.add_parked(-1, known)
        liquidation_id = getattr(effect, "liquidation_id", None)
        if liquidation_id is not None:
            about.add(liquidation_id)
    fund_rows.settle(at, known)
    instrument_rows.settle(at, known)
    ledger_rows.settle(at, known)
    for liquidation_id in about:
        note = {
            "ledger": known.ledger,
            "liquidation_id": liquidation_id,
            "sequence": at.sequence,
            "log_offset": log_offset,
        }
        known.changed(tables.liquidation_entries, note, liquidation_id, at.sequence)
    for liquidation_id in known.closed:
        del known.liquidations[liquidation_id], known.orders[liquidation_id]
        known.triggers.pop(liquidation_id, None)
    known.closed.clear()
