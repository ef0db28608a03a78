"""Print the speeds on a real broker: medians of 5, everything in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.cases import LEDGER
from benchmarks.kafka_roles import PASSED, follow, opened
from benchmarks.load import RECORDS_A_LIQUIDATION, Input, liquidations, ordinary_fill
from insurance_fund.events import topics
from insurance_fund.events.ledger import InputCause, decode_entry
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.log import NewRecord, TopicPartition
from tests.kafka.cluster import Cluster
from tests.kafka.found import REMEDY, node_runtime
from tests.kafka.topics import make_topics

COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
RATE: Final = 5_000
# An order of the instrument LASTING outlives the run, those of BRIEF end at once.
POLICY: Final = {
    "grace_ms": 0,
    "default": {"attempts": [["0.01", 500]]},
    "instruments": {"LASTING": {"attempts": [["0.01", 86_400_000]], "instrument_share": "1"}},
}
TRIGGER_EVERY_S: Final = 0.05
WARM_UP_S: Final = 2.0
_SHARES: Final = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


class Figure(NamedTuple):
    """A line of the table: what was measured, its value, and what was aimed for."""

    label: str
    value: float
    unit: str
    aim: str = ""


class Bench:
    """A broker, and a fresh set of topics for each measurement."""

    def __init__(self, bootstrap: str, folder: Path, scale: float) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.scale = scale
        self._numbers = count(1)
        # Made by the first that needs it.
        self.large_ledger = ""
        self.policy = folder / "policy.json"
        self.policy.write_text(json.dumps(POLICY), encoding="utf-8")

    def fresh(self, shards: Sequence[str] = ("main",)) -> str:
        """Make topics of a new prefix; return the URL."""
        prefix = f"bench{next(self._numbers)}"
        asyncio.run(make_topics(self.bootstrap, prefix, shards))
        return f"kafka://{self.bootstrap}/{prefix}"

    def publish(self, url: str, records: Sequence[Input]) -> None:
        """Append inputs."""
        asyncio.run(_publish(url, records))

    def role(self, *arguments: object) -> Any:
        """Run a role to its end; return what it says."""
        done = self.start(*arguments)
        out, _ = done.communicate()
        assert done.returncode == 0, arguments
        return json.loads(out)

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a role."""
        command = [sys.executable, "-m", "benchmarks.kafka_roles", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    @contextlib.contextmanager
    def service(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the service beside what is done inside."""
        environment = {**os.environ, "INSURANCE_FUND_POLICY": str(self.policy)}
        service = subprocess.Popen(
            [COMMAND, "run", "--log", url],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield service
        finally:
            service.terminate()
            service.wait()


async def _publish(url: str, records: Sequence[Input]) -> None:
    log = opened(url)
    for topic in topics.INPUT_TOPICS:
        values = [NewRecord(0, b"key", r.value) for r in records if r.topic == topic]
        for start in range(0, len(values), 10_000):
            await log.publish(topic, values[start : start + 10_000])
    await log.close()


def end_to_end(bench: Bench) -> list[Figure]:
    """(a) Inputs that are there to the last entry that can be read, and a bare copy of as much."""
    records = list(liquidations(int(70_000 * bench.scale) // RECORDS_A_LIQUIDATION))
    url = bench.fresh()
    bench.publish(url, records)
    ours = bench.role("process", url)
    asyncio.run(_make_topic(bench.bootstrap, f"{url.rpartition('/')[2]}.{PASSED}"))
    bare = bench.role("pass_through", url, "--lines", len(records))
    rate, bare_rate = (one["entries"] / one["seconds"] for one in (ours, bare))
    return [
        Figure("(a) end to end, one shard", rate, "entries/s", "40,000"),
        Figure("(a) bare copy of the same bytes", bare_rate, "entries/s"),
        Figure("(a) ratio of the two", rate / bare_rate, "", "0.5"),
    ]


async def _make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()


def skip(bench: Bench) -> list[Figure]:
    """(b) Ordinary fills that are skipped."""
    url = bench.fresh()
    fills = [Input(topics.FILLS, ordinary_fill(n), 0) for n in range(int(500_000 * bench.scale))]
    bench.publish(url, fills)
    told = bench.role("process", url)
    rate = told["skipped"] / told["seconds"]
    return [Figure("(b) ordinary fills skipped", rate, "records/s", "250,000")]


def latency(bench: Bench) -> list[Figure]:
    """(c) From an append to what can be read of it, at a steady rate."""
    url = bench.fresh()
    with bench.service(url):
        fills, triggers = asyncio.run(_measure(bench, url))
    return [
        *_percentiles("(c) append of a fill to its entry", fills, ("15", "50", "100")),
        *_percentiles("(c) end of an order to its trigger", triggers, ("", "", "")),
    ]


async def _measure(bench: Bench, url: str) -> tuple[list[float], list[float]]:
    log, of_entries, of_triggers = opened(url), opened(url), opened(url)
    await _open_large(log)
    await _until_entries(log, 5)
    seconds = 10 * bench.scale + WARM_UP_S
    feeder = bench.start("feed", url, "--rate", RATE, "--seconds", seconds)
    # The monotonic clock is one for all processes of a machine.
    since_ns = time.monotonic_ns() + int(WARM_UP_S * 1e9)
    fills: list[float] = []
    triggers: list[float] = []
    working = [
        asyncio.create_task(_time_fills(of_entries, since_ns, fills)),
        asyncio.create_task(_time_triggers(of_triggers, since_ns, triggers)),
        asyncio.create_task(_take_over(log)),
    ]
    await asyncio.to_thread(feeder.wait)
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    for one in (log, of_entries, of_triggers):
        await one.close()
    return fills, triggers


async def _time_fills(log: KafkaLog, since_ns: int, fills: list[float]) -> None:
    async for line, now_ns in follow(log, LEDGER, await log.end_offset(LEDGER)):
        cause = decode_entry(line).cause
        if isinstance(cause, InputCause) and cause.topic == topics.FILLS:
            appended_ns = int(json.loads(cause.value() or b"{}")["event_id"])
            if appended_ns > since_ns:
                fills.append((now_ns - appended_ns) / 1e6)


async def _time_triggers(log: KafkaLog, since_ns: int, triggers: list[float]) -> None:
    wall_ns = time.time_ns() - time.monotonic_ns()
    where = TopicPartition(topics.ADL_TRIGGERS, 0)
    async for line, now_ns in follow(log, where, await log.end_offset(where)):
        ended_ms = json.loads(line)["evidence"]["expires_at_ms"]
        if now_ns > since_ns:
            triggers.append((now_ns + wall_ns) / 1e6 - ended_ms)


async def _take_over(log: KafkaLog) -> None:
    for number in count():
        await log.publish(topics.LIQUIDATIONS, [_takeover(f"brief-{number}", "BRIEF", 10)])
        await asyncio.sleep(TRIGGER_EVERY_S)


async def _open_large(log: Any) -> None:
    def message(kind: str, **fields: Any) -> NewRecord:
        now_ms = time.time_ns() // 1_000_000
        about = {"event_id": "e", "event_time_ms": now_ms, "margin_currency": "USDT"}
        return NewRecord(0, b"key", json.dumps({"type": kind, **about, **fields}).encode())

    for name in ("LASTING", "BRIEF"):
        await log.publish(
            topics.INSTRUMENTS,
            [
                message(
                    "instrument_defined",
                    instrument_id=name,
                    contract_type="linear",
                    contract_size="0.0001",
                    tick_size="0.1",
                    quantity_step="1",
                    closing_fee_rate="0",
                )
            ],
        )
    deposit = message("fund_deposit", transfer_id="d", amount="1000000000", memo="load")
    await log.publish(topics.FUND_TRANSFERS, [deposit])
    await log.publish(topics.LIQUIDATIONS, [_takeover("large", "LASTING", 1_000_000)])


def _takeover(name: str, instrument: str, quantity: int) -> NewRecord:
    message = {
        "type": "position_taken_over",
        "event_id": name,
        "event_time_ms": time.time_ns() // 1_000_000,
        "margin_currency": "USDT",
        "liquidation_id": name,
        "account_id": "a",
        "instrument_id": instrument,
        "position_side": "long",
        "quantity": str(quantity),
        "entry_price": "50000",
        "margin": "1",
    }
    return NewRecord(0, name.encode(), json.dumps(message).encode())


async def _until_entries(log: Any, wanted: int) -> None:
    await log.read(LEDGER, 0, 1)
    while await log.end_offset(LEDGER) < wanted:
        await log.wait(0.05)
        await log.read(LEDGER, 0, 1)


def _percentiles(label: str, values: list[float], aims: tuple[str, ...]) -> list[Figure]:
    ordered, figures = sorted(values), []
    for (name, share), aim in zip(_SHARES, aims, strict=True):
        value = ordered[min(len(ordered) - 1, int(len(ordered) * share))]
        figures.append(Figure(f"{label}, {name}", value, "ms", aim))
    return figures


def after_kill(bench: Bench) -> list[Figure]:
    """(d) From kill -9 to the first new entry, with the supervisor alive and with a standby."""
    url = bench.fresh()
    with bench.service(url) as service:
        asyncio.run(_warm(url))
        single = asyncio.run(_first_entry_after(url, lambda: _kill_children(service)))
    url = bench.fresh()
    with bench.service(url) as first:
        asyncio.run(_warm(url))
        with bench.service(url):
            standby = asyncio.run(_first_entry_after(url, lambda: _kill_all(first)))
    return [
        Figure("(d) kill -9 to first new entry, single", single, "s"),
        Figure("(d) the same, a standby takes over", standby, "s"),
    ]


async def _warm(url: str) -> None:
    log = opened(url)
    await _open_large(log)
    await _until_entries(log, 5)
    await log.close()


def _children(service: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children")
    return [int(pid) for pid in children.read_text(encoding="utf-8").split()]


def _kill_children(service: subprocess.Popen[bytes]) -> None:
    for pid in _children(service):
        os.kill(pid, signal.SIGKILL)


def _kill_all(service: subprocess.Popen[bytes]) -> None:
    children = _children(service)
    service.kill()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _first_entry_after(url: str, kill: Callable[[], None]) -> float:
    log, reader = opened(url), opened(url)
    # The second host joins and the group comes to rest.
    await asyncio.sleep(3.0)
    kill()
    killed_ns = time.monotonic_ns()
    await log.publish(topics.LIQUIDATIONS, [_takeover("after", "LASTING", 10)])
    async for line, now_ns in follow(reader, LEDGER, 0):
        if b'"after"' in line:
            await log.close()
            await reader.close()
            return (now_ns - killed_ns) / 1e9
    raise AssertionError


def recovery(bench: Bench) -> list[Figure]:
    """(e) Recovery of a large ledger, from a snapshot and without; the ledger is made once."""
    entries = int(1_000_000 * bench.scale)
    if not bench.large_ledger:
        url = bench.fresh()
        bench.publish(url, list(liquidations(entries // RECORDS_A_LIQUIDATION)))
        bench.role("process", url, "--snapshot-entries", entries * 18 // 100)
        bench.large_ledger = url
    url = bench.large_ledger
    whole = bench.role("recovery", url, "--no-snapshots")
    short = bench.role("recovery", url)
    assert whole["entries"] == short["entries"] >= entries * 99 // 100
    return [
        Figure(f"(e) recovery of {entries:,} entries", whole["seconds"], "s"),
        Figure("(e) the same from a snapshot", short["seconds"], "s"),
    ]


def two_shards(bench: Bench) -> list[Figure]:
    """(f) Two shards in two processes at once."""
    each = int(35_000 * bench.scale) // RECORDS_A_LIQUIDATION
    records = list(liquidations(each))
    other = [Input(r.topic, r.value.replace(b'"USDT"', b'"USDC"'), r.time_ms) for r in records]
    renamed = [Input(r.topic, _apart(r.value), r.time_ms) for r in other]
    url = bench.fresh(("one", "two"))
    bench.publish(url, [*records, *renamed])
    started = time.perf_counter()
    running = [
        bench.start("process", url, "--shards", "one,two", "--shard", shard)
        for shard in ("one", "two")
    ]
    told = [json.loads(process.communicate()[0]) for process in running]
    seconds = time.perf_counter() - started
    assert sum(one["entries"] for one in told) >= 2 * len(records)
    return [Figure("(f) two shards in two processes", 2 * len(records) / seconds, "entries/s")]


def _apart(value: bytes) -> bytes:
    return value.replace(b'"liq-', b'"usdc-').replace(b'BTCUSDT"', b'BTCUSDC"')


CASES: Final = {
    "end_to_end": end_to_end,
    "skip": skip,
    "latency": latency,
    "after_kill": after_kill,
    "recovery": recovery,
    "two_shards": two_shards,
}


def main() -> None:
    """Run the cases on a broker of their own."""
    run_cases(CASES, "benchmarks.kafka", __doc__)


def run_cases(
    cases: Mapping[str, Callable[[Bench], list[Figure]]], program: str, about: str | None
) -> None:
    """Run what the command line chooses of some cases, on a broker of their own."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--only", choices=cases, nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the entries")
    given = parser.parse_args()
    here = node_runtime()
    if here.runtime is None:
        print(f"Kafka: not measured, {here.said}. {REMEDY}.")
        return
    print(f"{here.said}, one node; medians of {given.rounds}")
    print(f"{'case':44} {'aim':>9} {'median':>12} {'least':>12} {'most':>12}")
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(here.runtime, Path(name) / "cluster")
        try:
            asyncio.run(cluster.start())
            bench = Bench(cluster.bootstrap, Path(name), given.scale)
            for case in given.only or cases:
                _show([cases[case](bench) for _ in range(given.rounds)])
        finally:
            cluster.stop()


def _show(runs: list[list[Figure]]) -> None:
    for figures in zip(*runs, strict=True):
        first, values = figures[0], [figure.value for figure in figures]
        middle = statistics.median(values)
        shown = [_number(value) for value in (middle, min(values), max(values))]
        print(
            f"{first.label:44} {first.aim:>9} {shown[0]:>12} {shown[1]:>12} {shown[2]:>12} "
            f"{first.unit}",
            flush=True,
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
