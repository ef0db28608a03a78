"""Liquidations, open and closed: what is left, what it cost, and how it ended.

The orders of an entry's effects are up to date before their liquidation is.
"""

from __future__ import annotations

from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.order_rows import accounted
from insurance_fund.projections.tables import Row, row_of


def begin(effect: fx.PositionTakenOver, at: At, known: Known) -> None:
    """Make the row of a liquidation that begins, before anything else is done with it."""
    mark_price, quantity = effect.mark_price, number(effect.quantity)
    row = row_of(
        tables.liquidations,
        ledger=known.ledger,
        liquidation_id=effect.liquidation_id,
        takeover_sequence=at.sequence,
        instrument_id=effect.terms.instrument_id,
        margin_currency=effect.margin_currency,
        account_id=effect.account_id,
        position_side=effect.position_side,
        status="open",
        quantity=quantity,
        entry_price=number(effect.entry_price),
        margin=number(effect.margin),
        mark_price=None if mark_price is None else number(mark_price),
        bankruptcy_price=effect.bankruptcy_price,
        residual=quantity,
        scale=effect.policy.scale,
        taken_over_ms=at.now_ms,
    )
    known.liquidations[effect.liquidation_id] = row
    known.orders[effect.liquidation_id] = {}
    _changed(row, at, known)


def _ordered(effect: fx.OrderIssued | fx.OrderObserved, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    row["orders"] += 1
    row["order_id"] = effect.order_id
    row["order_status"] = "open"
    row["order_price"] = number(effect.price)
    row["order_quantity"] = number(effect.quantity)
    row["expires_at_ms"] = effect.expires_at_ms
    _changed(row, at, known)


def _reserved(effect: fx.CompensationReserved, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    row["reserved"] += number(effect.reserved)
    row["granted"] += number(effect.granted)
    row["binding_cap"] = effect.binding_cap
    _changed(row, at, known)


def _released(effect: fx.ReservationReleased, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    row["reserved"] -= number(effect.amount)
    _changed(row, at, known)


def _booked(booking: Booking, at: At, known: Known) -> None:
    effect = booking.effect
    row = known.liquidations[effect.liquidation_id]
    row["deleveraged" if booking.by_adl else "filled"] += booking.quantity
    row["closed"] += booking.quantity
    row["pnl"] += number(effect.pnl)
    row["fees"] += number(effect.fee)
    row["delta"] += booking.delta
    row["shortfall"] += booking.shortfall
    row["reserved"] += booking.reserved
    booking.add_to(row)
    _count_left(row, known)
    _changed(row, at, known)


def _order_closed(effect: fx.OrderClosed, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    if row["order_id"] == effect.order_id:
        row["order_status"] = known.orders[effect.liquidation_id][effect.order_id]["status"]
    _count_left(row, known)
    _changed(row, at, known)


def _missing(effect: fx.FillsMissing, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    _count_left(row, known)
    _changed(row, at, known)


def _closed(effect: fx.LiquidationClosed, at: At, known: Known) -> None:
    row = known.liquidations[effect.liquidation_id]
    row["status"], row["outcome"], row["closed_ms"] = "closed", effect.outcome, at.now_ms
    if row["order_id"] is not None:
        row["order_status"] = known.orders[effect.liquidation_id][row["order_id"]]["status"]
    known.closed.append(effect.liquidation_id)
    _changed(row, at, known)


def _count_left(row: Row, known: Known) -> None:
    """Count what is neither deleveraged nor filled by the best knowledge there is."""
    counted = awaited = ZERO
    orders = known.orders[row["liquidation_id"]].values()
    for order in orders:
        filled = accounted(order)
        counted += filled
        awaited += filled - order["seen"]
    row["residual"] = row["quantity"] - row["deleveraged"] - counted
    row["awaited"] = awaited
    row["missing_fills"] = any(order["missing_fills"] for order in orders)


def _changed(row: Row, at: At, known: Known) -> None:
    row["sequence"], row["now_ms"] = at.sequence, at.now_ms
    known.changed_of(tables.liquidations, row)


ON: Final[dict[type[fx.Effect], Any]] = {
    fx.OrderIssued: _ordered,
    fx.OrderObserved: _ordered,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
    fx.OrderClosed: _order_closed,
    fx.FillsMissing: _missing,
    fx.LiquidationClosed: _closed,
}
