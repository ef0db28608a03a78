"""Postings: what each effect moves between the accounts of RULES.md section 3.

Accounts are `<kind>:<currency>[:<detail>]`; the postings of an entry sum to zero per currency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import amount_text, number

Postings = dict[str, Decimal]


def post(effects: Iterable[fx.AnyEffect]) -> Postings:
    """Return the net postings of an entry as numbers, zero ones among them."""
    book: Postings = {}
    for effect in effects:
        poster = _POST.get(type(effect))
        if poster is not None:
            poster(book, effect)
    return book


def postings_text(book: Postings) -> dict[str, str]:
    """Return postings as the entry has them: zero ones left out, sorted by account."""
    return {account: amount_text(book[account]) for account in sorted(book) if book[account]}


def _add(book: Postings, account: str, amount: Decimal) -> None:
    known = book.get(account)
    book[account] = amount if known is None else known + amount


def _deposited(book: Postings, effect: fx.FundDeposited) -> None:
    amount = number(effect.amount)
    _add(book, f"treasury:{effect.margin_currency}", -amount)
    _add(book, f"fund:{effect.margin_currency}:available", amount)


def _withdrawn(book: Postings, effect: fx.FundWithdrawn) -> None:
    amount = number(effect.amount)
    _add(book, f"fund:{effect.margin_currency}:available", -amount)
    _add(book, f"treasury:{effect.margin_currency}", amount)


def _shortfall_paid(book: Postings, effect: fx.ShortfallPaid) -> None:
    amount = number(effect.amount)
    _add(book, f"treasury:{effect.margin_currency}", -amount)
    _add(book, f"shortfall:{effect.margin_currency}", amount)


def _taken_over(book: Postings, effect: fx.PositionTakenOver) -> None:
    margin = number(effect.margin)
    _add(book, f"margin:{effect.margin_currency}", -margin)
    _add(book, f"liquidation:{effect.margin_currency}:{effect.liquidation_id}", margin)


def _reserve(book: Postings, currency: str, amount: Decimal) -> None:
    _add(book, f"fund:{currency}:available", -amount)
    _add(book, f"fund:{currency}:reserved", amount)


def _reserved(book: Postings, effect: fx.CompensationReserved) -> None:
    _reserve(book, effect.margin_currency, number(effect.reserved))


def _released(book: Postings, effect: fx.ReservationReleased) -> None:
    _reserve(book, effect.margin_currency, -number(effect.amount))


def _booked(book: Postings, effect: fx.FillBooked | fx.AdlExecuted) -> None:
    currency = effect.margin_currency
    pnl, fee, delta = number(effect.pnl), number(effect.fee), number(effect.delta)
    reserved, shortfall = number(effect.reserved_delta), number(effect.shortfall_delta)
    _add(book, f"market:{currency}", -pnl)
    _add(book, f"fees:{currency}", fee)
    _add(book, f"liquidation:{currency}:{effect.liquidation_id}", pnl - fee - delta)
    _add(book, f"fund:{currency}:reserved", reserved)
    _add(book, f"shortfall:{currency}", shortfall)
    _add(book, f"fund:{currency}:available", delta - reserved - shortfall)


_POST: Final[dict[type[fx.Effect], Callable[[Postings, Any], None]]] = {
    fx.FundDeposited: _deposited,
    fx.FundWithdrawn: _withdrawn,
    fx.ShortfallPaid: _shortfall_paid,
    fx.PositionTakenOver: _taken_over,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
}
