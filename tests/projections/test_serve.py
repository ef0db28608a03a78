"""The command `serve` as a process: rebuilds under it, ledgers that are damaged, and its end."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from insurance_fund.projections.database import BUILDING, READY, Database
from insurance_fund.projections.engines import parse_database_url
from tests.embedded.command import run_command
from tests.projections.api_site import HANG_S, POLL_S, Growing, Played, served, start, stop


def await_sequence(client: httpx.Client, sequence: int) -> None:
    """Wait until the read models have come to a sequence."""
    deadline_s = time.monotonic() + HANG_S
    while True:
        answer = client.get("/v1/funds")
        if answer.status_code == 200 and any(
            one["sequence"] == sequence for one in answer.json()["positions"]
        ):
            return
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(POLL_S)


async def test_read_models_that_are_being_built_are_not_shown(
    tmp_path: Path, growing: Growing
) -> None:
    with served(tmp_path) as server, server.client() as client:
        database = Database(parse_database_url(f"sqlite:{tmp_path / 'views.db'}"))
        database.set_state(BUILDING)
        for path in ("/v1/funds", "/v1/liquidations", "/v1/ledgers", "/readyz", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "insurance-fund projections rebuild" in answer.json()["detail"]
            assert "retry-after" in answer.headers
        assert client.get("/v1/ledgers/main/head").json()["sequence"] == 99
        database.set_state(READY)
        database.close()
        assert client.get("/readyz").status_code == 200


async def test_rebuild_under_a_running_server_leaves_nothing_behind(
    tmp_path: Path, growing: Growing
) -> None:
    with served(tmp_path) as server, server.client() as client:
        before = client.get("/v1/instruments").json()
        environment: dict[str, Any] = {"INSURANCE_FUND_DATABASE": "sqlite:views.db"}
        await asyncio.to_thread(
            lambda: run_command(tmp_path, "projections", "rebuild", **environment)
        )
        await_sequence(client, 99)
        assert client.get("/v1/instruments").json() == before
        await growing.grow(200)
        await_sequence(client, 299)
        await asyncio.to_thread(
            lambda: run_command(tmp_path, "projections", "check", **environment)
        )


async def test_broken_chain_ends_the_server_and_names_the_entry(
    tmp_path: Path, growing: Growing, played: Played
) -> None:
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        with httpx.Client(base_url=line.split()[-1], timeout=HANG_S) as client:
            await_sequence(client, 99)
        growing.lines = [*played.lines[:100], played.lines[101]]
        await growing.grow(1)
        await asyncio.to_thread(process.wait, HANG_S)
    finally:
        await asyncio.to_thread(stop, process)
    assert process.returncode == 1
    errors = (tmp_path / "serve.err").read_text(encoding="utf-8")
    assert "halted: ledger main: entry 100 is missing" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_with_0_however_many_listen(
    tmp_path: Path, growing: Growing, how: signal.Signals
) -> None:
    with served(tmp_path) as server:
        readers = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"\n\n")
            readers.append((reader, writer))
        await asyncio.to_thread(stop, server.process, how)
        for reader, writer in readers:
            # The last chunk: the answer is whole.
            assert (await reader.read()).endswith(b"0\r\n\r\n")
            writer.close()
    assert not (tmp_path / "serve.err").read_bytes()
