"""Instruments: what each brought and cost the fund, and how its orders fared."""

from __future__ import annotations

from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import number
from insurance_fund.fund.windows import BUCKET_MS
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.tables import Row, row_of

_NUMBERS: Final = ("contract_size", "tick_size", "quantity_step", "closing_fee_rate")


def _defined(effect: fx.InstrumentDefined, at: At, known: Known) -> None:
    terms = effect.terms
    row = known.instruments.get(terms.instrument_id)
    if row is None:
        row = row_of(tables.instruments, ledger=known.ledger, instrument_id=terms.instrument_id)
        known.instruments[terms.instrument_id] = row
    row["margin_currency"], row["contract_type"] = terms.margin_currency, terms.contract_type
    for name in _NUMBERS:
        row[name] = number(getattr(terms, name))
    _changed(row, known)


def _taken_over(effect: fx.PositionTakenOver, at: At, known: Known) -> None:
    row = known.instruments[effect.terms.instrument_id]
    row["liquidations"] += 1
    row["open_liquidations"] += 1
    _changed(row, known)


def _ordered(effect: fx.OrderIssued | fx.OrderObserved, at: At, known: Known) -> None:
    row = _of(effect, known)
    row["orders"] += 1
    _changed(row, known)


def _reserved(effect: fx.CompensationReserved, at: At, known: Known) -> None:
    row = _of(effect, known)
    row["reserved"] += number(effect.reserved)
    row["granted"] += number(effect.granted)
    _note_minute(row, at, known)
    _changed(row, known)


def _released(effect: fx.ReservationReleased, at: At, known: Known) -> None:
    row = _of(effect, known)
    row["reserved"] -= number(effect.amount)
    _note_minute(row, at, known)
    _changed(row, known)


def _order_closed(effect: fx.OrderClosed, at: At, known: Known) -> None:
    known.told.add(effect.liquidation_id)


def _booked(booking: Booking, at: At, known: Known) -> None:
    row = _of(booking.effect, known)
    row["delta"] += booking.delta
    row["reserved"] += booking.reserved
    booking.add_to(row)
    known.told.add(booking.effect.liquidation_id)
    _note_minute(row, at, known)
    _changed(row, known)


def _triggered(effect: fx.AdlTriggered, at: At, known: Known) -> None:
    if effect.revision == 1:
        row = _of(effect, known)
        row["adl_triggers"] += 1
        _changed(row, known)


def _closed(effect: fx.LiquidationClosed, at: At, known: Known) -> None:
    row = _of(effect, known)
    row["open_liquidations"] -= 1
    row[effect.outcome] += 1
    known.told.add(effect.liquidation_id)
    _changed(row, known)


def settle(at: At, known: Known) -> None:
    """Count the orders that have ended, or turned out as filled, with this entry."""
    for liquidation_id in known.told:
        for order in known.orders[liquidation_id].values():
            ended = order["ended_sequence"] == at.sequence
            filled = order["filled_sequence"] == at.sequence
            if ended or filled:
                row = known.instruments[order["instrument_id"]]
                row["orders_ended"] += ended
                row["orders_filled"] += filled
                _changed(row, known)
    known.told.clear()


def _of(effect: Any, known: Known) -> Row:
    liquidation = known.liquidations[effect.liquidation_id]
    return known.instruments[liquidation["instrument_id"]]


def _note_minute(instrument: Row, at: At, known: Known) -> None:
    name, minute, delta = instrument["instrument_id"], at.now_ms // BUCKET_MS, instrument["delta"]
    row = known.instrument_minutes.get(name)
    if row is None or row["minute"] != minute:
        row = row_of(
            tables.instrument_minutes,
            ledger=known.ledger,
            instrument_id=name,
            minute=minute,
            peak=delta,
        )
        known.instrument_minutes[name] = row
    row["peak"], row["level"] = max(row["peak"], delta), delta
    row["reserved"] = instrument["reserved"]
    known.changed(tables.instrument_minutes, row, name, minute)


def _changed(row: Row, known: Known) -> None:
    known.changed(tables.instruments, row, row["instrument_id"])


ON: Final[dict[type[fx.Effect], Any]] = {
    fx.InstrumentDefined: _defined,
    fx.PositionTakenOver: _taken_over,
    fx.OrderIssued: _ordered,
    fx.OrderObserved: _ordered,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.OrderClosed: _order_closed,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
    fx.AdlTriggered: _triggered,
    fx.LiquidationClosed: _closed,
}
