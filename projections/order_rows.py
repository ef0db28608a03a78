"""Orders: what was ordered, what fills have shown, what was reported, and how each ended."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import number
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.tables import Row, row_of


def _issued(effect: fx.OrderIssued, at: At, known: Known) -> None:
    _ordered(effect, at, known, "fund", effect.attempt)


def _observed(effect: fx.OrderObserved, at: At, known: Known) -> None:
    _ordered(effect, at, known, "exchange", len(known.orders[effect.liquidation_id]) + 1)


def _ordered(
    effect: fx.OrderIssued | fx.OrderObserved, at: At, known: Known, pricing: str, attempt: int
) -> None:
    liquidation = known.liquidations[effect.liquidation_id]
    row = row_of(
        tables.orders,
        ledger=known.ledger,
        liquidation_id=effect.liquidation_id,
        takeover_sequence=liquidation["takeover_sequence"],
        order_id=effect.order_id,
        instrument_id=liquidation["instrument_id"],
        pricing=pricing,
        status="open",
        price=number(effect.price),
        quantity=number(effect.quantity),
        attempt=attempt,
        expires_at_ms=effect.expires_at_ms,
    )
    known.orders[effect.liquidation_id][effect.order_id] = row
    _changed(row, at, known)


def _reserved(effect: fx.CompensationReserved, at: At, known: Known) -> None:
    row = known.orders[effect.liquidation_id][effect.order_id]
    row["reserved"] += number(effect.reserved)
    row["granted"] = number(effect.granted)
    row["binding_cap"] = effect.binding_cap
    row["caps"] = msgspec.json.encode(effect.caps).decode()
    _changed(row, at, known)


def _released(effect: fx.ReservationReleased, at: At, known: Known) -> None:
    row = known.orders[effect.liquidation_id][effect.order_id]
    row["reserved"] -= number(effect.amount)
    _changed(row, at, known)


def _filled(booking: Booking, at: At, known: Known) -> None:
    effect = booking.effect
    assert isinstance(effect, fx.FillBooked)
    row = known.orders[effect.liquidation_id][effect.order_id]
    row["seen"] += booking.quantity
    row["reserved"] += booking.reserved
    row["missing_fills"] = row["missing_fills"] and accounted(row) > row["seen"]
    _see_end(row, at)
    _changed(row, at, known)


def _closed(effect: fx.OrderClosed, at: At, known: Known) -> None:
    row = known.orders[effect.liquidation_id][effect.order_id]
    row["reason"] = effect.reason
    if effect.reason == "deadline":
        row["status"] = "overdue"
    else:
        row["status"] = "closed"
        row["reported"] = number(effect.filled_quantity)
    _see_end(row, at)
    _changed(row, at, known)


def _missing(effect: fx.FillsMissing, at: At, known: Known) -> None:
    row = known.orders[effect.liquidation_id][effect.order_id]
    row["missing_fills"] = True
    _changed(row, at, known)


def _liquidation_closed(effect: fx.LiquidationClosed, at: At, known: Known) -> None:
    """Let orders end that were still open: the fund hears no more of them."""
    for row in known.orders[effect.liquidation_id].values():
        if row["status"] == "open":
            row["status"] = "closed"
            _see_end(row, at)
            _changed(row, at, known)


def accounted(order: Row) -> Any:
    """Return what counts as filled of an order: seen or reported, whichever is more."""
    reported = order["reported"]
    return order["seen"] if reported is None else max(order["seen"], reported)


def _see_end(row: Row, at: At) -> None:
    if row["status"] == "open":
        return
    if row["ended_sequence"] is None:
        row["ended_sequence"] = at.sequence
    if row["filled_sequence"] is None and accounted(row) >= row["quantity"]:
        row["filled_sequence"] = at.sequence


def _changed(row: Row, at: At, known: Known) -> None:
    row["sequence"], row["now_ms"] = at.sequence, at.now_ms
    known.changed_of(tables.orders, row, row["order_id"])


ON: Final[dict[type[fx.Effect], Any]] = {
    fx.OrderIssued: _issued,
    fx.OrderObserved: _observed,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.FillBooked: _filled,
    fx.OrderClosed: _closed,
    fx.FillsMissing: _missing,
    fx.LiquidationClosed: _liquidation_closed,
}
