"""Comparing read models: the rows of one database against those of another, table by table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, String, Table, select

from insurance_fund.projections import tables
from insurance_fund.projections.tables import Row

FINDINGS_MAX: Final = 20
_ROWS_AT_A_TIME: Final = 5_000


class Finding(NamedTuple):
    """A row that is not the same: in which table, its key, and what each side has in it.

    `live` or `rebuilt` is None for a row that is missing there, else the columns that differ.
    """

    table: str
    key: tuple[Any, ...]
    live: Row | None
    rebuilt: Row | None


def differences(live: Connection, rebuilt: Connection, ledger: str) -> list[Finding]:
    """Return rows of a ledger that two databases do not share, the first `FINDINGS_MAX`."""
    found = (
        finding
        for table in tables.READ_MODELS
        for finding in _differing(table, live, rebuilt, ledger)
    )
    return list(islice(found, FINDINGS_MAX))


def _differing(
    table: Table, live: Connection, rebuilt: Connection, ledger: str
) -> Iterator[Finding]:
    lefts, rights = _rows(table, live, ledger), _rows(table, rebuilt, ledger)
    left, right = next(lefts, None), next(rights, None)
    while left is not None or right is not None:
        keys = [_key(table, row) for row in (left, right) if row is not None]
        key = min(keys)
        mine = left if left is not None and _key(table, left) == key else None
        theirs = right if right is not None and _key(table, right) == key else None
        if mine is None or theirs is None:
            yield Finding(table.name, key, mine, theirs)
        elif mine != theirs:
            names = [name for name in mine if mine[name] != theirs[name]]
            yield Finding(
                table.name, key, {n: mine[n] for n in names}, {n: theirs[n] for n in names}
            )
        left = next(lefts, None) if mine is not None else left
        right = next(rights, None) if theirs is not None else right


def _key(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


def _rows(table: Table, connection: Connection, ledger: str) -> Iterator[Row]:
    # By code points on every database, as Python compares: PostgreSQL sorts by the locale.
    by_key = [
        column.collate("C")
        if isinstance(column.type, String) and connection.dialect.name == "postgresql"
        else column
        for column in table.primary_key
    ]
    query = select(table).where(table.c.ledger == ledger).order_by(*by_key)
    result = connection.execution_options(yield_per=_ROWS_AT_A_TIME).execute(query)
    return (dict(row) for row in result.mappings())
