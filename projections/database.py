"""The database of the read models: opened, checked, and its tables made.

It is disposable: what cannot be used is refused with the command that builds it anew. SQLite serves
the processes of one host, PostgreSQL those of many.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, delete, func, insert, inspect, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from insurance_fund.events.errors import ReadModelsError
from insurance_fund.projections import tables
from insurance_fund.projections.engines import SQLITE_BEGIN, make_engine, parse_database_url

REBUILD: Final = "`insurance-fund projections rebuild` builds them anew from the ledger"
READY: Final = "ready"
BUILDING: Final = "building"
# A number of our own among the advisory locks of a PostgreSQL server.
_MAKING: Final = 0x696E7366
_DAMAGED: Final = (
    "malformed",
    "not a database",
    "no such table",
    "no such column",
    "does not exist",
)


class Database:
    """Read models in a SQL database; `engine` is SQLAlchemy's, for use by threads."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine = self._reading = make_engine(url)
        if url.get_backend_name() == "postgresql":
            self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ")
        self._writing = self.engine.execution_options(**{SQLITE_BEGIN: "BEGIN IMMEDIATE"})

    def __str__(self) -> str:
        if self.path is not None:
            return f"sqlite:{self.path}"
        return self.url.render_as_string(hide_password=True)

    @property
    def path(self) -> Path | None:
        """Return the file of a SQLite database, None for another."""
        if self.url.get_backend_name() != "sqlite" or self.url.database is None:
            return None
        return Path(self.url.database)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction; it is committed at the end, rolled back where anything raised."""
        with self.answered(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection for reading: all that is read in it is of one moment."""
        with self.answered(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Say what a database's error means.

        Raises ReadModelsError.
        """
        try:
            yield
        except DBAPIError as error:
            told = str(error.orig).strip().splitlines()[0]
            if any(word in told for word in _DAMAGED):
                raise ReadModelsError(
                    f"the read models in {self} are damaged ({told}): {REBUILD}"
                ) from error
            if isinstance(error, IntegrityError | DataError):
                raise  # ours: no database does that of itself
            raise ReadModelsError(f"the database {self} cannot be used: {told}") from error

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def state(self) -> str | None:
        """Return whether the read models are ready or being built, None where there are none.

        Raises ReadModelsError for those of another schema.
        """
        with self.connect() as connection:
            return _state_of(connection, self)

    def set_state(self, state: str) -> None:
        """Write down whether the read models are ready or being built."""
        with self.begin() as connection:
            _set_state(connection, state)

    def make_ready(self) -> None:
        """Make empty read models, unless another process has just done so."""
        with self.begin() as connection:
            if connection.dialect.name == "postgresql":
                # Of two who make the same table at once one fails there.
                connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
            if _state_of(connection, self) is None:
                tables.metadata.create_all(connection)
                _set_state(connection, READY)


def open_database(url: str, *, create: bool = True) -> Database:
    """Open the read models: `sqlite:PATH` or `postgresql://...`; where are none, `create` them.

    Raises SettingsError for another URL, ReadModelsError for read models that are damaged, half
    built, of another schema, or not there.
    """
    database = Database(parse_database_url(url))
    try:
        _make_ready(database, create=create)
    except BaseException:
        database.close()
        raise
    return database


def _make_ready(database: Database, *, create: bool) -> None:
    # SQLite makes a file for whoever asks.
    there = create or database.path is None or database.path.exists()
    state = database.state() if there else None
    if state is None and not create:
        raise ReadModelsError(f"there are no read models in {database}: {REBUILD}")
    if state is None:
        database.make_ready()
        state = database.state()
    if state != READY:
        raise ReadModelsError(
            f"the read models in {database} are being built, or building them was cut off: wait, "
            f"or {REBUILD}"
        )


def _set_state(connection: Connection, state: str) -> None:
    connection.execute(delete(tables.about))
    rows = {"schema": str(tables.SCHEMA), "state": state, "build": uuid.uuid4().hex}
    connection.execute(insert(tables.about), [{"name": n, "value": v} for n, v in rows.items()])


def _state_of(connection: Connection, database: Database) -> str | None:
    there = set(inspect(connection).get_table_names()) & set(tables.metadata.tables)
    if not there:
        return None
    if there != set(tables.metadata.tables):
        raise ReadModelsError(f"the read models in {database} are not whole: {REBUILD}")
    about = {row.name: row.value for row in connection.execute(select(tables.about))}
    if about.get("schema") != str(tables.SCHEMA):
        raise ReadModelsError(
            f"the read models in {database} are of schema {about.get('schema', 'unknown')}, this "
            f"software has {tables.SCHEMA}: {REBUILD}"
        )
    return about.get("state")
