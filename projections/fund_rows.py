"""Funds over time: balances, transfers and what liquidations brought and cost, per currency.

What is granted and used, and how a liquidation ended, means what `projections/outcomes.py` says.
"""

from __future__ import annotations

from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import number
from insurance_fund.fund.windows import BUCKET_MS
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.tables import Row, row_of


def _deposited(effect: fx.FundDeposited, at: At, known: Known) -> None:
    fund, amount = known.fund(effect.margin_currency), number(effect.amount)
    fund["available"] += amount
    fund["deposits"] += amount
    _moved(fund, at, known)


def _withdrawn(effect: fx.FundWithdrawn, at: At, known: Known) -> None:
    fund, amount = known.fund(effect.margin_currency), number(effect.amount)
    fund["available"] -= amount
    fund["withdrawals"] += amount
    _moved(fund, at, known)


def _shortfall_paid(effect: fx.ShortfallPaid, at: At, known: Known) -> None:
    fund, amount = known.fund(effect.margin_currency), number(effect.amount)
    fund["shortfall"] += amount
    fund["shortfall_payments"] += amount
    _moved(fund, at, known)


def _taken_over(effect: fx.PositionTakenOver, at: At, known: Known) -> None:
    fund = known.fund(effect.margin_currency)
    fund["open_liquidations"] += 1
    _changed(fund, at, known)


def _reserved(effect: fx.CompensationReserved, at: At, known: Known) -> None:
    fund, amount = known.fund(effect.margin_currency), number(effect.reserved)
    fund["available"] -= amount
    fund["reserved"] += amount
    fund["granted"] += number(effect.granted)
    _moved(fund, at, known)


def _released(effect: fx.ReservationReleased, at: At, known: Known) -> None:
    fund, amount = known.fund(effect.margin_currency), number(effect.amount)
    fund["available"] += amount
    fund["reserved"] -= amount
    _moved(fund, at, known)


def _booked(booking: Booking, at: At, known: Known) -> None:
    fund = known.fund(booking.effect.margin_currency)
    fund["available"] += booking.delta - booking.reserved - booking.shortfall
    fund["reserved"] += booking.reserved
    fund["shortfall"] += booking.shortfall
    booking.add_to(fund)
    _moved(fund, at, known)


def _closed(effect: fx.LiquidationClosed, at: At, known: Known) -> None:
    fund = known.fund(effect.margin_currency)
    fund["open_liquidations"] -= 1
    fund[effect.outcome] += 1
    _changed(fund, at, known)


def _changed(fund: Row, at: At, known: Known) -> None:
    fund["sequence"], fund["now_ms"] = at.sequence, at.now_ms
    known.changed(tables.funds, fund, fund["margin_currency"])


def _moved(fund: Row, at: At, known: Known) -> None:
    """Note balances after an effect: what they are by the minute is noted effect by effect."""
    _changed(fund, at, known)
    currency, minute = fund["margin_currency"], at.now_ms // BUCKET_MS
    known.moved.add(currency)
    total = fund["available"] + fund["reserved"]
    level = total + fund["withdrawals"]
    row = known.fund_minutes.get(currency)
    if row is None or row["minute"] != minute:
        row = row_of(
            tables.fund_minutes,
            ledger=known.ledger,
            margin_currency=currency,
            minute=minute,
            lowest=total,
            highest=total,
            peak=level,
        )
        known.fund_minutes[currency] = row
    row["lowest"] = min(row["lowest"], total)
    row["highest"] = max(row["highest"], total)
    row["peak"] = max(row["peak"], level)
    row["level"] = level


def settle(at: At, known: Known) -> None:
    """Write down the funds that the entry moved, as they are after it."""
    for currency in known.moved:
        fund, minute = known.funds[currency], known.fund_minutes[currency]
        minute["sequence"] = at.sequence
        known.changed(tables.fund_minutes, minute, currency, minute["minute"])
        row: Row = {
            "ledger": known.ledger,
            "margin_currency": currency,
            "sequence": at.sequence,
            "now_ms": at.now_ms,
        }
        for name in tables.MOVED:
            minute[name] = row[name] = fund[name]
        known.changed(tables.fund_history, row, currency, at.sequence)
    known.moved.clear()


ON: Final[dict[type[fx.Effect], Any]] = {
    fx.FundDeposited: _deposited,
    fx.FundWithdrawn: _withdrawn,
    fx.ShortfallPaid: _shortfall_paid,
    fx.PositionTakenOver: _taken_over,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
    fx.LiquidationClosed: _closed,
}
