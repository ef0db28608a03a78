"""Queries about funds and instruments: balances, what was, and how near the caps are."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Table, and_, func, select

from insurance_fund.events.amounts import SCALE_MAX, ZERO, amount_text, exact, floor_scale, number
from insurance_fund.fund.policy import Policy, parse_policy
from insurance_fund.fund.windows import BUCKET_MS, Bucket, Window
from insurance_fund.projections import tables
from insurance_fund.projections.queries import Reading, Values, behind, plain

RESOLUTIONS: Final = ("entry", "minute")
# In the words of the policy: compensation is granted, and used once it was paid.
_RENAMED: Final = {"granted": "compensation_granted", "used": "compensation_used"}
_MINUTES: Final = ("minute", "sequence", "available", "reserved", "shortfall")
_SUMS: Final = ("gains", "draws", "used")
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
        windows = _Windows(reading, fund["ledger"])
        fund["window_ms"] = windows.policy.default.instrument_window_ms
        highest = windows.highest(fund, fund["window_ms"])
        fund["window_maximum"] = amount_text(highest)
        instruments = tables.instruments
        mine = and_(
            instruments.c.ledger == fund["ledger"],
            instruments.c.margin_currency == fund["margin_currency"],
        )
        fund["instruments"] = [
            {"instrument_id": one["instrument_id"], **windows.of(one, fund)}
            for one in reading.rows(
                select(*plain(instruments)).where(mine).order_by(instruments.c.instrument_id)
            )
        ]
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
    funds = {
        (row["ledger"], row["margin_currency"]): row
        for row in reading.rows(select(*plain(funds_table)))
    }
    windows: dict[str, _Windows] = {}
    found = []
    for row in reading.rows(query.order_by(table.c.instrument_id, table.c.ledger)):
        ledger = row["ledger"]
        if ledger not in windows:
            windows[ledger] = _Windows(reading, ledger)
        fund = funds.get((ledger, row["margin_currency"]))
        one = {_RENAMED.get(name, name): value for name, value in row.items()}
        one["window"] = None if fund is None else windows[ledger].of(row, fund)
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
) -> list[Values]:
    """Return points of a fund, (ledger, currency), in a range of times, both of it included.

    `key` is the (now_ms, sequence) behind which to go on.
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
        query = select(*plain(table, *_MINUTES, "lowest", "highest", *_SUMS))
        after = None if key is None else [key[0] // BUCKET_MS]
    columns = [table.c[name] for name in order]
    mine = and_(table.c.ledger == fund[0], table.c.margin_currency == fund[1], within)
    query = query.where(mine).order_by(*columns).limit(limit)
    if after is not None:
        query = query.where(behind(columns, after, rising=[True] * len(columns)))
    points = reading.rows(query)
    for point in points:
        point["total"] = _total(point)
        if "minute" in point:
            point["now_ms"] = point.pop("minute") * BUCKET_MS
        else:
            del point["ledger"], point["margin_currency"]
    return points


class _Windows:
    """How far the caps of a ledger's instruments are used, as of its position."""

    def __init__(self, reading: Reading, ledger: str) -> None:
        self._reading = reading
        self._ledger = ledger
        self._now_ms = reading.positions[ledger].now_ms
        query = select(tables.ledgers.c.policy).where(tables.ledgers.c.ledger == ledger)
        self.policy = _policy(reading.connection.execute(query).scalar_one())
        self._instruments: dict[str, Window] | None = None
        self._funds: dict[str, Window] | None = None

    def highest(self, fund: Values, window_ms: int) -> Decimal:
        """Return the highest that a fund had in a window, withdrawals since not counted as lost."""
        if self._funds is None:
            self._funds = self._load(tables.fund_minutes, "margin_currency")
        window = self._funds.get(fund["margin_currency"], Window())
        return window.highest(self._now_ms, window_ms) - number(fund["withdrawals"])

    def of(self, instrument: Values, fund: Values) -> Values:
        """Return the share of an instrument: its limit, what of it is used, and what is left."""
        if self._instruments is None:
            self._instruments = self._load(tables.instrument_minutes, "instrument_id")
        name, currency = instrument["instrument_id"], fund["margin_currency"]
        rules = self.policy.for_instrument(name)
        highest = self.highest(fund, rules.instrument_window_ms)
        window = self._instruments.get(name, Window())
        fallen = window.highest(self._now_ms, rules.instrument_window_ms)
        used = fallen - number(instrument["delta"]) + number(instrument["reserved"])
        limit = number(rules.instrument_share) * highest
        known = self.policy.currencies.get(currency)
        scale = SCALE_MAX if known is None else known.scale
        return {
            "share": rules.instrument_share,
            "window_ms": rules.instrument_window_ms,
            "window_maximum": amount_text(highest),
            "limit": amount_text(floor_scale(limit, scale)),
            "used": amount_text(used),
            "headroom": amount_text(max(ZERO, floor_scale(limit - used, scale))),
        }

    def _load(self, table: Table, name: str) -> dict[str, Window]:
        first = (self._now_ms - self.policy.window_ms_max) // BUCKET_MS
        mine, minute = table.c.ledger == self._ledger, table.c.minute
        # What was in force when the longest window began counts too.
        last = (
            select(table.c[name], func.max(minute).label("minute"))
            .where(and_(mine, minute < first))
            .group_by(table.c[name])
            .subquery()
        )
        same = and_(table.c[name] == last.c[name], minute == last.c.minute)
        columns = plain(table, name, "minute", "peak", "level")
        before = self._reading.connection.execute(
            select(*columns).join(last, same).where(mine)
        ).all()
        since = self._reading.connection.execute(
            select(*columns).where(and_(mine, minute >= first)).order_by(minute)
        ).all()
        found: dict[str, Window] = {}
        rows: Iterable[Any] = (*before, *since)
        for key, at, peak, level in rows:
            window = found.setdefault(key, Window([]))
            window.buckets.append(Bucket(at, number(peak), number(level)))
        return found


@functools.lru_cache(maxsize=16)
def _policy(document: str) -> Policy:
    return parse_policy(json.loads(document))


def _total(row: Values) -> str:
    return amount_text(number(row["available"]) + number(row["reserved"]))
