"""The event stream: every entry once, wherever it is taken up, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from insurance_fund.api import api_app
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.projections.database import Database
from insurance_fund.projections.http.ring import BYTES_MAX, ENTRIES_MAX, Event, Ring
from insurance_fund.projections.http.server import bind, serving, url_of
from insurance_fund.projections.http.services import Services, open_services
from insurance_fund.projections.http.stream import Streams
from insurance_fund.streams.sqlite import SqliteLog
from tests.projections.api_site import (
    HANG_S,
    Growing,
    Played,
    Server,
    listening,
    served,
    stop,
    take,
    until,
)


@pytest.fixture
async def inside(
    tmp_path: Path, growing: Growing, opened: Callable[[str], Database]
) -> AsyncIterator[Callable[..., Any]]:
    """Return what serves the growing log in this process, with limits of its own."""
    async with AsyncExitStack() as stack:

        async def serve(**limits: Any) -> tuple[str, Services]:
            services = await stack.enter_async_context(
                open_services(
                    opened("views.db"),
                    ["main"],
                    lambda: SqliteLog.open_reader(tmp_path / "log.db"),
                    Streams(**limits),
                )
            )
            feed = services.books["main"].feed
            listener = bind("127.0.0.1", 0)
            stack.callback(listener.close)
            await stack.enter_async_context(serving(api_app(services), listener, services.let_go))
            await until(lambda: feed.trouble is None)
            return url_of(listener).rstrip("/"), services

        yield serve


def effects_of(line: bytes) -> Any:
    """Return the effects of an entry."""
    return json.loads(line)["effects"]


async def test_event_tells_an_entry_with_its_effects(
    server_of_game: Server, played: Played
) -> None:
    count = len(played.lines)
    async with listening(server_of_game.url, "?last_event_id=0") as events:
        found = await take(events, count - 1)
    for sequence, event in enumerate(found, start=1):
        line = played.lines[sequence]
        assert (event.id, event.event) == (sequence, "entry")
        assert event.data == {
            "ledger": "main",
            "sequence": sequence,
            "now_ms": json.loads(line)["now_ms"],
            "sha256": sha256_hex(line),
            "effects": effects_of(line),
        }


async def test_stream_begins_with_what_comes_and_goes_on_live(
    growing: Growing, inside: Callable[..., Any]
) -> None:
    url, _ = await inside()
    async with listening(url) as events:
        await growing.grow(3)
        assert [event.id for event in await take(events, 3)] == [100, 101, 102]
        await growing.grow(1)
        assert [event.id for event in await take(events, 1)] == [103]


async def test_only_wanted_types_are_told_and_ids_move_on_all_the_same(
    growing: Growing, inside: Callable[..., Any]
) -> None:
    url, _ = await inside(heartbeat_s=0.05)
    wanted = {"adl_triggered", "liquidation_closed"}
    matching = {
        sequence: [e for e in effects_of(line) if e["type"] in wanted]
        for sequence, line in enumerate(growing.lines)
        if any(e["type"] in wanted for e in effects_of(line))
    }
    first = min(sequence for sequence in matching if sequence > 200)
    query = "?type=adl_triggered,liquidation_closed&last_event_id=99"
    async with (
        httpx.AsyncClient(base_url=url, timeout=HANG_S) as client,
        client.stream("GET", f"/v1/stream{query}") as response,
    ):
        lines = response.aiter_lines()
        await growing.grow(first + 1 - 100)
        expected = [sequence for sequence in matching if 100 <= sequence <= first]
        ids, data = list[int](), list[Any]()
        async with asyncio.timeout(HANG_S):
            async for line in lines:
                name, _, value = line.partition(": ")
                if name == "id":
                    ids.append(int(value))
                elif name == "data":
                    data.append(json.loads(value))
                if len(data) == len(expected):
                    break
            assert [one["sequence"] for one in data] == expected
            assert [one["effects"] for one in data] == [matching[n] for n in expected]
            # An entry that is of no wanted type moves the place only.
            quiet = next(n for n in range(first + 1, 10_000) if n not in matching)
            await growing.grow(quiet - first)
            async for line in lines:
                if line == f"id: {quiet}":
                    break


async def test_heartbeat_tells_the_place_of_a_quiet_ledger(inside: Callable[..., Any]) -> None:
    url, _ = await inside(heartbeat_s=0.05)
    async with (
        httpx.AsyncClient(base_url=url, timeout=HANG_S) as client,
        client.stream("GET", "/v1/stream") as response,
    ):
        found = []
        async for line in response.aiter_lines():
            found.append(line)
            if found.count(": heartbeat") == 3:
                break
    assert found[:3] == ["retry: 1000", "id: 99", ""]
    assert found[3:9] == [": heartbeat", "id: 99", ""] * 2


async def test_every_entry_comes_once_over_restarts(tmp_path: Path, growing: Growing) -> None:
    count, found, last = 400, list[int](), 99
    writing = asyncio.create_task(_write(growing, count))
    for round_ in range(4):
        # While it starts the writer waits for this thread; what it wrote before is the backlog.
        with served(tmp_path) as server:
            async with listening(server.url, **{"Last-Event-ID": str(last)}) as events:
                if round_ == 3:
                    await writing
                    found += [one.id for one in await take(events, count - len(found))]
                    break
                found += [one.id for one in await take(events, count // 5)]
                # It ends with the streams that are open, each in good order.
                stop(server.process)
                async with asyncio.timeout(HANG_S):
                    found += [one.id async for one in events]
            last = found[-1]
    assert found == list(range(100, 100 + count))


async def _write(growing: Growing, count: int) -> None:
    for _ in range(count):
        await growing.grow(1)
        await asyncio.sleep(0.005)


async def test_header_goes_before_the_parameter(inside: Callable[..., Any]) -> None:
    url, _ = await inside()
    async with listening(url, "?last_event_id=3", **{"Last-Event-ID": "90"}) as events:
        assert (await take(events, 1))[0].id == 91


async def test_place_that_another_server_has_reached_is_waited_for(
    growing: Growing, inside: Callable[..., Any]
) -> None:
    url, _ = await inside()
    async with listening(url, "?last_event_id=104") as events:
        await growing.grow(10)
        assert [event.id for event in await take(events, 2)] == [105, 106]


async def test_too_many_clients_are_sent_away_for_a_while(inside: Callable[..., Any]) -> None:
    url, services = await inside(streams_max=2)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(listening(url))
        async with httpx.AsyncClient(base_url=url) as client:
            refused = await client.get("/v1/stream")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert "2 event streams are open" in refused.json()["detail"]
            assert (await client.get("/v1/funds")).status_code == 200
    await until(lambda: not services.streams.open)
    async with listening(url):
        assert services.streams.open == 1


async def test_broken_chain_ends_the_streams_and_is_told(
    growing: Growing, inside: Callable[..., Any], played: Played
) -> None:
    url, services = await inside()
    async with listening(url) as events:
        previous = sha256_hex(played.lines[99]).encode()
        growing.lines = [*played.lines[:100], played.lines[100].replace(previous, b"0" * 64)]
        await growing.grow(1)
        async with asyncio.timeout(HANG_S):
            assert [event async for event in events] == []
    assert "the chain is broken at entry 100" in str(services.books["main"].feed.trouble)
    async with httpx.AsyncClient(base_url=url) as client:
        for path in ("/readyz", "/v1/stream", "/v1/ledgers/main/head"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert "entry 100" in answer.json()["detail"]
        (row,) = (await client.get("/v1/ledgers")).json()["ledgers"]
        assert row["head_sequence"] is None
        assert "entry 100" in row["trouble"]


async def test_feed_goes_on_when_the_log_is_back(
    tmp_path: Path, growing: Growing, inside: Callable[..., Any]
) -> None:
    url, services = await inside()
    feed = services.books["main"].feed
    away = tmp_path / "away.db"
    (tmp_path / "log.db").rename(away)
    await until(lambda: feed.trouble is not None)
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/readyz")).status_code == 503
    away.rename(tmp_path / "log.db")
    await until(lambda: feed.trouble is None)
    async with listening(url, "?last_event_id=99") as events:
        await growing.grow(2)
        assert [event.id for event in await take(events, 2)] == [100, 101]


@pytest.mark.parametrize(("filling", "kept"), [(10, ENTRIES_MAX), (BYTES_MAX // 100, 99)])
def test_ring_holds_the_newest_within_its_limits(filling: int, kept: int) -> None:
    ring, count = Ring(), kept + 10
    for number in range(count):
        line = (
            b'{"ledger":"main","sequence":%d,"now_ms":1,"previous":"","effects":[{"type":"x",'
            b'"filling":"%b"}]}' % (number, b"x" * filling)
        )
        ring.add(Event(line))
    assert ring.first == count - kept
    assert [event.sequence for event in ring.since(count - 5, 500)] == list(range(count - 5, count))
    assert [event.sequence for event in ring.since(count - 5, 2)] == [count - 5, count - 4]
