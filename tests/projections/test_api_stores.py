"""The same answers wherever the read models and the ledger are: PostgreSQL, and Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy.exc import DBAPIError

from insurance_fund.projections.database import open_database
from insurance_fund.projections.http.views import Views
from insurance_fund.projections.queries import Reading
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.command import run_command
from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics
from tests.projections import faust_site
from tests.projections.api_site import Played, listening, served, start, stop, take
from tests.projections.api_site import Server as ApiServer
from tests.projections.postgresql import Server

TARGETS: Final = (
    "/v1/funds",
    "/v1/funds/USDT/history?limit=400",
    "/v1/funds/USDT/history?resolution=minute&from_ms=1767312600000",
    "/v1/instruments",
    "/v1/liquidations?limit=50",
    "/v1/liquidations?outcome=compensated&instrument_id=BTCUSDT&limit=5",
    "/v1/liquidations/liq-0123",
    "/v1/adl-triggers?limit=20",
    "/v1/ledgers",
    "/fapi/v1/insuranceBalance",
)


def answers(server: ApiServer) -> dict[str, Any]:
    """Return what a server answers, page by page where there are two."""
    found = {}
    with server.client() as client:
        for target in TARGETS:
            answer = client.get(target)
            assert answer.status_code == 200, answer.text
            found[target] = body = answer.json()
            if isinstance(body, dict) and body.get("next"):
                mark = "&" if "?" in target else "?"
                page = client.get(f"{target}{mark}cursor={body['next']}")
                found[f"{target} 2"] = page.json()
    return found


def test_answers_out_of_postgresql_are_those_out_of_sqlite(
    played: Played, server_of_game: ApiServer, server: Server
) -> None:
    with served(played.folder, INSURANCE_FUND_DATABASE=server.new_database()) as other:
        found = answers(other)
    assert len(found) > len(TARGETS)
    assert found == answers(server_of_game)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_nothing_can_be_written_through_the_interface(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:{tmp_path / 'views.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("server").new_database()
    views = Views(open_database(url), ["main"])

    def write(reading: Reading) -> None:
        reading.connection.exec_driver_sql("DELETE FROM about")

    try:
        # Either the database's own error, or what was made of it.
        with pytest.raises(Exception, match=r"readonly|read-only") as refused:
            await views.read(write)
        assert isinstance(refused.value, DBAPIError) or "cannot be used" in str(refused.value)
    finally:
        views.close()


@pytest.fixture
async def site(tmp_path: Path, broker: Cluster, prefix: str) -> AsyncIterator[faust_site.Site]:
    """Return a ledger's topic on a broker."""
    await make_topics(broker.bootstrap, prefix, ["main"])
    url = KafkaUrl(tuple(broker.bootstrap.split(",")), prefix)
    async with faust_site.open_site(tmp_path, url) as found:
        yield found


async def test_ledger_on_kafka_is_served_with_what_is_committed_alone(
    site: faust_site.Site, played: Played
) -> None:
    lines, folder = played.lines, site.folder
    environment: dict[str, Any] = {
        f"INSURANCE_FUND_{name}": value for name, value in site.environment.items()
    }
    async with faust_site.open_writer(site) as writer:
        for first in range(0, 1_000, 50):
            await writer.commit(lines[first : first + 50])
            await writer.abort([faust_site.forged(lines[first + 50])])
        await asyncio.to_thread(
            partial(run_command, folder, "projections", "rebuild", **environment)
        )
        with served(folder, **environment) as server:
            async with listening(server.url, "?last_event_id=0") as events:
                found = await take(events, 999)
                await writer.begin(lines[1_000:1_010])
                await writer.give_up()
                await writer.commit(lines[1_000:1_010])
                found += await take(events, 10)
            assert [event.id for event in found] == list(range(1, 1_010))
            with server.client() as client:
                for first, last in ((0, 9), (249, 260), (940, 1_009)):
                    answer = client.get(f"/v1/ledgers/main/entries?from={first}&to={last}")
                    assert answer.content.splitlines() == lines[first : last + 1]
                assert client.get("/v1/ledgers/main/entries/777").content == lines[777]
                row = client.get("/v1/liquidations?limit=1&status=closed").json()
                name = row["liquidations"][0]["liquidation_id"]
                story = client.get(f"/v1/liquidations/{name}").json()["story"]["lines"]
                assert story[-1]["effect"] in {"liquidation_closed", "duplicate_ignored"}
                assert client.get("/v1/ledgers").json()["ledgers"][0]["lag_entries"] == 10


async def test_service_waits_for_brokers_and_says_so(tmp_path: Path) -> None:
    process = start(tmp_path, INSURANCE_FUND_LOG="kafka://127.0.0.1:1/none")
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        server = ApiServer(line.split()[-1].rstrip("/"), process)
        with server.client() as client:
            assert client.get("/livez").status_code == 200
            answer = client.get("/readyz")
            assert answer.status_code == 503
            assert "ledger main" in answer.json()["detail"]
    finally:
        await asyncio.to_thread(stop, process)
    assert process.returncode == 0
