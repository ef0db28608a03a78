"""A shard under test: the real processor on a real file, by a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from insurance_fund.events import topics
from insurance_fund.events.ledger import ClockCause, Entry, InputCause, decode_entry
from insurance_fund.fund.policy import parse_policy
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import LogPublisher, NewRecord, Record, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.log_contract import records_to_end
from tests.unit.life import BTCUSDT, START_MS

# Never waited out by a test that passes; a test that hangs ends here.
HANG_S: Final = 20
LOOK_S: Final = 0.01
HOUR_MS: Final = 3_600_000
# When the order of a takeover at START_MS is taken for dead: its lifetime and the grace.
DUE_MS: Final = START_MS + 32_000
MAIN: Final = Shard("main")
FILLS: Final = TopicPartition(topics.FILLS, 0)
LEDGER: Final = TopicPartition(topics.FUND_LEDGER, 0)
# What a bus carries beside the fills of liquidations.
ORDINARY: Final = b'{"type":"fill","fill_id":"of-nobody","price":"1"}'
GARBAGE: Final = b'{"liquidation_id": "broken'


class ManualClock:
    """A clock that stands still until the test moves it; it keeps what it has said."""

    def __init__(self, wall_ms: int = START_MS) -> None:
        self.wall = wall_ms
        self.monotonic = 7_000
        self.tick_ms = 0
        self.readings: list[int] = []

    def wall_ms(self) -> int:
        self.readings.append(self.wall)
        self.advance(self.tick_ms)
        return self.readings[-1]

    def monotonic_ms(self) -> int:
        return self.monotonic

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        self.wall += milliseconds
        self.monotonic += milliseconds

    def jump(self, milliseconds: int) -> None:
        """Set the time of day while no time passes."""
        self.wall += milliseconds


class NoWallClock(ManualClock):
    """The clock of event mode, which has no time of day to ask for."""

    def wall_ms(self) -> int:
        raise AssertionError("the wall clock was read")


def message(kind: str, time_ms: int = START_MS, **fields: Any) -> bytes:
    """Return the bytes of an input."""
    common = {"type": kind, "event_id": "e", "event_time_ms": time_ms, "margin_currency": "USDT"}
    return json.dumps({**common, **fields}).encode()


def instrument(time_ms: int = START_MS, **changes: Any) -> bytes:
    """Define BTCUSDT, or one like it."""
    return message("instrument_defined", time_ms, **{**BTCUSDT, **changes})


def deposit(
    name: str = "d1", time_ms: int = START_MS, amount: str = "100000", **changes: Any
) -> bytes:
    """Pay into the fund."""
    fields = {"transfer_id": name, "amount": amount, "memo": "m", **changes}
    return message("fund_deposit", time_ms, **fields)


def takeover(name: str = "liq-7", time_ms: int = START_MS, **changes: Any) -> bytes:
    """Take over a long of 100 contracts; the fund sends an order for it at once."""
    fields = {
        "liquidation_id": name,
        "account_id": "acc",
        "instrument_id": "BTCUSDT",
        "position_side": "long",
        "quantity": "100",
        "entry_price": "50000",
        "margin": "5000",
        **changes,
    }
    return message("position_taken_over", time_ms, **fields)


def fill(
    name: str, quantity: str = "1", order: str = "liq-7:1", time_ms: int = START_MS, **changes: Any
) -> bytes:
    """Fill a part of an order a little worse than at the bankruptcy price."""
    fields = {
        "fill_id": name,
        "liquidation_id": order.partition(":")[0],
        "order_id": order,
        "instrument_id": "BTCUSDT",
        "side": "sell",
        "price": "45000",
        "quantity": quantity,
        "fee": "0",
        **changes,
    }
    return message("fill", time_ms, **fields)


def fills(first: int, count: int, **changes: Any) -> list[bytes]:
    """Return fills of one contract each."""
    return [fill(f"f{number}", **changes) for number in range(first, first + count)]


def submitted(
    order: str, quantity: str, expires_at_ms: int, time_ms: int = START_MS, **changes: Any
) -> bytes:
    """Say that the exchange sent an order of its own."""
    fields = {
        "liquidation_id": "liq-7",
        "order_id": order,
        "price": "45000",
        "quantity": quantity,
        "expires_at_ms": expires_at_ms,
        **changes,
    }
    return message("liquidation_order_submitted", time_ms, **fields)


def report(order: str, reason: str, filled: str, time_ms: int = START_MS, **changes: Any) -> bytes:
    """Say how an order ended."""
    fields = {
        "liquidation_id": order.partition(":")[0],
        "order_id": order,
        "reason": reason,
        "filled_quantity": filled,
        **changes,
    }
    return message("liquidation_order_closed", time_ms, **fields)


def story(entries: list[Entry]) -> list[str]:
    """Return what caused each entry: `topic:partition:offset`, a deadline's name, or the kind."""
    told = []
    for entry in entries:
        cause = entry.cause
        if isinstance(cause, InputCause):
            told.append(f"{cause.topic}:{cause.partition}:{cause.offset}")
        elif isinstance(cause, ClockCause):
            told.append(cause.deadline)
        else:
            told.append(str(type(cause).__struct_config__.tag))
    return told


def kinds(entry: Entry) -> list[str]:
    """Return the types of an entry's effects, in order."""
    return [str(type(effect).__struct_config__.tag) for effect in entry.effects]


def clock_causes(entries: list[Entry]) -> list[ClockCause]:
    """Return the deadlines that were taken."""
    return [entry.cause for entry in entries if isinstance(entry.cause, ClockCause)]


