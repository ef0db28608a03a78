"""Engines: how SQLAlchemy gets at the database that a setting names."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError

from insurance_fund.events.errors import SettingsError

# The option of an engine that says how its transactions begin on SQLite.
SQLITE_BEGIN: Final = "sqlite_begin"
BUSY_MS: Final = 10_000
BUSY_PAUSE_S: Final = 0.01
# A server that is gone without a word is given up after some ten seconds, not with the kernel's
# patience of a quarter of an hour.
_POSTGRESQL: Final = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SQLITE: Final = re.compile(r"sqlite:(?!//)(.+)")


def parse_database_url(url: str) -> URL:
    """Return where a setting says that the read models are.

    Raises SettingsError.
    """
    found = _SQLITE.fullmatch(url)
    if found is not None:
        return URL.create("sqlite", database=found[1])
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql" or not parsed.database:
        raise SettingsError(
            "database must be sqlite:PATH or postgresql://USER@HOST:PORT/NAME; "
            f"got {_without_password(url)!r}"
        )
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: URL) -> Engine:
    """Return an engine for a parsed URL.

    Raises SettingsError for a driver or a directory that is missing.
    """
    if url.get_backend_name() == "postgresql":
        try:
            return create_engine(url, pool_pre_ping=True, connect_args=_POSTGRESQL)
        except ModuleNotFoundError as error:
            raise SettingsError(
                "PostgreSQL needs a driver: pip install 'insurance-fund[postgresql]'"
            ) from error
    path = Path(url.database or "")
    if not path.parent.is_dir():
        raise SettingsError(f"no directory {path.parent}: make it before the read models")
    engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000})

    def note_file(_connection: Any, record: Any) -> None:
        record.info["file"] = _file_at(path)

    def see_same_file(_connection: Any, record: Any, _proxy: Any) -> None:
        # A file that was put aside or deleted would be served for ever.
        if record.info["file"] != _file_at(path):
            raise DisconnectionError(f"{path} is another file now")

    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "connect", note_file)
    event.listen(engine, "checkout", see_same_file)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _without_password(url: str) -> str:
    return re.sub(r"(?<=:)[^:@/]*(?=@)", "***", url)


def _begin_sqlite(connection: Connection) -> None:
    # Who is going to write waits for its turn here; one who has read before is refused at once.
    connection.exec_driver_sql(connection.get_execution_options().get(SQLITE_BEGIN, "BEGIN"))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin with the first write only, and reads would be of several moments.
    connection.isolation_level = None
    # Positions of webhooks stand here as well: what is committed must outlive a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}"):
        _set_patiently(connection, pragma)


def _set_patiently(connection: Any, pragma: str) -> None:
    # A change to WAL is refused at once, whatever the timeout, while another one makes it too.
    deadline_s = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline_s:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return
