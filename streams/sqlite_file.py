"""The file of a SQLite log: how it is made, opened and recognised, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from insurance_fund.events.errors import (
    CorruptionError,
    InsuranceFundError,
    LogUnavailableError,
)

APPLICATION_ID: Final = int.from_bytes(b"INSF")
SCHEMA_VERSION: Final = 1

# Far above the slowest of our own transactions (a full batch on a slow disk: under a second), so
# that only a stuck process or a transaction that a person left open is ever reported.
BUSY_S_MAX: Final = 10.0

_SCHEMA: Final = (
    """CREATE TABLE partitions (
        id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition))""",
    "CREATE TABLE writers (shard TEXT PRIMARY KEY, epoch INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_RIGHTS: Final = (
    "{path} cannot be opened or written ({error}): let this user read it (a writer: write it too) "
    "and write its directory, where SQLite keeps {path.name}-wal and {path.name}-shm"
)
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "{path} is locked: end the process or the transaction that holds it",
    sqlite3.SQLITE_FULL: "no room for {path} ({error}): free space on its disk, then start again",
    sqlite3.SQLITE_IOERR: (
        "{path} cannot be read or written ({error}): look at its disk, its free space and the "
        "limit on the size of files, then start again"
    ),
    sqlite3.SQLITE_NOTADB: "{path} is not a log of ours (no SQLite database): give another path",
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_CANTOPEN: _RIGHTS,
    sqlite3.SQLITE_PERM: _RIGHTS,
}


def identity(path: Path) -> tuple[int, int]:
    """Return what tells this file from any other that may come to stand at its path."""
    status = path.stat()
    return status.st_dev, status.st_ino


def connect_writer(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a log for reading and writing; make it where `create` allows that and none is there.

    Raises LogUnavailableError for a file that is missing, foreign, of a newer version or not ours
    to write, and CorruptionError for a damaged one.
    """
    if not path.exists():
        if not create:
            raise _missing(path)
        if not path.parent.is_dir():
            raise LogUnavailableError(f"no directory {path.parent}: make it before the log")
    elif not os.access(path, os.W_OK):
        raise LogUnavailableError(f"{path} is write-protected: let this user write it")
    return _connect(path, "rwc" if create else "rw")


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a log for reading only; raises as `connect_writer` does."""
    if not path.exists():
        raise _missing(path)
    return _connect(path, "ro")


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether another process holds the lock that was asked for."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def failure(path: Path, error: sqlite3.Error) -> InsuranceFundError:
    """Return what an error of SQLite means for whoever runs this, with what to do."""
    code = _primary_code(error)
    if code == sqlite3.SQLITE_CORRUPT:
        return CorruptionError(f"{path} is damaged ({error}): keep a copy and restore a backup")
    advice = _ADVICE.get(code, "{path} cannot be used: {error}")
    return LogUnavailableError(advice.format(path=path, error=error))


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that the Python module raises by itself carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _missing(path: Path) -> LogUnavailableError:
    return LogUnavailableError(f"no log at {path}: check the path, or start a writer, it makes one")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if path.is_dir():
        raise LogUnavailableError(f"{path} is a directory: name a file in it")
    with ExitStack() as undo:
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_S_MAX,
                isolation_level=None,
            )
            undo.callback(connection.close)
            if mode == "rwc" and _is_blank(connection):
                _make(connection)
            _recognise(path, connection)
            if mode != "ro":
                _write_ahead(path, connection)
            # From here on the callers retry, so that a lock never stops their other tasks.
            connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as error:
            raise failure(path, error) from error
        undo.pop_all()
    return connection


def _integer(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])


def _is_blank(connection: sqlite3.Connection) -> bool:
    return (
        _integer(connection, "PRAGMA application_id") == 0
        and _integer(connection, "SELECT count(*) FROM sqlite_master") == 0
    )


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have made it while this one waited for the lock.
        if _is_blank(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _recognise(path: Path, connection: sqlite3.Connection) -> None:
    if _is_blank(connection):
        raise LogUnavailableError(f"{path} holds no log yet: start a writer, it makes one")
    if _integer(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise LogUnavailableError(f"{path} is a database of another program: give another path")
    version = _integer(connection, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise LogUnavailableError(
            f"{path} is a log of version {version}, this release reads version {SCHEMA_VERSION}: "
            "use the release that wrote it, or a newer one"
        )


def _write_ahead(path: Path, connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LogUnavailableError(f"SQLite keeps no write-ahead log at {path}: use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
