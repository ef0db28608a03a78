"""A real server on a real log: played once for all tests, or grown line by line in a test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from insurance_fund.events import topics
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import COMMAND, run_command

HANG_S: Final = 60
POLL_S: Final = 0.05
LIQUIDATIONS: Final = 300
TOKEN: Final = "a-token-of-these-tests"  # noqa: S105 - of these tests


class Played(NamedTuple):
    """A log that a game was played on, in a folder, and its exported lines."""

    folder: Path
    lines: list[bytes]
    head: dict[str, Any]


class Server(NamedTuple):
    """A server that runs: where it is, and its process."""

    url: str
    process: subprocess.Popen[str]

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=HANG_S, **options)

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def resident_bytes(self) -> int:
        """Return how much memory the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


def play(folder: Path) -> Played:
    """Play a game on a new log in a folder, and export its ledger."""
    run_command(
        folder, "demo", "--headless", "--liquidations", LIQUIDATIONS, "--log", "sqlite:log.db"
    )
    run_command(folder, "export", "ledger.ndjson")
    lines = (folder / "ledger.ndjson").read_bytes().splitlines()
    head = json.loads((folder / "ledger.ndjson.head.json").read_bytes())
    return Played(folder, lines, head)


@contextmanager
def served(folder: Path, *arguments: object, **environment: str) -> Iterator[Server]:
    """Run `insurance-fund serve` on the log of a folder until it is ready, and to its end."""
    process = start(folder, *arguments, **environment)
    try:
        server = Server(_url(process), process)
        _await_ready(server)
        yield server
    finally:
        stop(process)
    assert process.returncode == 0, "SIGTERM ends it in good order"


def start(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command `serve`."""
    with (folder / "serve.err").open("ab") as errors:
        return subprocess.Popen(
            [COMMAND, "serve", "--port", "0", *map(str, arguments)],
            cwd=folder,
            env={
                **os.environ,
                "INSURANCE_FUND_LOG": "sqlite:log.db",
                "INSURANCE_FUND_DATABASE": "sqlite:views.db",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def stop(process: subprocess.Popen[str], how: int = signal.SIGTERM) -> None:
    """End a process and wait for its end."""
    process.send_signal(how)  # which does nothing where it has ended
    try:
        process.wait(HANG_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving at http://"), line
    return line.split()[-1].rstrip("/")


def _await_ready(server: Server) -> None:
    """Wait until all of the ledger is in the read models."""
    deadline_s = time.monotonic() + HANG_S
    with server.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        while client.get("/readyz").status_code != 200 or any(
            row["lag_entries"] != 0 for row in client.get("/v1/ledgers").json()["ledgers"]
        ):
            assert time.monotonic() < deadline_s, client.get("/readyz").text
            time.sleep(POLL_S)


class Growing:
    """A log whose ledger grows as a test says, out of lines that were played before."""

    def __init__(self, path: Path, lines: Sequence[bytes]) -> None:
        self.lines = lines
        self.written = 0
        self._log = SqliteLog.open(path, create=True)

    async def grow(self, entries: int) -> None:
        """Append the next lines, in one transaction."""
        lines = self.lines[self.written : self.written + entries]
        self.written += len(lines)
        records = [NewRecord(0, None, line) for line in lines]
        await self._log.publish(topics.FUND_LEDGER, records)

    async def close(self) -> None:
        """Let go of the file."""
        await self._log.close()


class Told(NamedTuple):
    """A server-sent event: its id, its name, and its data."""

    id: int
    event: str
    data: dict[str, Any]


@asynccontextmanager
async def listening(
    url: str, query: str = "", **headers: str
) -> AsyncIterator[AsyncIterator[Told]]:
    """Listen to the event stream of a server."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=HANG_S) as client,
        client.stream("GET", f"/v1/stream{query}", headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield told(response)


async def told(response: httpx.Response) -> AsyncIterator[Told]:
    """Yield the events of a stream; blocks without data are passed by."""
    block: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        else:
            if "data" in block:
                yield Told(int(block["id"]), block["event"], json.loads(block["data"]))
            block = {}


async def take(events: AsyncIterator[Told], count: int) -> list[Told]:
    """Return the next events of a stream."""
    found: list[Told] = []
    async with asyncio.timeout(HANG_S):
        while len(found) < count:
            found.append(await anext(events))
    return found


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(HANG_S):
        while not holds():  # noqa: ASYNC110 - it becomes true in the code under test
            await asyncio.sleep(POLL_S / 5)
