"""The paper exchange by the wall clock: beside a fund as people run them, and on a log alone."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.paper.live import LiveExchange, Plan
from insurance_fund.streams.paper.tally import Tally
from insurance_fund.streams.partitions import partition_of
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import COMMAND, command_json, run_command
from tests.embedded.log_contract import records_to_end

HANG_S: Final = 60
LOOK_S: Final = 0.02
# Orders that end while the test runs; a crash of half an hour in some seconds.
# An exchange that is slow on a busy machine is waited for; one that was killed is not, for long.
PATIENT: Final = {"default": {"attempts": [["0.01", 1000]]}, "grace_ms": 20_000}
HASTY: Final = {**PATIENT, "grace_ms": 500}
FAST: Final = ("--speed", 600)
# Ids by which the fund tells the same from another, and ids that are to differ for a person.
IDS: Final = {
    "fill": ("fill_id",),
    "fund_deposit": ("transfer_id",),
    "position_taken_over": ("liquidation_id", "account_id"),
    "adl_executed": ("execution_id",),
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def process(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test; leaving kills it where it has not ended."""
    started = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "INSURANCE_FUND_LOG": "sqlite:log.db"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def ended(started: subprocess.Popen[str], number: signal.Signals | None = None) -> Any:
    """Wait until a command has ended well, after a signal or by itself; return what it printed."""
    if number is not None:
        started.send_signal(number)
    out, said = started.communicate(timeout=HANG_S)
    assert started.returncode == 0, said
    return json.loads(out)


@asynccontextmanager
async def fund(folder: Path, policy: dict[str, Any]) -> AsyncIterator[subprocess.Popen[str]]:
    """Run a fund, which has begun its ledger."""
    (folder / "policy.json").write_text(json.dumps(policy))
    with process(folder, "run", "--policy", "policy.json", "--format", "json") as started:
        async with log_at(folder / "log.db") as log, asyncio.timeout(HANG_S):
            while not await log.partitions(topics.FUND_LEDGER):
                await log.wait(LOOK_S)
        yield started


@asynccontextmanager
async def log_at(path: Path) -> AsyncIterator[SqliteLog]:
    """Open a log of the test's own."""
    log = SqliteLog.open(path, create=True)
    try:
        yield log
    finally:
        await log.close()


async def read(log: SqliteLog, topic: str) -> list[dict[str, Any]]:
    """Return the messages of a topic that has one partition."""
    records, _ = await records_to_end(log, TopicPartition(topic, 0), 0)
    return [json.loads(record.value or b"") for record in records]


async def messages(path: Path, topic: str) -> list[dict[str, Any]]:
    """Return the messages of a topic that has one partition."""
    async with log_at(path) as log:
        return await read(log, topic)


