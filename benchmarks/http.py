"""Print the speeds of the HTTP interface on a SQLite log: medians of 5."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.projections.api_site import Growing, Played, Server, play, served

CLIENTS: Final = 100
COMMITS: Final = 300
COMMITS_A_SECOND: Final = 50
REQUESTERS: Final = 8
SECONDS: Final = 5.0
WARM_UP_S: Final = 1.0
BEGUN: Final = 100
# A dashboard's charts ask for as much.
POINTS: Final = 1_000
_ID: Final = re.compile(rb"^id: (\d+)\nevent", re.MULTILINE)


class Figure(NamedTuple):
    """A line of the table: what was measured, its value, and what was aimed for."""

    label: str
    value: float
    unit: str
    aim: str = ""


def stream(played: Played, folder: Path) -> list[Figure]:
    """Return how late clients of the event stream hear of a commit, from its end on."""
    return asyncio.run(_stream(played, folder))


async def _stream(played: Played, folder: Path) -> list[Figure]:
    growing = Growing(folder / "log.db", played.lines)
    await growing.grow(BEGUN)
    committed: dict[int, int] = {}
    try:
        with served(folder) as server, _role("listen", server) as clients:
            assert clients.stdout is not None
            await asyncio.to_thread(clients.stdout.readline)
            next_s = time.perf_counter()
            for sequence in range(BEGUN, BEGUN + COMMITS):
                await growing.grow(1)
                committed[sequence] = time.time_ns()
                next_s += 1 / COMMITS_A_SECOND
                await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            arrived = json.loads(await asyncio.to_thread(clients.stdout.readline))
    finally:
        await growing.close()
    late_ms = [
        (at - committed[sequence]) / 1e6
        for client in arrived
        for sequence, at in client
        if sequence in committed
    ]
    assert len(late_ms) == CLIENTS * COMMITS
    label = f"(l) commit to {CLIENTS} stream clients"
    return [
        Figure(f"{label} p50", _share(late_ms, 0.5), "ms", "50"),
        Figure(f"{label} p99", _share(late_ms, 0.99), "ms", "250"),
    ]


def requests(played: Played, folder: Path) -> list[Figure]:
    """Return how many requests a second are answered, and how late the slowest are."""
    (folder / "log.db").write_bytes((played.folder / "log.db").read_bytes())
    figures = []
    with served(folder) as server:
        for label, target in (
            ("funds", "/v1/funds"),
            (f"history, {POINTS:,} points", f"/v1/funds/USDT/history?limit={POINTS}"),
        ):
            with _role("ask", server, target) as asking:
                assert asking.stdout is not None
                taken_ms = json.loads(asking.stdout.readline())
            rate = len(taken_ms) / SECONDS
            figures += [
                Figure(f"(m) API {label}", rate, "requests/s"),
                Figure(
                    f"(m) API {label}, p99 of {REQUESTERS} at once", _share(taken_ms, 0.99), "ms"
                ),
            ]
    return figures


CASES: Final = {"stream": stream, "requests": requests}


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def _role(name: str, server: Server, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run clients in a process of their own."""
    host, port = server.address
    command = [sys.executable, "-m", "benchmarks.http", "--role", name, host, str(port)]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@asynccontextmanager
async def _connection(
    host: str, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, limit=16 * 1024 * 1024)
    try:
        yield reader, writer
    finally:
        writer.close()


def _asking(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


async def _listen(host: str, port: int) -> None:
    """Be all clients of the stream; print a line when they are, and what arrived when."""
    ready = asyncio.Semaphore(0)

    async def hear() -> list[tuple[int, int]]:
        arrived: list[tuple[int, int]] = []
        async with _connection(host, port) as (reader, writer):
            writer.write(_asking("/v1/stream"))
            await reader.readuntil(b"\n\n")
            ready.release()
            while len(arrived) < COMMITS:
                chunk = await reader.read(1 << 20)
                now_ns = time.time_ns()
                arrived += [(int(number), now_ns) for number in _ID.findall(chunk)]
        return arrived

    hearing = [asyncio.create_task(hear()) for _ in range(CLIENTS)]
    for _ in hearing:
        await ready.acquire()
    print("ready", flush=True)
    print(json.dumps(await asyncio.gather(*hearing)), flush=True)


async def _ask(host: str, port: int, target: str) -> None:
    """Ask again and again, some at once; print how long each answer took, after the warm-up."""
    taken_ms: list[float] = []
    begun_s = time.perf_counter() + WARM_UP_S

    async def ask() -> None:
        async with _connection(host, port) as (reader, writer):
            while (asked_s := time.perf_counter()) < begun_s + SECONDS:
                writer.write(_asking(target))
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 "), head
                size = re.search(rb"content-length: (\d+)", head)
                assert size is not None
                await reader.readexactly(int(size[1]))
                if asked_s >= begun_s:
                    taken_ms.append((time.perf_counter() - asked_s) * 1000)

    await asyncio.gather(*(ask() for _ in range(REQUESTERS)))
    print(json.dumps(taken_ms), flush=True)


def _measure(rounds: int) -> None:
    found: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "played").mkdir()
        played = play(folder / "played")
        for number in range(rounds):
            for case, measure in CASES.items():
                place = folder / f"{case}-{number}"
                place.mkdir()
                for figure in measure(played, place):
                    found.setdefault(figure.label, []).append(figure)
    print(f"medians of {rounds}")
    for label, figures in found.items():
        value = statistics.median(figure.value for figure in figures)
        print(f"{label:50} {value:>10,.1f} {figures[0].unit:12} {figures[0].aim}", flush=True)


def main() -> None:
    """Measure, or be one of the roles."""
    parser = argparse.ArgumentParser(prog="benchmarks.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.role:
        _measure(arguments.rounds)
        return
    role, host, port, *rest = arguments.role
    roles: dict[str, Any] = {"listen": _listen, "ask": _ask}
    asyncio.run(roles[role](host, int(port), *rest))


if __name__ == "__main__":
    main()
