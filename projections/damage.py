"""Damaged files: a SQLite database that cannot be used is put aside for another in its place."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import insert, select

from insurance_fund.events.errors import ReadModelsError
from insurance_fund.projections import tables
from insurance_fund.projections.database import Database, open_database
from insurance_fund.projections.engines import parse_database_url


class SetAside(NamedTuple):
    """A damaged file's new name, and whether the positions in it could still be read."""

    path: Path
    positions_kept: bool


def set_aside_if_damaged(url: str) -> SetAside | None:
    """Put a SQLite file that cannot be used aside; None where there is no such file.

    The positions of webhooks that can still be read of it stand in the new file that takes its
    place: what was sent is not sent again.
    """
    database = Database(parse_database_url(url))
    path = database.path
    try:
        if path is None or not path.exists() or _is_sound(database):
            return None
        kept = _positions_in(database)
    finally:
        database.close()
    aside = next(
        one for n in count(1) if not (one := path.with_name(f"{path.name}.damaged-{n}")).exists()
    )
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    database = open_database(url)
    try:
        if kept:
            with database.begin() as connection:
                connection.execute(insert(tables.positions), kept)
    finally:
        database.close()
    return SetAside(aside, kept is not None)


def _is_sound(database: Database) -> bool:
    try:
        with database.connect() as connection:
            return bool(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one() == "ok")
    except ReadModelsError:
        return False


def _positions_in(database: Database) -> list[dict[str, Any]] | None:
    """Return the positions in a damaged file, None where they cannot be read."""
    with suppress(ReadModelsError), database.connect() as connection:
        return [dict(row) for row in connection.execute(select(tables.positions)).mappings()]
    return None