async def until(path: Path, topic: str, kind: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the messages of a type as soon as there are so many."""
    async with log_at(path) as log, asyncio.timeout(HANG_S):
        while True:
            found = [m for m in await read(log, topic) if m["type"] == kind]
            if len(found) >= count:
                return found
            await log.wait(LOOK_S)


async def said(path: Path) -> list[dict[str, Any]]:
    """Return all that the exchange has published."""
    return [m for topic in topics.INPUT_TOPICS for m in await messages(path, topic)]


async def until_closed(folder: Path, running: subprocess.Popen[str], count: int) -> dict[str, Any]:
    """Return the status of the ledger as soon as so many liquidations have ended in it."""
    async with asyncio.timeout(HANG_S):
        while True:
            assert running.poll() is None, running.communicate()
            status: dict[str, Any] = await asyncio.to_thread(command_json, folder, "status")
            if sum(sum(fund["closed"].values()) for fund in status["funds"]) >= count:
                return status


async def test_every_liquidation_of_the_exchange_ends_in_the_ledger_of_a_fund_beside_it(
    tmp_path: Path,
) -> None:
    began_ms = now_ms()
    async with fund(tmp_path, PATIENT) as running:
        arguments = ("exchange", "--seed", 3, "--liquidations", 40, *FAST, "--format", "json")
        with process(tmp_path, *arguments) as exchange:
            told = ended(exchange)
        status = await until_closed(tmp_path, running, 40)
        (ledger,) = ended(running, signal.SIGTERM)
    assert told["liquidations"]["started"] == told["liquidations"]["ended"] == 40
    (row,) = [one for one in status["funds"] if one["in_use"]]
    assert row["transfers"] == "120000"
    assert row["closed"]["compensated"] >= 1
    assert row["closed"]["better_than_bankruptcy"] >= 1
    assert row["closed"]["deleveraged"] == told["liquidations"]["deleveraged"] >= 1
    assert (status["open_liquidations"], status["rejected"], told["refused"]) == ([], {}, 0)
    assert (status["parked_expired"], told["taken"]["foreign"]) == (0, 0)
    fills = await messages(tmp_path / "log.db", topics.FILLS)
    ordinary = [fill for fill in fills if "liquidation_id" not in fill]
    assert told["said"]["ordinary_fills"] == len(ordinary) == ledger["skipped"] > 1_000
    assert told["said"]["fills"] == len(fills) - len(ordinary) > 40
    for message in await said(tmp_path / "log.db"):
        assert began_ms <= message["event_time_ms"] <= now_ms()
    assert "clean" in run_command(tmp_path, "verify").stdout


async def test_exchange_that_is_killed_and_started_again_gives_no_id_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with fund(tmp_path, HASTY):
        arguments = ("exchange", "--liquidations", 100, *FAST, "--format", "json")
        with process(tmp_path, *arguments) as first:
            await until(path, topics.LIQUIDATIONS, "adl_executed")
            first.kill()
            first.wait()
        before = await said(path)
        with process(tmp_path, *arguments) as second:
            # Of the first run's liquidations some may come first.
            executed = sum(m["type"] == "adl_executed" for m in before)
            taken_over = {m.get("liquidation_id") for m in before}
            while True:
                executed += 1
                found = await until(path, topics.LIQUIDATIONS, "adl_executed", executed)
                if found[-1]["liquidation_id"] not in taken_over:
                    break
            told = ended(second, signal.SIGTERM)
    found = await said(path)
    assert told["liquidations"]["ended"] < 100
    deposits = {m["transfer_id"] for m in found if m["type"] == "fund_deposit"}
    assert deposits == {f"begin-{run}-1-USDT" for run in runs_of(found)}
    assert told["run"] in runs_of(found) - runs_of(before)
    assert len({m["event_id"] for m in found}) == len(found)
    for kind, names in IDS.items():
        for name in names:
            ids = [m[name] for m in found if m["type"] == kind]
            assert len(set(ids)) == len(ids) >= 2, name
    refused = {letter["reason"] for letter in await messages(path, topics.DEAD_LETTERS)}
    assert "conflicting_duplicate" not in refused
    assert "clean" in run_command(tmp_path, "verify").stdout


def runs_of(found: list[dict[str, Any]]) -> set[str]:
    """Return the runs that have given the ids."""
    return {m["event_id"].split("-")[1] for m in found}


async def test_exchange_that_a_person_interrupts_says_what_it_came_to(tmp_path: Path) -> None:
    with process(tmp_path, "exchange") as exchange:
        await until(tmp_path / "log.db", topics.FILLS, "fill")
        exchange.send_signal(signal.SIGINT)
        out, told = exchange.communicate(timeout=HANG_S)
    assert exchange.returncode == 0
    assert out.startswith("The exchange has ended: 0 liquidations started, 0 ended (0 filled, ")
    assert told.endswith(", running\n")


def test_exchange_ends_by_itself_after_as_long_as_it_was_given(tmp_path: Path) -> None:
    with process(tmp_path, "exchange", "--for", 1, "--speed", 0.5, "--format", "json") as exchange:
        told = ended(exchange)
    assert (told["courses"], told["liquidations"]["started"]) == (1, 0)
    assert 1 <= told["said"]["ordinary_fills"] < 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--speed", "0"), "--speed must be from 0.01 to 1000; got 0"),
        (("--speed", "nan"), "--speed must be from 0.01 to 1000; got nan"),
        (("--log", "sqlite://log.db"), "is no log URL"),
        (("--log", "sqlite:missing/log.db"), "missing"),
    ],
)
def test_what_cannot_be_played_is_refused_with_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in run_command(tmp_path, "exchange", *arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == []


class Alone:
    """An exchange that runs on a log where nobody else is."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.log = SqliteLog.open(path, create=True)
        self.ready = asyncio.Event()
        self.own_log = SqliteLog.open(path, create=True)
        self.exchange = LiveExchange(
            self.own_log, SystemClock(), plan, Policy(), lambda _: self.ready.set()
        )
        self.run: asyncio.Task[None]

    @property
    def tally(self) -> Tally:
        return self.exchange.tally

    async def until(self, reached: Callable[[Tally], bool]) -> None:
        """Return as soon as the exchange has come to something."""
        while not reached(self.tally):
            await self.log.wait(LOOK_S)

    async def send(self, topic: str, *values: dict[str, Any] | bytes, partition: int = 0) -> None:
        """Send something as the fund does."""
        encoded = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in values]
        await self.log.publish(topic, [NewRecord(partition, None, one) for one in encoded])


