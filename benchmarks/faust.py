"""Print the speeds of a Faust worker with read models in SQLite: medians of 5."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.kafka import Bench, Figure, run_cases
from insurance_fund.streams.urls import KafkaUrl, parse_log_url
from tests.projections.faust_site import (
    DATABASE,
    Site,
    Writer,
    busy_ledger,
    open_site,
    open_writer,
)

ENTRIES_A_LIQUIDATION: Final = 5
# A transaction of the fund under load.
ENTRIES_A_TRANSACTION: Final = 500
RATE: Final = 500
STEP_S: Final = 0.05
LOOK_S: Final = 0.002


def rate(bench: Bench) -> list[Figure]:
    """(g) Entries that come while the worker is there: Faust hands them over, not the reader."""
    entries = int(20_000 * bench.scale)
    lines = busy_ledger(entries // ENTRIES_A_LIQUIDATION)
    seconds = asyncio.run(_take(bench, bench.fresh(), lines))
    return [Figure("(g) Faust worker, steady", len(lines) / seconds, "entries/s")]


def lag(bench: Bench) -> list[Figure]:
    """(g) From the end of a commit to its rows, at a steady rate."""
    lines = busy_ledger(int(10 * RATE * bench.scale) // ENTRIES_A_LIQUIDATION)
    lags = sorted(asyncio.run(_follow(bench, bench.fresh(), lines)))
    label = f"(g) Faust worker at {RATE} entries/s, lag"
    return [
        Figure(f"{label} p50", lags[len(lags) // 2], "ms"),
        Figure(f"{label} p99", lags[len(lags) * 99 // 100], "ms"),
    ]


CASES: Final = {"rate": rate, "lag": lag}


@asynccontextmanager
async def _working(bench: Bench, where: str) -> AsyncIterator[tuple[Site, Writer]]:
    url = parse_log_url(where)
    assert isinstance(url, KafkaUrl)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        async with open_site(Path(folder), url) as site, open_writer(site) as writer:
            await site.serve()
            yield site, writer


async def _take(bench: Bench, where: str, lines: Sequence[bytes]) -> float:
    async with _working(bench, where) as (site, writer):
        await writer.commit(lines[:10])
        await site.until(9)
        started_s = time.perf_counter()
        for first in range(10, len(lines), ENTRIES_A_TRANSACTION):
            await writer.commit(lines[first : first + ENTRIES_A_TRANSACTION])
        await site.until(len(lines) - 1)
        return time.perf_counter() - started_s


async def _follow(bench: Bench, where: str, lines: Sequence[bytes]) -> list[float]:
    async with _working(bench, where) as (site, writer):
        await writer.commit(lines[:10])
        await site.until(9)
        committed: dict[int, float] = {}
        seeing = asyncio.create_task(_see(site, committed, len(lines) - 1))
        step = round(RATE * STEP_S)
        next_s = time.perf_counter()
        for first in range(10, len(lines), step):
            batch = lines[first : first + step]
            await writer.commit(batch)
            committed[first + len(batch) - 1] = time.perf_counter()
            next_s += STEP_S
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
        return await seeing


async def _see(site: Site, committed: dict[int, float], last: int) -> list[float]:
    """Look again and again how far the rows are; return how late each commit was seen there."""
    lags: list[float] = []
    with contextlib.closing(sqlite3.connect(site.folder / DATABASE)) as connection:
        while True:
            query = "SELECT sequence FROM positions WHERE name = 'read_models'"
            ((sequence,),) = connection.execute(query).fetchall()
            now_s = time.perf_counter()
            for seen in [one for one in committed if one <= sequence]:
                lags.append((now_s - committed.pop(seen)) * 1000)
            if sequence >= last and not committed:
                return lags
            await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    run_cases(CASES, "benchmarks.faust", __doc__)
