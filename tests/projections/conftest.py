"""What the tests of projections share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from insurance_fund.projections.database import Database, open_database
from tests.kafka.conftest import (  # noqa: F401 - fixtures of the broker
    _one_node,
    _secure_node,
    _told_in_time,
    _whole_secure_node,
    broker,
    prefix,
    runtime,
    secured,
)
from tests.projections.api_site import Growing, Played, play, served
from tests.projections.api_site import Server as ApiServer
from tests.projections.postgresql import Server, find_server, running_server


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Database]]:
    """Return what opens read models in a file of this test, by name."""
    databases: list[Database] = []

    def open_one(name: str = "views.db") -> Database:
        databases.append(open_database(f"sqlite:{tmp_path / name}"))
        return databases[-1]

    yield open_one
    for database in databases:
        database.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Return a PostgreSQL server of our own."""
    programs = find_server()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with running_server(programs) as running:
        yield running


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Return a log that a game was played on."""
    return play(tmp_path_factory.mktemp("played"))


@pytest.fixture(scope="session")
def server_of_game(played: Played) -> Iterator[ApiServer]:
    """Return a server on the played log."""
    with served(played.folder) as running:
        yield running


@pytest.fixture
async def growing(tmp_path: Path, played: Played) -> AsyncIterator[Growing]:
    """Return a log of which 100 entries are written, and the test writes the others."""
    found = Growing(tmp_path / "log.db", played.lines)
    await found.grow(100)
    yield found
    await found.close()
