"""Print the speeds of the fund on this machine: medians of 5 runs, each in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.load import RECORDS_A_LIQUIDATION, Input, liquidations, ordinary_fill
from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder
from insurance_fund.events.ledger import PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import Policy, policy_document
from insurance_fund.fund.state import State
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Inputs, Shard
from insurance_fund.streams.lines import partition_values
from insurance_fund.streams.log import NewRecord, Record, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.recovery import recover
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.verify import Verifier

SHARD = Shard("main")
LEDGER = TopicPartition(topics.FUND_LEDGER, 0)


def fold(entries: int, _folder: Path) -> float:
    """(a) In process, from input bytes to chained entry bytes."""
    records = list(liquidations(entries // RECORDS_A_LIQUIDATION))
    keeper = Bookkeeper("main", State())
    cause = PolicyCause(
        policy=policy_document(Policy()), routing={}, clock="event", rules=RULES, software="bench"
    )
    keeper.policy(cause, 0)
    started = time.perf_counter()
    for offset, (topic, value, time_ms) in enumerate(records):
        keeper.record(topic, 0, offset, time_ms, value, time_ms)
    return len(records) / (time.perf_counter() - started)


class _Memory:
    """Just enough of a log to be read from: records that are in memory already."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    async def first_offset(self, _where: TopicPartition) -> int:
        return 0

    async def read(self, _where: TopicPartition, offset: int, records_max: int) -> object:
        from insurance_fund.streams.log import Batch  # noqa: PLC0415

        end = offset + records_max
        return Batch(self._records[offset:end], min(end, len(self._records)))


def skip(entries: int, _folder: Path) -> float:
    """(b) Ordinary fills that the filter skips, in memory."""
    records = [Record(n, 0, None, ordinary_fill(n)) for n in range(entries)]
    inputs = Inputs(_Memory(records), SHARD, Decoder(), {})  # type: ignore[arg-type]

    async def read_all() -> None:
        while inputs.skipped < entries:
            await inputs.read(TopicPartition(topics.FILLS, 0), 5_000)

    started = time.perf_counter()
    asyncio.run(read_all())
    return entries / (time.perf_counter() - started)


async def _publish(path: Path, records: list[Input]) -> None:
    log = SqliteLog.open(path, create=True)
    for topic in topics.INPUT_TOPICS:
        values = [NewRecord(0, None, r.value) for r in records if r.topic == topic]
        for start in range(0, len(values), 10_000):
            await log.publish(topic, values[start : start + 10_000])
    await log.close()


async def _process(path: Path) -> float:
    log = SqliteLog.open(path, create=False)
    options = Options(clock="event", policy=Policy(), until_idle=True)
    processor = Processor(log, SHARD, options, SystemClock())
    started = time.perf_counter()
    await processor.start()
    await processor.run()
    rate = processor.entries_written / (time.perf_counter() - started)
    await log.close()
    return rate


def end_to_end(entries: int, folder: Path) -> float:
    """(c) End to end on SQLite: read, fold, commit with default durability."""
    path = folder / "log.db"
    asyncio.run(_publish(path, list(liquidations(entries // RECORDS_A_LIQUIDATION))))
    return asyncio.run(_process(path))


def _ledger(entries: int, folder: Path) -> Path:
    # One ledger serves all runs of recovery, verify and replay; the latter two read its beginning.
    path = Path(os.environ.get("BENCH_LEDGER", folder / "ledger.db"))
    if not path.exists():
        asyncio.run(_publish(path, list(liquidations(entries // RECORDS_A_LIQUIDATION))))
        asyncio.run(_process(path))
    return path


def recovery(entries: int, folder: Path) -> float:
    """(d) Recovery: read, check the chain and evolve."""
    path = _ledger(entries, folder)

    async def run() -> float:
        log = SqliteLog.open_reader(path)
        started = time.perf_counter()
        recovered = await recover(log, LEDGER, "main")
        return recovered.state.sequence / (time.perf_counter() - started)

    return asyncio.run(run())


def verify(entries: int, folder: Path) -> float:
    """(e) Verify: chain, postings, balances."""
    path = _ledger(entries, folder)

    async def run() -> float:
        log = SqliteLog.open_reader(path)
        verifier = Verifier()
        started = time.perf_counter()
        async for line in partition_values(log, LEDGER):
            verifier.take(line)
            if verifier.report.entries == entries:
                break
        report = verifier.finish(None)
        assert not report.findings, report.findings[:3]
        return report.entries / (time.perf_counter() - started)

    return asyncio.run(run())


def replay(entries: int, folder: Path) -> float:
    """(e) Replay: decide again, compare the bytes."""
    path = _ledger(entries, folder)

    async def run() -> float:
        log = SqliteLog.open_reader(path)
        replayer = Replayer()
        started = time.perf_counter()
        async for line in partition_values(log, LEDGER):
            replayer.take(line)
            if replayer.report.entries == entries:
                break
        report = replayer.finish()
        assert not report.findings, report.findings[:3]
        return report.entries / (time.perf_counter() - started)

    return asyncio.run(run())


CASES: dict[str, tuple[Callable[[int, Path], float], int, str]] = {
    "fold": (fold, 70_000, "(a) fold, in process"),
    "skip": (skip, 1_000_000, "(b) skip ordinary fills"),
    "end_to_end": (end_to_end, 70_000, "(c) end to end on SQLite"),
    "recovery": (recovery, 1_000_000, "(d) recovery of 1,000,000 entries"),
    "verify": (verify, 200_000, "(e) verify"),
    "replay": (replay, 200_000, "(e) replay"),
}


def _one(name: str, entries: int, folder: Path) -> None:
    rate = CASES[name][0](entries, folder)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(rate, peak_mib)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Run all cases, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", choices=CASES, help="run one case once, in this process")
    parser.add_argument("--only", choices=CASES, nargs="*", help="run these cases only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the entries")
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            _one(arguments.one, int(CASES[arguments.one][1] * arguments.scale), Path(folder))
        return
    print(f"medians of {arguments.rounds}; {_machine()}")
    print(f"{'case':36} {'entries':>10} {'per second':>12} {'us each':>8} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_LEDGER"] = str(Path(folder) / "ledger.db")
        for name, (_, entries, label) in CASES.items():
            if arguments.only and name not in arguments.only:
                continue
            count = int(entries * arguments.scale)
            command = [sys.executable, "-m", "benchmarks", "--one", name]
            command += ["--scale", str(arguments.scale)]
            if name in ("recovery", "verify", "replay"):
                _ledger(count, Path(folder))
            rates, peaks = [], []
            for _ in range(arguments.rounds):
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rate, peak = done.stdout.split()
                rates.append(float(rate))
                peaks.append(float(peak))
            median = statistics.median(rates)
            print(
                f"{label:36} {count:>10,} {median:>12,.0f} {1e6 / median:>8.1f} "
                f"{statistics.median(peaks):>9,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
