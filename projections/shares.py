"""Shares: how far the caps of a fund's instruments are used, at one time after another.

As docs/rules.md section 4 has it, but by the policy that holds now, whatever the time.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, and_, func, select

from insurance_fund.events.amounts import SCALE_MAX, ZERO, floor_scale, number
from insurance_fund.fund.policy import Policy, parse_policy
from insurance_fund.fund.windows import BUCKET_MS
from insurance_fund.projections import tables
from insurance_fund.projections.queries import Reading, plain


class Share(NamedTuple):
    """What the rolling window allows an instrument: amounts in the margin currency.

    `limit` and `headroom` are floored to the currency's scale, `headroom` is at least zero.
    """

    instrument_id: str
    share: str
    window_ms: int
    window_maximum: Decimal
    limit: Decimal
    used: Decimal
    headroom: Decimal


class Shares:
    """The shares of a fund's instruments from one time to another; times asked about must rise."""

    def __init__(self, reading: Reading, fund: tuple[str, str], times_ms: tuple[int, int]) -> None:
        """`fund` is (ledger, currency), `times_ms` the first and the last time asked about."""
        ledger, currency = fund
        query = select(tables.ledgers.c.policy).where(tables.ledgers.c.ledger == ledger)
        policy = _policy(reading.connection.execute(query).scalar_one())
        known = policy.currencies.get(currency)
        self._scale = SCALE_MAX if known is None else known.scale
        minutes = ((times_ms[0] - policy.window_ms_max) // BUCKET_MS, times_ms[1] // BUCKET_MS)
        totals = _load(reading, _TOTALS, fund, minutes)[currency]
        deltas = _load(reading, _DELTAS, fund, minutes)
        self.window_ms = policy.default.instrument_window_ms
        self._rules = {name: policy.for_instrument(name) for name in deltas}
        windows = {self.window_ms, *(one.instrument_window_ms for one in self._rules.values())}
        self._totals = {window_ms: _Maximum(totals, window_ms) for window_ms in windows}
        self._deltas = {
            name: _Maximum(found, self._rules[name].instrument_window_ms)
            for name, found in deltas.items()
        }

    def at(self, now_ms: int) -> tuple[Decimal, list[Share]]:
        """Return the fund's maximum in the default window, and the shares by instrument.

        Of the maximum withdrawals until then do not count as lost.
        """
        highest = {}
        for window_ms, total in self._totals.items():
            total.move_to(now_ms)
            highest[window_ms] = total.highest - total.held
        # Most instruments have the same rules: the exact limit, and floored.
        limits: dict[tuple[str, int], tuple[Decimal, Decimal]] = {}
        shares = []
        for name, delta in self._deltas.items():
            delta.move_to(now_ms)
            rules = self._rules[name]
            share, window_ms = rules.instrument_share, rules.instrument_window_ms
            if (share, window_ms) not in limits:
                exactly = number(share) * highest[window_ms]
                limits[share, window_ms] = (exactly, floor_scale(exactly, self._scale))
            exactly, limit = limits[share, window_ms]
            used = delta.highest - delta.level + delta.held
            shares.append(
                Share(
                    name,
                    share,
                    window_ms,
                    highest[window_ms],
                    limit,
                    used,
                    max(ZERO, floor_scale(exactly - used, self._scale)),
                )
            )
        return highest[self.window_ms], shares


class _Minute(NamedTuple):
    """A minute of what has a rolling maximum; `held` is as of its last entry, as `level` is."""

    minute: int
    peak: Decimal
    level: Decimal
    held: Decimal


class _Maximum:
    """A rolling maximum as `fund/windows.py` has it; each minute enters and leaves it once."""

    def __init__(self, minutes: Sequence[_Minute], window_ms: int) -> None:
        self._minutes, self._window_ms = minutes, window_ms
        self._entered = self._left = 0
        self._before = ZERO
        # Those in the window whose peak none has reached since: the first of them is the highest.
        self._leading: deque[_Minute] = deque()
        self.highest = self.level = self.held = ZERO

    def move_to(self, now_ms: int) -> None:
        """Move on to a time that is not before the one moved to last."""
        first, last = (now_ms - self._window_ms) // BUCKET_MS, now_ms // BUCKET_MS
        minutes, leading = self._minutes, self._leading
        while self._entered < len(minutes) and minutes[self._entered].minute <= last:
            entering = minutes[self._entered]
            while leading and leading[-1].peak <= entering.peak:
                leading.pop()
            leading.append(entering)
            self.level, self.held = entering.level, entering.held
            self._entered += 1
        while leading and leading[0].minute < first:
            leading.popleft()
        # What was in force when the window began counts too.
        while self._left < self._entered and minutes[self._left].minute < first:
            self._before = minutes[self._left].level
            self._left += 1
        self.highest = max(self._before, leading[0].peak) if leading else self._before


# Of whom the minutes are, by which name, and what is held beside them.
_TOTALS: Final = (tables.funds, tables.fund_minutes, "margin_currency", "withdrawals")
_DELTAS: Final = (tables.instruments, tables.instrument_minutes, "instrument_id", "reserved")


def _load(
    reading: Reading,
    what: tuple[Table, Table, str, str],
    fund: tuple[str, str],
    minutes: tuple[int, int],
) -> dict[str, list[_Minute]]:
    """Return minutes by name, both ends included, and of each the last one before them."""
    owners, table, name, held = what
    first, last = minutes
    mine = and_(owners.c.ledger == fund[0], owners.c.margin_currency == fund[1])
    order = owners.c[name]
    found: dict[str, list[_Minute]] = {
        row[0]: [] for row in reading.connection.execute(select(order).where(mine).order_by(order))
    }
    # One look into the index for each, however many minutes there were before.
    older = table.alias()
    newest = select(func.max(older.c.minute)).where(
        and_(
            older.c.ledger == owners.c.ledger,
            older.c[name] == owners.c[name],
            older.c.minute < first,
        )
    )
    before = select(order, newest.scalar_subquery().label("minute")).where(mine).subquery()
    columns: list[Any] = plain(table, name, "minute", "peak", "level", held)
    of_ledger, minute = table.c.ledger == fund[0], table.c.minute
    newest_before = and_(of_ledger, table.c[name] == before.c[name], minute == before.c.minute)
    owned = and_(of_ledger, table.c[name].in_(select(order).where(mine)))
    for query in (
        select(*columns).join(before, newest_before),
        select(*columns).where(and_(owned, minute.between(first, last))).order_by(minute),
    ):
        for key, at, peak, level, kept in reading.connection.execute(query).all():
            found[key].append(_Minute(at, number(peak), number(level), number(kept)))
    return found


@functools.lru_cache(maxsize=16)
def _policy(document: str) -> Policy:
    return parse_policy(json.loads(document))
