"""Views: the read models, read in threads, so that the loop of the server never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

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
# How long a request waits for a thread and its query: a database that hangs keeps none for ever.
READ_S_MAX: Final = 10.0


class Views:
    """Reads the read models of some ledgers; nothing is ever written through it."""

    def __init__(self, database: Database, ledgers: Sequence[str]) -> None:
        self._database = database
        self.ledgers = tuple(ledgers)
        self._threads = ThreadPoolExecutor(THREADS, "views")
        self._is_sqlite = database.path is not None
        # What was opened before may write.
        database.engine.dispose()
        event.listen(database.engine, "connect", self._only_read)

    async def read(self, query: Callable[[Reading], _T]) -> _T:
        """Return what a query finds in one short transaction.

        Raises ProblemError where the read models cannot be read now.
        """
        loop = asyncio.get_running_loop()
        try:
            # What still waits for a thread in the end is not begun.
            async with asyncio.timeout(READ_S_MAX):
                return await loop.run_in_executor(self._threads, self._read, query)
        except TimeoutError:
            raise unavailable(
                f"the database of the read models does not answer within {READ_S_MAX:.0f} s"
            ) from None
        except ReadModelsError as error:
            raise unavailable(str(error)) from error

    def close(self) -> None:
        """Let go of the database."""
        self._threads.shutdown(wait=False, cancel_futures=True)
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