def in_turn(*steps: Callable[[Processor], Any] | None) -> Callable[[Processor], None]:
    """Return what does the next of these things at each commit, then nothing."""
    left = iter(steps)

    def step(processor: Processor) -> None:
        if (act := next(left, None)) is not None:
            act(processor)

    return step


def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run something of the log to its end without giving any other task a turn."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


class Site:
    """A log file, and processors on it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self._opened: list[SqliteLog] = []
        self.log = self.open()

    def open(self) -> SqliteLog:
        """Return a new connection; records get the same timestamp in every run."""
        log = SqliteLog.open(self.path, create=True, clock_ms=lambda: START_MS)
        # Nobody pulls the plug here, and most of the time would go into waiting for the disk.
        log._connection.execute("PRAGMA synchronous = OFF")
        self._opened.append(log)
        return log

    def copy(self, clock: Clock | None = None) -> Site:
        """Return a site on a copy of the file as it is now."""
        path = self.path.with_name(f"{len(list(self.path.parent.iterdir()))}.db")
        with closing(sqlite3.connect(self.path)) as old, closing(sqlite3.connect(path)) as new:
            old.backup(new)
        site = Site(path, clock or self.clock)
        site._opened = self._opened
        self._opened.append(site.log)
        return site

    async def close(self) -> None:
        """Close every connection."""
        for log in self._opened:
            await log.close()

    async def publish(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """Append records in one transaction."""
        await self.log.publish(topic, [NewRecord(partition, None, value) for value in values])

    def publish_now(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """Append records at this very moment of a run, from what is called by it."""
        at_once(self.publish(topic, *values, partition=partition))

    async def open_fund(self, *takeovers: bytes, time_ms: int = START_MS) -> None:
        """Publish an instrument, a deposit and takeovers."""
        await self.publish(topics.INSTRUMENTS, instrument(time_ms))
        await self.publish(topics.FUND_TRANSFERS, deposit(time_ms=time_ms))
        if takeovers:
            await self.publish(topics.LIQUIDATIONS, *takeovers)

    async def start(
        self,
        shard: Shard = MAIN,
        *,
        on_commit: Callable[[Processor], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        policy: dict[str, Any] | None = None,
        log: SqliteLog | None = None,
        snapshots: LogPublisher | None = None,
        **options: Any,
    ) -> Processor:
        """Return a started processor that ends when idle."""
        if policy is not None:
            options["policy"] = parse_policy(policy)
        settings = Options(**{"until_idle": True, **options})
        log = log or self.open()
        processor = Processor(
            log, shard, settings, self.clock, on_commit, snapshots=snapshots or log
        )
        async with asyncio.timeout(HANG_S):
            await processor.start(progress)
        return processor

    async def settle(self, shard: Shard = MAIN, **options: Any) -> Processor:
        """Run a processor from its start until it ends."""
        processor = await self.start(shard, **options)
        async with asyncio.timeout(HANG_S):
            await processor.run()
        return processor

    @asynccontextmanager
    async def running(self, shard: Shard = MAIN, **options: Any) -> AsyncIterator[Processor]:
        """Run a processor beside the test; leaving stops it."""
        processor = await self.start(shard, until_idle=False, **options)
        run = asyncio.create_task(processor.run())
        try:
            yield processor
        finally:
            processor.stop()
            async with asyncio.timeout(HANG_S):
                await run

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return as soon as something has come about."""
        async with asyncio.timeout(HANG_S):
            while not reached():
                await self.log.wait(LOOK_S)

    async def records(self, where: TopicPartition) -> list[Record]:
        """Return the records that stand in a partition."""
        found, _ = await records_to_end(self.log, where, await self.log.first_offset(where))
        return found

    async def lines(self, ledger: int = 0) -> list[bytes]:
        """Return the exact lines of a ledger."""
        found = await self.records(TopicPartition(topics.FUND_LEDGER, ledger))
        return [record.value or b"" for record in found]

    async def entries(self, ledger: int = 0) -> list[Entry]:
        """Return the entries of a ledger."""
        return [decode_entry(line) for line in await self.lines(ledger)]

    async def story(self, ledger: int = 0) -> list[str]:
        """Return what caused each entry of a ledger."""
        return story(await self.entries(ledger))

    async def messages(self, topic: str) -> list[dict[str, Any]]:
        """Return the messages of an output topic."""
        return [
            json.loads(record.value or b"")
            for partition in await self.log.partitions(topic)
            for record in await self.records(TopicPartition(topic, partition))
        ]

    def connect(self) -> sqlite3.Connection:
        """Open the file as another program would."""
        return sqlite3.connect(self.path, isolation_level=None)

    def table(self, where: TopicPartition) -> str:
        """Return the name of the table of a partition."""
        sql = "SELECT id FROM partitions WHERE topic = ? AND partition = ?"
        with closing(self.connect()) as connection:
            return f"records_{connection.execute(sql, where).fetchone()[0]}"

    def sql_on(self, where: TopicPartition, statement: str, *parameters: object) -> list[Any]:
        """Do something to a partition's table, which the statement calls `records`."""
        statement = statement.replace("records", self.table(where))
        with closing(self.connect()) as connection:
            return connection.execute(statement, parameters).fetchall()

    def delete(self, where: TopicPartition, condition: str) -> None:
        """Take records out of a partition, as retention and compaction do."""
        self.sql_on(where, f"DELETE FROM records WHERE {condition}")  # noqa: S608 - of the test
