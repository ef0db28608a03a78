"""Views: the read models, read in threads, so that the loop of the server never waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import event

from insurance_fund.events.errors import ReadModelsError
from insurance_fund.projections.database import Database
from insurance_fund.projections.http.problems import unavailable
from insurance_fund.projections.queries import Reading, begin_reading

_T = TypeVar("_T")
# Queries of ours take some milliseconds: more threads than this only wait for one another.
THREADS: Final = 4
# Above what any query of ours takes, below what a client waits.
STATEMENT_MS: Final = 5_000


class Views:
    """Reads the read models of some ledgers; nothing is ever written through it."""

    def __init__(self, database: Database, ledgers: Sequence[str]) -> None:
        self._database = database
        self.ledgers = tuple(ledgers)
        self._threads = anyio.CapacityLimiter(THREADS)
        self._is_sqlite = database.path is not None
        # What was opened before may write.
        database.engine.dispose()
        event.listen(database.engine, "connect", self._only_read)

    async def read(self, query: Callable[[Reading], _T]) -> _T:
        """Return what a query finds in one short transaction.

        Raises ProblemError where the read models cannot be read now.
        """
        try:
            return await run_sync(self._read, query, limiter=self._threads)
        except ReadModelsError as error:
            raise unavailable(str(error)) from error

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _read(self, query: Callable[[Reading], _T]) -> _T:
        with self._database.connect() as connection:
            return query(begin_reading(connection, self.ledgers))

    def _only_read(self, connection: Any, _record: Any) -> None:
        if self._is_sqlite:
            connection.execute("PRAGMA query_only = ON").close()
            return
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            cursor.execute(f"SET statement_timeout = {STATEMENT_MS}")
        connection.commit()
