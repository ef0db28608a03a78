"""Queries: reading the read models, all of one answer at one moment.

Rows come as plain values: amounts as the text they are kept as, times in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, Select, Table, Text, and_, or_, select, type_coerce

from insurance_fund.events.errors import ReadModelsError
from insurance_fund.projections import tables
from insurance_fund.projections.database import READY, REBUILD
from insurance_fund.projections.projector import READ_MODELS, Position, read_positions

Values = dict[str, Any]
KEY: Final = ("ledger", "liquidation_id", "takeover_sequence")


@dataclass(frozen=True, slots=True)
class Reading:
    """A transaction in which an answer is read, and where each ledger's read models stand in it.

    `build` names the building of the read models: another one after a rebuild.
    """

    connection: Connection
    positions: dict[str, Position]
    build: str

    def rows(self, query: Select[Any]) -> list[Values]:
        """Return the rows of a query."""
        result = self.connection.execute(query)
        # Plain texts: a column's name is of a class of its own, which JSON does not know.
        names = [str(name) for name in result.keys()]  # noqa: SIM118 - it is no mapping
        return [dict(zip(names, row, strict=True)) for row in result.all()]

    def clocks(self) -> dict[str, str]:
        """Return by which time each ledger runs."""
        table = tables.ledgers
        return {
            row[0]: row[1] for row in self.connection.execute(select(table.c.ledger, table.c.clock))
        }

    def told(self, ledgers: Iterable[str] | None = None) -> list[Values]:
        """Return the positions of ledgers (all of them if not said otherwise) for an answer."""
        names = self.positions if ledgers is None else dict.fromkeys(ledgers)
        return [
            {"ledger": name, "sequence": at.sequence, "now_ms": at.now_ms, "sha256": at.sha256}
            for name in names
            if (at := self.positions.get(name)) is not None
        ]


def begin_reading(connection: Connection, ledgers: Sequence[str]) -> Reading:
    """Begin to read in a connection that has begun its transaction.

    Raises ReadModelsError where the read models are being built, or building them was cut off.
    """
    about = {row.name: row.value for row in connection.execute(select(tables.about))}
    if about.get("state") != READY:
        raise ReadModelsError(
            f"the read models are being built, or building them was cut off: wait, or {REBUILD}"
        )
    table = tables.positions
    columns = (table.c.ledger, *(table.c[name] for name in Position._fields))
    mine = and_(table.c.name == READ_MODELS, table.c.ledger.in_(ledgers), table.c.sequence >= 0)
    found = {row[0]: Position(*row[1:]) for row in connection.execute(select(*columns).where(mine))}
    positions = {name: found[name] for name in ledgers if name in found}
    return Reading(connection, positions, about.get("build", ""))


def plain(table: Table, *names: str) -> list[Any]:
    """Return columns of a table (all, where none are named) with amounts as they are kept."""
    columns: Iterable[Column[Any]] = table.columns if not names else (table.c[n] for n in names)
    return [
        type_coerce(column, Text).label(column.name)
        if isinstance(column.type, tables.Amount)
        else column
        for column in columns
    ]


def behind(columns: Sequence[Any], key: Sequence[Any], *, rising: Sequence[bool]) -> Any:
    """Return the condition that a row stands behind a key in the order of columns."""
    options = []
    for index, (column, value, up) in enumerate(zip(columns, key, rising, strict=True)):
        same = [c == v for c, v in zip(columns[:index], key[:index], strict=True)]
        options.append(and_(*same, column > value if up else column < value))
    return or_(*options)


def query_newest(
    reading: Reading,
    table: Table,
    filters: Values,
    order: Sequence[str],
    key: Sequence[Any] | None,
    limit: int,
) -> list[Values]:
    """Return rows of a table, the last in its `order` first, behind `key` if that is given.

    `filters` are columns and what they must hold, None for anything.
    """
    columns = [table.c[name] for name in order]
    query = select(*plain(table)).where(table.c.ledger.in_(list(reading.positions)))
    for name, value in filters.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    if key is not None:
        query = query.where(behind(columns, key, rising=[False] * len(columns)))
    return reading.rows(query.order_by(*(column.desc() for column in columns)).limit(limit))


def of_liquidations(table: Table, keys: Sequence[tuple[Any, ...]]) -> Any:
    """Return the condition that a row belongs to one of some liquidations, by their keys."""
    return or_(
        *(and_(*(table.c[name] == v for name, v in zip(KEY, key, strict=True))) for key in keys)
    )


def key_of(row: Values) -> tuple[Any, ...]:
    """Return the key of the liquidation that a row belongs to."""
    return tuple(row[name] for name in KEY)


def query_ledgers(reading: Reading) -> list[Values]:
    """Return what is known of each ledger: settings, counters, position."""
    rows = {row["ledger"]: row for row in reading.rows(select(*plain(tables.ledgers)))}
    counters: dict[str, dict[str, dict[str, int]]] = {}
    for row in reading.rows(select(tables.counters)):
        kinds = counters.setdefault(row["ledger"], {})
        kinds.setdefault(row["kind"], {})[row["reason"]] = row["records"]
    return [
        {
            **told,
            **{n: rows[told["ledger"]][n] for n in ("clock", "rules", "software", "parked")},
            "counters": counters.get(told["ledger"], {}),
        }
        for told in reading.told()
    ]


def query_positions(reading: Reading) -> dict[tuple[str, str], Position]:
    """Return how far the read models and each webhook have come, by (name, ledger)."""
    return read_positions(reading.connection)


def query_offset(reading: Reading, ledger: str, sequence: int) -> tuple[int, int] | None:
    """Return (sequence, log offset) of the nearest entry in the index that is not behind one."""
    table = tables.ledger_index
    query = (
        select(table.c.sequence, table.c.log_offset)
        .where(and_(table.c.ledger == ledger, table.c.sequence <= sequence))
        .order_by(table.c.sequence.desc())
        .limit(1)
    )
    row = reading.connection.execute(query).first()
    return None if row is None else (row[0], row[1])