@asynccontextmanager
async def alone(
    path: Path, plan: Plan | None = None, before: dict[str, dict[str, Any]] | None = None
) -> AsyncIterator[Alone]:
    """Let an exchange run, on a log where the fund has sent something `before`."""
    site = Alone(path, plan or Plan(1))
    for topic, value in (before or {}).items():
        await site.send(topic, value)
    site.run = asyncio.create_task(site.exchange.run())
    try:
        async with asyncio.timeout(HANG_S):
            await site.ready.wait()
            yield site
            site.exchange.stop()
            await asyncio.wait([site.run])
    finally:
        site.run.cancel()
        await site.log.close()
        await site.own_log.close()


def sent(name: str, **fields: Any) -> dict[str, Any]:
    """Return what every message to the exchange carries."""
    return {
        "event_id": name,
        "event_time_ms": now_ms(),
        "margin_currency": "USDT",
        "ledger": "main",
        "sequence": 7,
        "liquidation_id": name,
        "account_id": "acc",
        "instrument_id": "BTCUSDT",
        "position_side": "long",
        "order_side": "sell",
        "quantity": "1",
        "price": "0.1",
        **fields,
    }


def order(name: str, **changes: Any) -> dict[str, Any]:
    """Return an order of a liquidation that this exchange knows nothing of."""
    fields = {
        "type": "liquidation_order",
        "order_id": f"{name}:1",
        "expires_at_ms": now_ms() + 30_000,
        "attempt": 1,
        "bankruptcy_price": None,
        "compensation": "0",
        "reserved": "0",
        "binding_cap": None,
    }
    return sent(name, **{**fields, **changes})


def trigger(name: str, **changes: Any) -> dict[str, Any]:
    """Return an ADL trigger for such a liquidation."""
    evidence = {
        "order_id": None,
        "order_price": None,
        "expires_at_ms": None,
        "filled_quantity": "0",
        "entry_price": "1",
        "margin_remaining": "0",
        "bankruptcy_price": None,
        "compensation": "0",
        "caps": None,
        "binding_cap": None,
        "fund_available": "0",
        "fund_reserved": "0",
    }
    fields = {
        "type": "adl_trigger",
        "trigger_id": f"{name}:adl",
        "revision": 1,
        "contract_type": "linear",
        "contract_size": "0.001",
        "tick_size": "0.1",
        "price_basis": "bankruptcy_price",
        "reason": "deadline",
        "evidence": evidence,
    }
    return sent(name, **{**fields, **changes})


async def test_what_the_fund_brings_up_again_of_an_earlier_run_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with alone(path) as site:
        await site.send(topics.LIQUIDATION_ORDERS, order("liq-a"))
        await site.send(topics.ADL_TRIGGERS, trigger("liq-b", quantity="2"))
        (report,) = await until(path, topics.LIQUIDATIONS, "liquidation_order_closed")
        executed = await until(path, topics.LIQUIDATIONS, "adl_executed")
    assert (report["order_id"], report["reason"]) == ("liq-a:1", "filled")
    assert {one["trigger_id"] for one in executed} == {"liq-b:adl"}
    assert site.tally.ended == 0


