"""Queries about funds and instruments: balances, what was, and how near the caps are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import and_, func, select

from insurance_fund.events.amounts import amount_text, exact, number
from insurance_fund.fund.windows import BUCKET_MS
from insurance_fund.projections import tables
from insurance_fund.projections.queries import Reading, Values, behind, plain
from insurance_fund.projections.shares import Share, Shares

RESOLUTIONS: Final = ("entry", "minute")
# In the words of the policy: compensation is granted, and used once it was paid.
_RENAMED: Final = {"granted": "compensation_granted", "used": "compensation_used"}
_MINUTES: Final = ("minute", "sequence", *tables.MOVED, "lowest", "highest")
# A page of minutes ends early where its shares would be more than this: some MB of answer.
SHARES_MAX: Final = 50_000
_NAMED: Final = ("ledger", "margin_currency", "available", "reserved", "now_ms")


@exact
def query_funds(reading: Reading, margin_currency: str | None = None) -> list[Values]:
    """Return the funds (or those of one currency), each with how far its caps are used."""
    table = tables.funds
    query = select(*plain(table)).where(table.c.ledger.in_(list(reading.positions)))
    if margin_currency is not None:
        query = query.where(table.c.margin_currency == margin_currency)
    found = []
    for row in reading.rows(query.order_by(table.c.margin_currency, table.c.ledger)):
        fund = {_RENAMED.get(name, name): value for name, value in row.items()}
        fund["total"] = _total(fund)
        now_ms = reading.positions[fund["ledger"]].now_ms
        key = (fund["ledger"], fund["margin_currency"])
        known = Shares(reading, key, (now_ms, now_ms))
        highest, shares = known.at(now_ms)
        fund["window_ms"], fund["window_maximum"] = known.window_ms, amount_text(highest)
        fund["instruments"] = [{"instrument_id": one.instrument_id, **_told(one)} for one in shares]
        found.append(fund)
    return found


def query_fund_ledgers(reading: Reading, margin_currency: str) -> list[Values]:
    """Return the ledgers that have a fund of a currency."""
    table = tables.funds
    mine = and_(
        table.c.ledger.in_(list(reading.positions)), table.c.margin_currency == margin_currency
    )
    return reading.rows(select(table.c.ledger).where(mine).order_by(table.c.ledger))


@exact
def query_fund_names(reading: Reading) -> list[Values]:
    """Return of each fund its currency, total and time, and its instruments as `symbols`."""
    instruments = tables.instruments
    funds = reading.rows(
        select(*plain(tables.funds, *_NAMED))
        .where(tables.funds.c.ledger.in_(list(reading.positions)))
        .order_by(tables.funds.c.margin_currency, tables.funds.c.ledger)
    )
    symbols: dict[tuple[str, str], list[str]] = {}
    names = (instruments.c.ledger, instruments.c.margin_currency, instruments.c.instrument_id)
    for ledger, currency, name in reading.connection.execute(select(*names).order_by(names[2])):
        symbols.setdefault((ledger, currency), []).append(name)
    for fund in funds:
        fund["total"] = _total(fund)
        fund["symbols"] = symbols.get((fund["ledger"], fund["margin_currency"]), [])
    return funds


@exact
def query_instruments(reading: Reading, instrument_id: str | None = None) -> list[Values]:
    """Return the instruments (or the one), each with how far its cap is used."""
    table, funds_table = tables.instruments, tables.funds
    query = select(*plain(table)).where(table.c.ledger.in_(list(reading.positions)))
    if instrument_id is not None:
        query = query.where(table.c.instrument_id == instrument_id)
    names = (funds_table.c.ledger, funds_table.c.margin_currency)
    funds = {(row[0], row[1]) for row in reading.connection.execute(select(*names))}
    windows: dict[tuple[str, str], dict[str, Values]] = {}
    found = []
    for row in reading.rows(query.order_by(table.c.instrument_id, table.c.ledger)):
        key = (row["ledger"], row["margin_currency"])
        if key in funds and key not in windows:
            now_ms = reading.positions[key[0]].now_ms
            _, shares = Shares(reading, key, (now_ms, now_ms)).at(now_ms)
            windows[key] = {one.instrument_id: _told(one) for one in shares}
        one = {_RENAMED.get(name, name): value for name, value in row.items()}
        one["window"] = windows.get(key, {}).get(row["instrument_id"])
        found.append(one)
    return found


@exact
def query_history(
    reading: Reading,
    fund: tuple[str, str],
    resolution: str,
    times_ms: tuple[int, int],
    key: Sequence[Any] | None,
    limit: int,
) -> tuple[list[Values], bool]:
    """Return points of a fund, (ledger, currency), in a range of times, and whether there are more.

    Both ends of the range are included. `key` is the (now_ms, sequence) behind which to go on.
    There are `limit` points at most; of minutes fewer where their shares are many.
    """
    first_ms, last_ms = times_ms
    order: tuple[str, ...]
    if resolution == "entry":
        table, order = tables.fund_history, ("now_ms", "sequence")
        within = table.c.now_ms.between(first_ms, last_ms)
        query = select(*plain(table))
        after = key
    else:
        table, order = tables.fund_minutes, ("minute",)
        within = table.c.minute.between(-(-first_ms // BUCKET_MS), last_ms // BUCKET_MS)
        query = select(*plain(table, *_MINUTES))
        after = None if key is None else [key[0] // BUCKET_MS]
        limit = min(limit, max(1, SHARES_MAX // max(1, _instruments(reading, fund))))
    columns = [table.c[name] for name in order]
    mine = and_(table.c.ledger == fund[0], table.c.margin_currency == fund[1], within)
    query = query.where(mine).order_by(*columns).limit(limit + 1)
    if after is not None:
        query = query.where(behind(columns, after, rising=[True] * len(columns)))
    found = reading.rows(query)
    points = found[:limit]
    for point in points:
        point["total"] = _total(point)
        if resolution == "entry":
            del point["ledger"], point["margin_currency"]
    if points and resolution == "minute":
        _add_shares(points, reading, fund)
    return points, len(found) > limit


def _instruments(reading: Reading, fund: tuple[str, str]) -> int:
    table = tables.instruments
    mine = and_(table.c.ledger == fund[0], table.c.margin_currency == fund[1])
    query = select(func.count()).select_from(table).where(mine)
    count: int = reading.connection.execute(query).scalar_one()
    return count


def _add_shares(points: list[Values], reading: Reading, fund: tuple[str, str]) -> None:
    """Add to each minute what it came to at its end, or, while it still runs, up to now."""
    now_ms = reading.positions[fund[0]].now_ms
    starts_ms = [point.pop("minute") * BUCKET_MS for point in points]
    ends_ms = [min(start_ms + BUCKET_MS - 1, now_ms) for start_ms in starts_ms]
    known = Shares(reading, fund, (ends_ms[0], ends_ms[-1]))
    for point, start_ms, end_ms in zip(points, starts_ms, ends_ms, strict=True):
        highest, shares = known.at(end_ms)
        point["now_ms"] = start_ms
        point["window_maximum"] = amount_text(highest)
        point["instruments"] = [
            {
                "instrument_id": one.instrument_id,
                "limit": amount_text(one.limit),
                "used": amount_text(one.used),
            }
            for one in shares
            # On most days most have used nothing.
            if one.used
        ]


def _told(share: Share) -> Values:
    return {
        "share": share.share,
        "window_ms": share.window_ms,
        "window_maximum": amount_text(share.window_maximum),
        "limit": amount_text(share.limit),
        "used": amount_text(share.used),
        "headroom": amount_text(share.headroom),
    }


def _total(row: Values) -> str:
    return amount_text(number(row["available"]) + number(row["reserved"]))
