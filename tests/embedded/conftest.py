"""What the tests of this level share: a shard on a file of its own, and its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# They are not test modules by their names, yet their asserts shall explain themselves.
pytest.register_assert_rewrite(f"{__package__}.log_contract", f"{__package__}.service")

from tests.embedded.shard import ManualClock, Site  # noqa: E402 - after the rewrite is asked for


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test sets."""
    return ManualClock()


@pytest.fixture
async def site(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Site]:
    """A log file with the processors of a shard."""
    opened = Site(tmp_path / "log.db", clock)
    yield opened
    await opened.close()