async def test_order_that_nobody_wants_is_reported_expired_when_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with alone(path) as site:
        expires_ms = now_ms() + 300
        far = order("liq-a", price="900000", expires_at_ms=expires_ms)
        await site.send(topics.LIQUIDATION_ORDERS, far)
        (report,) = await until(path, topics.LIQUIDATIONS, "liquidation_order_closed")
    assert (report["reason"], report["filled_quantity"]) == ("expired", "0")
    assert report["event_time_ms"] == expires_ms <= now_ms()


async def test_what_was_sent_before_the_start_or_is_traded_elsewhere_is_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    before = {topics.LIQUIDATION_ORDERS: order("liq-old"), topics.ADL_TRIGGERS: trigger("old")}
    async with alone(path, before=before) as site:
        elsewhere = {"instrument_id": "DOGEUSDT"}
        await site.send(topics.ADL_TRIGGERS, trigger("liq-x", **elsewhere))
        await site.send(topics.LIQUIDATION_ORDERS, order("liq-y", **elsewhere), order("liq-z"))
        (report,) = await until(path, topics.LIQUIDATIONS, "liquidation_order_closed")
    assert report["liquidation_id"] == "liq-z"
    assert {m.get("liquidation_id") for m in await said(path)} == {None, "liq-z"}
    assert (site.tally.foreign, site.tally.orders) == (2, 1)


async def test_first_record_that_the_fund_refuses_is_told_if_it_is_of_this_run(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path / "log.db") as site:
        letter = {
            **sent("x", type="dead_letter", topic="liquidations", partition=0, offset=5),
            "reason": "unknown_currency",
            "detail": "no USDT here",
        }
        mine = base64.b64encode(f'{{"event_id":"takeover-{site.exchange.run_id}-1"}}'.encode())
        not_mine = {**letter, "offset": 4, "value_base64": base64.b64encode(b"{}").decode()}
        await site.send(topics.DEAD_LETTERS, not_mine, {**letter, "value_base64": mine.decode()})
        await site.until(lambda tally: tally.refused > 0)
    assert site.tally.refused == 1
    assert site.tally.first_refusal == "liquidations:0:5 (unknown_currency: no USDT here)"


async def test_what_no_fund_writes_ends_the_exchange_with_the_place_of_it(tmp_path: Path) -> None:
    async with alone(tmp_path / "log.db") as site:
        await site.send(topics.LIQUIDATION_ORDERS, order("liq-a"), b"{}")
        with pytest.raises(CorruptionError, match=r"^liquidation-orders:0 offset 1 is no message"):
            await site.run


async def test_courses_follow_one_another_with_one_deposit_and_ids_of_their_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    async with alone(path, Plan(1, speed=4_000, a_course=3)) as site:
        await until(path, topics.LIQUIDATIONS, "position_taken_over", 7)
    assert site.exchange.courses == 3
    found = await said(path)
    assert len({m["event_id"] for m in found}) == len(found)
    kinds = Counter(m["type"] for m in found)
    assert (kinds["fund_deposit"], kinds["instrument_defined"]) == (1, 3)
    takeovers = [m for m in found if m["type"] == "position_taken_over"]
    assert len({m["liquidation_id"] for m in takeovers}) == len(takeovers) >= 7
    # The second crash is that of the next seed.
    assert {m["margin"] for m in takeovers[:3]}.isdisjoint(m["margin"] for m in takeovers[3:6])


async def test_each_record_stands_in_the_partition_of_its_key_and_all_partitions_are_heard(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    made = SqliteLog.open(path, create=True)
    for topic in (topics.FILLS, topics.LIQUIDATIONS, topics.LIQUIDATION_ORDERS):
        await made.publish(topic, [NewRecord(number, b"", b"{}") for number in range(3)])
    async with alone(path, Plan(1, speed=4_000, liquidations=20)) as site:
        for number in range(3):
            one = order(f"liq-{number}", expires_at_ms=0)
            await site.send(topics.LIQUIDATION_ORDERS, one, partition=number)
        await site.until(lambda tally: tally.started == 20 and tally.orders == 3)
    for topic in (topics.FILLS, topics.LIQUIDATIONS):
        for number in range(3):
            records, _ = await records_to_end(made, TopicPartition(topic, number), 1)
            assert records, f"{topic}:{number}"
            for record in records:
                assert partition_of(record.key or b"", 3) == number
    await made.close()
