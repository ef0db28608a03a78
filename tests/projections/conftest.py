"""What the tests of projections share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from insurance_fund.projections.database import Database, open_database


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
