"""Loading and writing rows: between the database and what a projection knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, and_, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from insurance_fund.events.amounts import amount_text
from insurance_fund.projections import tables
from insurance_fund.projections.known import Changes, Known
from insurance_fund.projections.tables import Row


def load_known(connection: Connection, ledger: str) -> Known:
    """Return what is open and current of a ledger, as its read models have it."""
    known = Known(ledger)

    def rows(query: Select[Any]) -> Iterable[Row]:
        return (dict(row) for row in connection.execute(query).mappings())

    def of(table: Table) -> Select[Any]:
        return select(table).where(table.c.ledger == ledger)

    for row in rows(of(tables.ledgers)):
        known.about = row
    for row in rows(of(tables.counters)):
        known.counters[row["kind"], row["reason"]] = row
    known.funds = {row["margin_currency"]: row for row in rows(of(tables.funds))}
    known.instruments = {row["instrument_id"]: row for row in rows(of(tables.instruments))}
    newest = _newest(tables.fund_minutes, "margin_currency", ledger)
    known.fund_minutes = {row["margin_currency"]: row for row in rows(newest)}
    newest = _newest(tables.instrument_minutes, "instrument_id", ledger)
    known.instrument_minutes = {row["instrument_id"]: row for row in rows(newest)}
    is_open = of(tables.liquidations).where(tables.liquidations.c.status == "open")
    for row in rows(is_open.order_by(tables.liquidations.c.takeover_sequence)):
        known.liquidations[row["liquidation_id"]] = row
        known.orders[row["liquidation_id"]] = {}
    by_age = (tables.orders.c.liquidation_id, tables.orders.c.attempt)
    for row in rows(_of_open(tables.orders, ledger).order_by(*by_age)):
        known.orders[row["liquidation_id"]][row["order_id"]] = row
    for row in rows(_of_open(tables.adl_triggers, ledger)):
        known.triggers[row["liquidation_id"]] = row
    return known


def _newest(table: Table, name: str, ledger: str) -> Select[Any]:
    newest = (
        select(table.c[name], func.max(table.c.minute).label("minute"))
        .where(table.c.ledger == ledger)
        .group_by(table.c[name])
        .subquery()
    )
    same = and_(table.c[name] == newest.c[name], table.c.minute == newest.c.minute)
    return select(table).join(newest, same).where(table.c.ledger == ledger)


def _of_open(table: Table, ledger: str) -> Select[Any]:
    liquidations = tables.liquidations
    same = and_(
        *(
            table.c[name] == liquidations.c[name]
            for name in ("ledger", "liquidation_id", "takeover_sequence")
        )
    )
    is_open = and_(liquidations.c.ledger == ledger, liquidations.c.status == "open")
    return select(table).join(liquidations, same).where(is_open)


def write_changes(connection: Connection, changes: Changes) -> None:
    """Write changed rows; those that are there already are replaced."""
    for table, rows in changes.items():
        if rows:
            writing = _writing(table, connection.dialect)
            connection.exec_driver_sql(writing.sql, list(map(writing.values, rows.values())))


class _Writing:
    """How rows of a table are written, compiled once: SQLAlchemy would do it for each row."""

    def __init__(self, table: Table, dialect: Dialect) -> None:
        compiled = upsert(table, dialect.name).compile(dialect=dialect)
        self.sql = str(compiled)
        self._positional = compiled.positional
        self._names = list(compiled.positiontup or [column.name for column in table.columns])
        amounts = {c.name for c in table.columns if isinstance(c.type, tables.Amount)}
        self._amounts = [i for i, name in enumerate(self._names) if name in amounts]
        self._values_of = itemgetter(*self._names)

    def values(self, row: Row) -> Any:
        """Return a row as the driver takes it."""
        values = list(self._values_of(row))
        for index in self._amounts:
            if values[index] is not None:
                values[index] = amount_text(values[index])
        return tuple(values) if self._positional else dict(zip(self._names, values, strict=True))


@cache
def _writing(table: Table, dialect: Dialect) -> _Writing:
    return _Writing(table, dialect)


_INSERT: Final[dict[str, Callable[[Table], Any]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


@cache
def upsert(table: Table, dialect: str) -> Any:
    """Return the statement that inserts rows or replaces those with the same key."""
    statement = _INSERT[dialect](table)
    keys = [column.name for column in table.primary_key]
    others = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=others)


@cache
def insert_missing(table: Table, dialect: str) -> Any:
    """Return the statement that inserts rows and leaves those with the same key alone."""
    return _INSERT[dialect](table).on_conflict_do_nothing()
