"""Services: what the routes answer from, opened together and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from insurance_fund.events import topics
from insurance_fund.projections.database import Database
from insurance_fund.projections.http.entries import Entries
from insurance_fund.projections.http.feed import Feed
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.stream import Streams
from insurance_fund.projections.http.views import Views
from insurance_fund.projections.queries import query_offset
from insurance_fund.streams.log import LogReader, TopicPartition


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger as the log has it: its newest entries, and any of them."""

    feed: Feed
    entries: Entries


@dataclass(frozen=True, slots=True)
class Services:
    """The read models, the ledgers, and the open event streams."""

    views: Views
    books: dict[str, Book]
    streams: Streams

    def book(self, ledger: str | None) -> Book:
        """Return a ledger; its name is needed only where there are several.

        Raises ProblemError.
        """
        names = ", ".join(self.books)
        if ledger is None:
            if len(self.books) > 1:
                raise ProblemError("bad-parameter", f"name a ledger: ledger is one of {names}")
            return next(iter(self.books.values()))
        found = self.books.get(ledger)
        if found is None:
            shown = ledger[:80]
            raise ProblemError("not-found", f"there is no ledger {shown!a}; there are: {names}")
        return found

    def let_go(self) -> None:
        """End the streams."""
        for book in self.books.values():
            book.feed.close()


@asynccontextmanager
async def open_services(
    database: Database,
    ledgers: Sequence[str],
    opened: Callable[[], LogReader],
    streams: Streams | None = None,
) -> AsyncIterator[Services]:
    """Follow ledgers, in the order of the settings, and read their read models.

    `opened` opens the log for reading, each time anew. The database is closed at the end.
    """
    views = Views(database, ledgers)
    books = {}
    for index, ledger in enumerate(ledgers):
        where = TopicPartition(topics.FUND_LEDGER, index)
        books[ledger] = Book(
            Feed(ledger, opened, where), Entries(opened, where, partial(_offset, views, ledger))
        )
    services = Services(views, books, streams or Streams())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(book.feed.run()) for book in books.values()]
            try:
                yield services
            finally:
                services.let_go()
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as failed:
        # What was raised inside, or by a feed that ended: as it is.
        raise failed.exceptions[0] from failed
    finally:
        for book in books.values():
            await book.entries.close()
        views.close()


async def _offset(views: Views, ledger: str, sequence: int) -> tuple[int, int] | None:
    return await views.read(lambda reading: query_offset(reading, ledger, sequence))
