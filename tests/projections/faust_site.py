"""Faust workers as processes on a broker, and a ledger written as the fund writes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from sqlalchemy import select

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.ledger import GENESIS, decode_entry, encode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import Written
from insurance_fund.projections import tables
from insurance_fund.projections.compare import differences
from insurance_fund.projections.database import open_database
from insurance_fund.projections.projector import Position, Projector
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import Record, TopicPartition
from insurance_fund.streams.urls import KafkaUrl
from tests.unit.life import Life

FAUST: Final = Path(sys.executable).with_name("faust")
READ_MODELS: Final = "app"
WEBHOOKS: Final = "webhooks_app"
READY: Final = "Worker ready"
DATABASE: Final = "views.db"
HANG_S: Final = 60
# A killed worker is missed after this.
SESSION_MS: Final = 3_000


class Worker:
    """A Faust worker; what it says is kept."""

    def __init__(self, process: Process, app: str) -> None:
        self.process = process
        self.app = app
        self.lines: list[str] = []
        self._came = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def said(self, text: str, times: int = 1) -> None:
        """Wait until it has said something so often."""
        async with asyncio.timeout(HANG_S), self._came:
            while sum(text in line for line in self.lines) < times:
                assert not self._reading.done(), f"it ended: {self.told}"
                await self._came.wait()

    async def ended(self) -> int:
        """Wait for its end; return the exit code."""
        async with asyncio.timeout(HANG_S):
            await self._reading
            return await self.process.wait()

    async def end(self, how: signal.Signals) -> int:
        """Send it a signal that ends it; return the exit code."""
        assert self.process.returncode is None, f"it ended before: {self.told}"
        self.process.send_signal(how)
        return await self.ended()

    @property
    def told(self) -> str:
        """All that it has said."""
        return "\n".join(self.lines)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._came:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._came.notify_all()
        async with self._came:
            self._came.notify_all()


class Site:
    """The workers of a log under a prefix, and a database of theirs in a file."""

    def __init__(self, folder: Path, url: KafkaUrl, shards: Sequence[str] = ("main",)) -> None:
        self.folder = folder
        self.url = url
        self.shards = shards
        self.access = KafkaAccess(url)
        self.topic = url.name(topics.FUND_LEDGER)
        self.workers: list[Worker] = []
        self.environment = {
            "LOG": f"kafka://{','.join(url.brokers)}/{url.prefix}",
            "DATABASE": f"sqlite:{DATABASE}",
            "KAFKA_SESSION_MS": str(SESSION_MS),
        }
        self.set_webhooks({})

    def set_webhooks(self, targets: Mapping[str, str], **more: str) -> None:
        """Write the settings file: the targets' URLs by name, and what else each has."""
        text = "[shards]\n" + "".join(f'{name} = ["{name}"]\n' for name in self.shards)
        for name, url in targets.items():
            text += f"[webhooks.{name}]\nurl = {json.dumps(url)}\n"
            text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
        (self.folder / "insurance-fund.toml").write_text(text, encoding="utf-8")

    async def start(self, app: str = READ_MODELS, **settings: str) -> Worker:
        """Start a worker, without waiting for it."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
        given = {f"INSURANCE_FUND_{k}": v for k, v in {**self.environment, **settings}.items()}
        process = await asyncio.create_subprocess_exec(
            *(str(FAUST), "-A", f"insurance_fund.projections.{app}", "worker", "-l", "info"),
            cwd=self.folder,
            env={**inherited, **given},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        )
        self.workers.append(Worker(process, app))
        return self.workers[-1]

    async def serve(self, app: str = READ_MODELS, **settings: str) -> Worker:
        """Start a worker, and come back once it follows what it was assigned."""
        worker = await self.start(app, **settings)
        await worker.said(READY)
        return worker

    async def positions(self, name: str = "read_models") -> dict[str, Position]:
        """Return how far something has come in each ledger."""
        return await asyncio.to_thread(self._positions, name)

    def _positions(self, name: str) -> dict[str, Position]:
        database = open_database(f"sqlite:{self.folder / DATABASE}")
        columns = [tables.positions.c[column] for column in ("ledger", *Position._fields)]
        try:
            with database.connect() as connection:
                found = connection.execute(
                    select(*columns).where(tables.positions.c.name == name)
                ).all()
            return {row[0]: Position(*row[1:]) for row in found}
        finally:
            database.close()

    async def until(self, sequence: int, ledger: str = "main", name: str = "read_models") -> None:
        """Wait until something has come to a sequence; workers that end meanwhile are told."""
        async with asyncio.timeout(HANG_S):
            while True:
                found = (await self.positions(name)).get(ledger, Position())
                if found.sequence >= sequence:
                    return
                await asyncio.sleep(0.05)

    async def records(self, partition: int = 0) -> list[Record]:
        """Return what is committed of a ledger."""
        log = KafkaReader(self.access)
        where = TopicPartition(topics.FUND_LEDGER, partition)
        try:
            return [one async for one in partition_records(log, where, 0)]
        finally:
            await log.close()

    async def assert_rows_equal_a_rebuild(self) -> None:
        """Hold the read models to what the ledgers say when they are read from the beginning."""
        live = open_database(f"sqlite:{self.folder / DATABASE}")
        rebuilt = open_database(f"sqlite:{self.folder / 'rebuilt.db'}")
        try:
            for partition, ledger in enumerate(self.shards):
                records = await self.records(partition)
                expected = await asyncio.to_thread(Projector(rebuilt, ledger).apply, records)
                assert (await self.positions())[ledger] == expected
                with live.connect() as left, rebuilt.connect() as right:
                    assert differences(left, right, ledger) == []
        finally:
            live.close()
            rebuilt.close()

    async def close(self) -> None:
        """End what was started; what it said stays in files."""
        for number, worker in enumerate(self.workers):
            with suppress(ProcessLookupError):
                worker.process.kill()
            await worker.ended()
            log = self.folder / f"worker-{number}.log"
            await asyncio.to_thread(log.write_text, worker.told, encoding="utf-8")


@asynccontextmanager
async def open_site(
    folder: Path, url: KafkaUrl, shards: Sequence[str] = ("main",)
) -> AsyncIterator[Site]:
    """Open a site whose topics are there; whatever runs at the end is killed."""
    site = Site(folder, url, shards)
    try:
        yield site
    finally:
        await site.close()


class Writer:
    """Writes to the ledgers' topic in transactions, as the fund does."""

    def __init__(self, site: Site, name: str) -> None:
        self._topic = site.topic
        self._producer = AIOKafkaProducer(
            bootstrap_servers=list(site.url.brokers),
            transactional_id=site.url.name(name),
            transaction_timeout_ms=60_000,
            request_timeout_ms=5_000,
        )

    async def commit(self, lines: Sequence[bytes], partition: int = 0) -> None:
        """Append lines."""
        async with self._producer.transaction():
            await self._send(lines, partition)

    async def abort(self, lines: Sequence[bytes], partition: int = 0) -> None:
        """Append lines that nobody may ever see."""
        await self.begin(lines, partition)
        await self._producer.abort_transaction()

    async def begin(self, lines: Sequence[bytes], partition: int = 0) -> None:
        """Append lines, and leave open whether they are to be seen."""
        await self._producer.begin_transaction()
        await self._send(lines, partition)

    async def give_up(self) -> None:
        """Abort what was left open."""
        await self._producer.abort_transaction()

    async def _send(self, lines: Sequence[bytes], partition: int) -> None:
        sent = [await self._producer.send(self._topic, line, partition=partition) for line in lines]
        await asyncio.gather(*sent)

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Let go."""
        await self._producer.stop()


@asynccontextmanager
async def open_writer(site: Site, name: str = "writer") -> AsyncIterator[Writer]:
    """Open a writer."""
    writer = Writer(site, name)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def forged(line: bytes) -> bytes:
    """Return an entry in the place of another, in its chain, of money that never came."""
    entry = decode_entry(line)
    deposit = fx.FundDeposited(
        margin_currency="USDT", transfer_id="forged", amount="777.77", memo="", content="0" * 64
    )
    return encode_entry(msgspec.structs.replace(entry, effects=[deposit], emitted=[]))


def busy_ledger(liquidations: int, ledger: str = "main") -> list[bytes]:
    """Return a ledger of liquidations that end in auto-deleveraging: five entries for each.

    The third of these triggers it, the fourth says that it is less.
    """
    life = _Quick({"grace_ms": 0}, deposit="1000000")
    for number in range(liquidations):
        name = f"{ledger}-{number}"
        order = f"{name}:1"
        life.take_over(name)
        life.fill("4", name=f"early-{number}", order=order)
        life.report(order, "expired", "4")
        life.fill("1", name=f"late-{number}", order=order)
        life.adl(
            "5",
            name=f"x-{number}",
            liquidation_id=name,
            trigger_id=f"{name}:adl",
            trigger_revision=2,
        )
    return life.lines if ledger == "main" else _renamed(life.lines, ledger)


class _Quick(Life):
    """A life of which nothing is checked."""

    def _keep(self, written: Written) -> Written:
        self.lines.append(written.line)
        self.last = written
        return written


def _renamed(lines: Sequence[bytes], ledger: str) -> list[bytes]:
    found: list[bytes] = []
    head = GENESIS
    for line in lines:
        entry = decode_entry(line.replace(b'"ledger":"main"', b'"ledger":"%s"' % ledger.encode()))
        found.append(encode_entry(msgspec.structs.replace(entry, previous=head)))
        head = sha256_hex(found[-1])
    return found


async def until(condition: Any, hang_s: float = HANG_S) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + hang_s
    while not condition():
        assert time.monotonic() < end_s, "it has not come to that"
        await asyncio.sleep(0.02)
