"""The embedded driver: read models of another log, or of one that lost its end, are found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError
from insurance_fund.projections.database import Database
from insurance_fund.projections.follower import catch_up
from insurance_fund.projections.projector import Projector
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from tests.projections.ledgers import LEDGER, random_ledger

WHERE = TopicPartition(topics.FUND_LEDGER, 0)
LINES = random_ledger(11)


async def caught_up(path: Path, lines: list[bytes], database: Database) -> int:
    """Catch up with a log in which these lines stand; return the sequence reached."""
    log = SqliteLog.open(path, create=True)
    try:
        await log.publish(WHERE.topic, [NewRecord(0, None, line) for line in lines])
        return (await catch_up(log, WHERE, Projector(database, LEDGER))).sequence
    finally:
        await log.close()


async def test_log_that_went_on_is_followed(tmp_path: Path, opened: Callable[[], Database]) -> None:
    database = opened()
    assert await caught_up(tmp_path / "log.db", LINES[:20], database) == 19
    assert await caught_up(tmp_path / "log.db", LINES[20:30], database) == 29


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(LINES[:10], id="lost its end"),
        pytest.param([], id="empty"),
        pytest.param(random_ledger(12)[:5], id="another, shorter"),
        pytest.param(random_ledger(12)[:20], id="another, as long"),
        pytest.param(random_ledger(12)[:30], id="another, longer"),
    ],
)
async def test_log_that_is_not_the_one_of_the_read_models_stops_at_once(
    other: list[bytes], tmp_path: Path, opened: Callable[[], Database]
) -> None:
    database = opened()
    await caught_up(tmp_path / "log.db", LINES[:20], database)
    with pytest.raises(CorruptionError, match=r"entry 19, .*projections rebuild") as stopped:
        await caught_up(tmp_path / "other.db", other, database)
    assert stopped.value.sequence == 19
