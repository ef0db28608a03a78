"""The cases: each returns how many entries (or records) a second it came to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import RECORDS_A_LIQUIDATION, Input, liquidations, ordinary_fill
from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder
from insurance_fund.events.ledger import PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import Policy, policy_document
from insurance_fund.fund.state import State
from insurance_fund.projections.database import open_database
from insurance_fund.projections.follower import catch_up
from insurance_fund.projections.projector import Projector
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Inputs, Shard
from insurance_fund.streams.lines import partition_values
from insurance_fund.streams.log import Batch, LogReader, NewRecord, Record, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.recovery import recover
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.simulator.checks import calls_allowed
from insurance_fund.streams.simulator.faults import random_faults
from insurance_fund.streams.simulator.play import play
from insurance_fund.streams.simulator.scenario import random_scenario
from insurance_fund.streams.simulator.trial import INPUTS, trials, undisturbed
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.verify import Verifier

SHARD = Shard("main")
LEDGER = TopicPartition(topics.FUND_LEDGER, 0)
FILLS = TopicPartition(topics.FILLS, 0)
READ_MAX = 5_000
HYPERLIQUID = Path(__file__).parents[2] / "shared" / "data" / "hyperliquid-2023"


def fold(entries: int, _ledger: Path) -> float:
    """(a) In process, from input bytes to chained entry bytes."""
    records = list(liquidations(entries // RECORDS_A_LIQUIDATION))
    keeper = Bookkeeper("main", State())
    cause = PolicyCause(
        policy=policy_document(Policy()),
        routing={"USDT": "main"},
        clock="event",
        rules=RULES,
        software="bench",
    )
    keeper.policy(cause, 0)
    started = time.perf_counter()
    for offset, (topic, value, time_ms) in enumerate(records):
        keeper.record(topic, 0, offset, time_ms, value, time_ms)
    return len(records) / (time.perf_counter() - started)


class _OrdinaryFills:
    """Just enough of a log to be read from: the same fills over and over, already in memory."""

    def __init__(self) -> None:
        self._records = [Record(n, 0, None, ordinary_fill(n)) for n in range(READ_MAX)]

    async def first_offset(self, _where: TopicPartition) -> int:
        return 0

    async def read(self, _where: TopicPartition, offset: int, records_max: int) -> Batch:
        return Batch(self._records[:records_max], offset + records_max)


def skip(records: int, _ledger: Path) -> float:
    """(b) Ordinary fills that the filter skips, in memory."""
    inputs = Inputs(_OrdinaryFills(), SHARD, Decoder(), {})  # type: ignore[arg-type]

    async def read_all() -> None:
        while inputs.skipped < records:
            await inputs.read(FILLS, READ_MAX)

    started = time.perf_counter()
    asyncio.run(read_all())
    return inputs.skipped / (time.perf_counter() - started)


async def _publish(path: Path, records: list[Input]) -> None:
    log = SqliteLog.open(path, create=True)
    for topic in topics.INPUT_TOPICS:
        values = [NewRecord(0, None, r.value) for r in records if r.topic == topic]
        for start in range(0, len(values), 10_000):
            await log.publish(topic, values[start : start + 10_000])
    await log.close()


async def _process(path: Path, snapshot_entries: int = 0) -> float:
    log = SqliteLog.open(path, create=False)
    options = Options(
        clock="event", policy=Policy(), snapshot_entries=snapshot_entries, until_idle=True
    )
    processor = Processor(log, SHARD, options, SystemClock(), snapshots=log)
    started = time.perf_counter()
    await processor.start()
    await processor.run()
    rate = processor.entries_written / (time.perf_counter() - started)
    await log.close()
    return rate


def end_to_end(entries: int, ledger: Path) -> float:
    """(c) End to end on SQLite: read, fold, commit with default durability."""
    path = ledger.with_name("end_to_end.db")
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    asyncio.run(_publish(path, list(liquidations(entries // RECORDS_A_LIQUIDATION))))
    return asyncio.run(_process(path))


def make_ledger(entries: int, ledger: Path) -> float:
    """Make the ledger that recovery, verify and replay read.

    The newest of its snapshots leaves a tenth to be folded: of a million entries as many as can be
    left where a snapshot is written every 100,000.
    """
    asyncio.run(_publish(ledger, list(liquidations(entries // RECORDS_A_LIQUIDATION))))
    return asyncio.run(_process(ledger, snapshot_entries=entries * 18 // 100))


class _WithoutSnapshots(SqliteLog):
    """A log that says nothing of its snapshots."""

    async def partitions(self, topic: str) -> Sequence[int]:
        return [] if topic == topics.FUND_SNAPSHOTS else await super().partitions(topic)


async def _recover(log: LogReader) -> float:
    started = time.perf_counter()
    recovered = await recover(log, LEDGER, "main")
    return recovered.state.sequence / (time.perf_counter() - started)


def recovery(_entries: int, ledger: Path) -> float:
    """(d) Recovery: read, check the chain and evolve."""
    return asyncio.run(_recover(_WithoutSnapshots.open_reader(ledger)))


def recovery_from_snapshot(_entries: int, ledger: Path) -> float:
    """(d) Recovery of the same ledger from its newest snapshot, a tenth before its end."""
    return asyncio.run(_recover(SqliteLog.open_reader(ledger)))


async def _audit(ledger: Path, entries: int, take: Callable[[bytes], None]) -> float:
    log = SqliteLog.open_reader(ledger)
    started, taken = time.perf_counter(), 0
    lines: AsyncIterator[bytes] = partition_values(log, LEDGER)
    async with aclosing(lines):  # type: ignore[type-var]
        async for line in lines:
            take(line)
            taken += 1
            if taken == entries:
                break
    return taken / (time.perf_counter() - started)


def verify(entries: int, ledger: Path) -> float:
    """(e) Verify: chain, postings, balances."""
    verifier = Verifier()
    rate = asyncio.run(_audit(ledger, entries, verifier.take))
    assert not verifier.finish().findings
    return rate


def read_models(entries: int, ledger: Path) -> float:
    """(h) Read models built anew into SQLite, from the same ledger up to so many entries."""

    async def build(folder: str) -> float:
        log = SqliteLog.open_reader(ledger)
        database = open_database(f"sqlite:{folder}/views.db")
        started = time.perf_counter()
        position = await catch_up(log, LEDGER, Projector(database, SHARD.name), until=entries)
        took_s = time.perf_counter() - started
        database.close()
        await log.close()
        return (position.sequence + 1) / took_s

    with tempfile.TemporaryDirectory(dir=ledger.parent) as folder:
        return asyncio.run(build(folder))


def replay(entries: int, ledger: Path) -> float:
    """(e) Replay: decide again, compare the bytes."""
    replayer = Replayer()
    rate = asyncio.run(_audit(ledger, entries, replayer.take))
    assert not replayer.finish().findings
    return rate


def simulate(inputs: int, _ledger: Path) -> float:
    """(f) Scenarios with faults on the simulated log, without making them up and checking them."""
    played, seconds = 0, 0.0
    for seed in range(inputs // INPUTS):
        scenario = random_scenario(seed, INPUTS)
        calm = undisturbed(scenario)
        faults = random_faults(seed, scenario, calm.calls)
        calls_max = (len(faults) + 1) * calls_allowed(calm)
        started = time.perf_counter()
        play(scenario, faults, calls_max=calls_max)
        seconds += time.perf_counter() - started
        played += scenario.inputs
    return played / seconds


def simulate_and_check(inputs: int, _ledger: Path) -> float:
    """(f) The whole of it: scenarios made up, played with and without faults, and checked."""
    started = time.perf_counter()
    outcome = trials(range(inputs // INPUTS))
    assert not outcome.failures
    return outcome.inputs / (time.perf_counter() - started)


def demo(liquidations: int, ledger: Path) -> float:
    """(g) The command `demo`, from its start to its end."""
    path = ledger.with_name("demo.db")
    path.unlink(missing_ok=True)
    number = ("--headless", "--liquidations", str(liquidations))
    return liquidations / _seconds_of("demo", *number, "--log", f"sqlite:{path}")


def backtest(takeovers: int, _ledger: Path) -> float:
    """(g) The command `backtest hyperliquid` with two policies, on the real tape."""
    return takeovers / _seconds_of("backtest", "hyperliquid", str(HYPERLIQUID))


def _seconds_of(*arguments: str) -> float:
    command = Path(sys.executable).with_name("insurance-fund")
    started = time.perf_counter()
    subprocess.run([command, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


class Case(NamedTuple):
    """A case, how many entries it takes, the speed that we aim for, and the files it needs."""

    run: Callable[[int, Path], float]
    entries: int
    aim: int
    label: str
    needs: Path | None = None


CASES = {
    "fold": Case(fold, 70_000, 60_000, "(a) fold, in process"),
    "skip": Case(skip, 1_000_000, 1_000_000, "(b) skip ordinary fills"),
    "end_to_end": Case(end_to_end, 70_000, 25_000, "(c) end to end on SQLite"),
    "recovery": Case(recovery, 1_000_000, 50_000, "(d) recovery of 1,000,000 entries"),
    "recovery_from_snapshot": Case(
        recovery_from_snapshot, 1_000_000, 500_000, "(d) the same, 9 of 10 in a snapshot"
    ),
    "verify": Case(verify, 200_000, 60_000, "(e) verify"),
    "replay": Case(replay, 200_000, 60_000, "(e) replay"),
    "read_models": Case(read_models, 200_000, 30_000, "(h) read models, rebuild into SQLite"),
    "simulate": Case(simulate, 6_000, 5_000, "(f) simulator, inputs with faults"),
    "simulate_and_check": Case(simulate_and_check, 6_000, 0, "(f) the same, made up and checked"),
    "demo": Case(demo, 1_000, 100, "(g) demo, liquidations"),
    "backtest": Case(backtest, 69, 0, "(g) backtest, takeovers", HYPERLIQUID),
}
