"""What is damaged or hangs behind the interface: told as a problem, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest

from insurance_fund.projections.database import Database
from insurance_fund.projections.http import views as views_module
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.views import THREADS, Views
from insurance_fund.projections.queries import Reading
from tests.projections.api_site import HANG_S, Growing, listening, served, stop
from tests.projections.postgresql import Server

MISSING: Final = 80
BROKEN: Final = {60: b"garbage", 61: None, 62: b"\xff\xfe{", MISSING: None}


def damage(path: Path, *sequences: int) -> None:
    """Write over entries in the middle of a ledger, and delete one."""
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT id FROM partitions WHERE topic = 'fund-ledger'"
        table = f"records_{connection.execute(sql).fetchone()[0]}"
        for offset in sequences:
            value = BROKEN.get(offset, b"garbage")
            connection.execute(f"UPDATE {table} SET value = ? WHERE offset = ?", (value, offset))  # noqa: S608
        connection.execute(f"DELETE FROM {table} WHERE offset = ?", (MISSING,))  # noqa: S608
        connection.commit()


async def test_damaged_entries_are_named_and_what_stands_before_them_is_told(
    tmp_path: Path, growing: Growing
) -> None:
    with served(tmp_path) as server, server.client() as client:
        damage(tmp_path / "log.db", *BROKEN)
        for sequence in BROKEN:
            before = sequence - 1
            named = {f"{sequence}": sequence, f"?from={sequence}": sequence}
            named[f"?from={before}"] = before if before in BROKEN else sequence
            for target, entry in named.items():
                path = f"/v1/ledgers/main/entries{'' if '?' in target else '/'}{target}"
                answer = client.get(path)
                assert answer.status_code == 503
                assert answer.json()["detail"].startswith(f"entry {entry} is not where it should")
                assert "insurance-fund verify" in answer.json()["detail"]
        for good in (59, 63, 79, 81):
            answer = client.get(f"/v1/ledgers/main/entries/{good}")
            assert answer.content == growing.lines[good]
        for last, broken in ((49, 60), (69, MISSING)):
            async with listening(server.url, f"?last_event_id={last}") as events:
                # It ends there, in good order.
                async with asyncio.timeout(HANG_S):
                    found = [event.id async for event in events]
            assert found == list(range(last + 1, broken))
    assert "Traceback" not in (tmp_path / "serve.err").read_text(encoding="utf-8")


async def test_story_over_a_damaged_entry_is_a_problem(tmp_path: Path, growing: Growing) -> None:
    with served(tmp_path) as server, server.client() as client:
        story = client.get("/v1/liquidations/liq-0001").json()["story"]["lines"]
        damage(tmp_path / "log.db", story[0]["sequence"])
        answer = client.get("/v1/liquidations/liq-0001")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(":unavailable")
    assert "Traceback" not in (tmp_path / "serve.err").read_text(encoding="utf-8")


async def test_queries_that_hang_keep_no_request(
    opened: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_module, "READ_S_MAX", 0.2)
    views, go_on, begun = Views(opened("views.db"), ["main"]), threading.Event(), list[int]()

    def hang(_reading: Reading) -> None:
        begun.append(1)
        go_on.wait(HANG_S)

    try:
        async with asyncio.timeout(HANG_S):
            for _ in range(2):
                answers = await asyncio.gather(
                    *(views.read(hang) for _ in range(2 * THREADS)), return_exceptions=True
                )
                assert all(isinstance(one, ProblemError) for one in answers), answers
                assert "does not answer" in str(answers[-1])
        assert len(begun) == THREADS, "those that waited for a thread never begin"
        go_on.set()
        async with asyncio.timeout(HANG_S):
            assert await views.read(lambda reading: dict(reading.positions)) == {}
    finally:
        go_on.set()
        views.close()


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Let all that a database server does for one database stand still."""
    with psycopg.connect(url, autocommit=True) as connection:
        sql = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        pids = [row[0] for row in connection.execute(sql).fetchall()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_database_that_stands_still_does_not_keep_the_server_from_its_end(
    tmp_path: Path, growing: Growing, server: Server
) -> None:
    url = server.new_database()
    with served(tmp_path, INSURANCE_FUND_DATABASE=url) as running, frozen(url):
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(b"GET /v1/funds HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with httpx.AsyncClient(base_url=running.url, timeout=HANG_S) as client:
            assert (await client.get("/livez")).status_code == 200
        await asyncio.to_thread(stop, running.process)
        assert b"the server is shutting down" in await reader.read()
        writer.close()
    assert "Traceback" not in (tmp_path / "serve.err").read_text(encoding="utf-8")
