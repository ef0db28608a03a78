"""Postings: what each effect moves between the accounts of docs/rules.md section 3.

Accounts are `<kind>:<currency>[:<detail>]`; the postings of an entry sum to zero per currency.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import amount_text, number

# Net amounts by margin currency, then by account.
Postings = dict[str, dict[str, Decimal]]


class Accounts(NamedTuple):
    """The names of a currency's accounts, but for those of single liquidations."""

    available: str
    reserved: str
    shortfall: str
    margin: str
    market: str
    fees: str
    treasury: str
    liquidation: str


@functools.lru_cache(maxsize=256)
def accounts_of(currency: str) -> Accounts:
    """Return the names of a currency's accounts; `liquidation` lacks the id at its end."""
    return Accounts(
        available=f"fund:{currency}:available",
        reserved=f"fund:{currency}:reserved",
        shortfall=f"shortfall:{currency}",
        margin=f"margin:{currency}",
        market=f"market:{currency}",
        fees=f"fees:{currency}",
        treasury=f"treasury:{currency}",
        liquidation=f"liquidation:{currency}:",
    )


def post(effects: Iterable[fx.AnyEffect]) -> Postings:
    """Return the net postings of an entry as numbers, zero ones among them."""
    postings: Postings = {}
    for effect in effects:
        poster = _POST.get(type(effect))
        if poster is not None:
            currency: str = effect.margin_currency  # type: ignore[union-attr]
            book = postings.get(currency)
            if book is None:
                book = postings[currency] = {}
            poster(book, accounts_of(currency), effect)
    return postings


def postings_text(postings: Postings) -> dict[str, str]:
    """Return postings as the entry has them: zero ones left out, sorted by account."""
    return {
        account: amount_text(amount)
        for account, amount in sorted(named for book in postings.values() for named in book.items())
        if amount
    }


_Book = dict[str, Decimal]


def _move(book: _Book, source: str, target: str, amount: Decimal) -> None:
    book[source] = book.get(source, 0) - amount
    book[target] = book.get(target, 0) + amount


def _deposited(book: _Book, names: Accounts, effect: fx.FundDeposited) -> None:
    _move(book, names.treasury, names.available, number(effect.amount))


def _withdrawn(book: _Book, names: Accounts, effect: fx.FundWithdrawn) -> None:
    _move(book, names.available, names.treasury, number(effect.amount))


def _shortfall_paid(book: _Book, names: Accounts, effect: fx.ShortfallPaid) -> None:
    _move(book, names.treasury, names.shortfall, number(effect.amount))


def _taken_over(book: _Book, names: Accounts, effect: fx.PositionTakenOver) -> None:
    target = names.liquidation + effect.liquidation_id
    _move(book, names.margin, target, number(effect.margin))


def _reserved(book: _Book, names: Accounts, effect: fx.CompensationReserved) -> None:
    _move(book, names.available, names.reserved, number(effect.reserved))


def _released(book: _Book, names: Accounts, effect: fx.ReservationReleased) -> None:
    _move(book, names.reserved, names.available, number(effect.amount))


def _booked(book: _Book, names: Accounts, effect: fx.FillBooked | fx.AdlExecuted) -> None:
    pnl, fee, delta = number(effect.pnl), number(effect.fee), number(effect.delta)
    reserved, shortfall = number(effect.reserved_delta), number(effect.shortfall_delta)
    clearing = names.liquidation + effect.liquidation_id
    known = book.get
    book[names.market] = known(names.market, 0) - pnl
    book[names.fees] = known(names.fees, 0) + fee
    book[clearing] = known(clearing, 0) + (pnl - fee - delta)
    book[names.reserved] = known(names.reserved, 0) + reserved
    book[names.shortfall] = known(names.shortfall, 0) + shortfall
    book[names.available] = known(names.available, 0) + (delta - reserved - shortfall)


_POST: Final[dict[type[fx.Effect], Callable[[_Book, Accounts, Any], None]]] = {
    fx.FundDeposited: _deposited,
    fx.FundWithdrawn: _withdrawn,
    fx.ShortfallPaid: _shortfall_paid,
    fx.PositionTakenOver: _taken_over,
    fx.CompensationReserved: _reserved,
    fx.ReservationReleased: _released,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
}
