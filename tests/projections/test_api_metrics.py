"""What the interface exports of how far the read models are behind; what is not known is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from insurance_fund.api import api_app
from insurance_fund.events import topics
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.projections.database import Database
from insurance_fund.projections.http.services import open_services
from insurance_fund.projections.projector import Position, move_position
from insurance_fund.projections.webhook import Webhook
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sqlite import SqliteLog
from tests.projections.api_site import until
from tests.projections.ledgers import LEDGER, project, records_of
from tests.unit.life import Life

PREFIX = "insurance_fund_projection_lag_"


@pytest.mark.parametrize("clock", ["wall", "event"])
async def test_lag_is_told_from_the_first_entry_on_and_its_age_where_it_is_known(
    clock: str, tmp_path: Path, opened: Callable[[], Database]
) -> None:
    life, path = Life(clock=clock), tmp_path / "log.db"
    life.take_over()
    log = SqliteLog.open(path, create=True)
    await log.publish(topics.FUND_LEDGER, [NewRecord(0, None, line) for line in life.lines])
    database = opened()
    async with (
        open_services(opened(), [LEDGER], lambda: SqliteLog.open_reader(path)) as services,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(api_app(services)), base_url="http://localhost"
        ) as client,
    ):
        feed = services.books[LEDGER].feed

        async def lag() -> dict[str, float]:
            answer = await client.get("/metrics")
            assert answer.status_code == 200, answer.text
            return {
                sample.name.removeprefix(PREFIX): sample.value
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name.startswith(PREFIX)
            }

        await until(lambda: feed.trouble is None and feed.next_sequence == len(life.lines))
        # Nobody has begun: all of it is missing, and since when is not known.
        assert await lag() == {"entries": len(life.lines)}
        project(database, records_of(life.lines)[:2])
        found = await lag()
        assert found.pop("entries") == len(life.lines) - 2
        if clock == "wall":
            assert found.pop("seconds") > 0
        # A recording is as old as it is.
        assert not found
        project(database, records_of(life.lines))
        assert await lag() == {"entries": 0, "seconds": 0}
    await log.close()


async def test_webhook_that_is_no_more_in_the_settings_has_no_lag(
    tmp_path: Path, opened: Callable[[], Database]
) -> None:
    log = SqliteLog.open(tmp_path / "log.db", create=True)
    lines = Life().lines
    await log.publish(topics.FUND_LEDGER, [NewRecord(0, None, line) for line in lines])
    desk, database = Webhook("desk", "https://risk.example/adl"), opened()
    with database.begin() as connection:
        for name in (desk.position, "webhook:gone"):
            to = Position(0, sha256_hex(lines[0]), 1, 1)
            move_position(connection, name, LEDGER, Position(), to)
    async with (
        open_services(
            opened(), [LEDGER], lambda: SqliteLog.open_reader(tmp_path / "log.db")
        ) as services,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(api_app(services, webhooks=[desk])),
            base_url="http://localhost",
        ) as client,
    ):
        await until(lambda: services.books[LEDGER].feed.trouble is None)
        told = (await client.get("/metrics")).text
    await log.close()
    assert 'projection="webhook:desk"' in told
    assert "webhook:gone" not in told
