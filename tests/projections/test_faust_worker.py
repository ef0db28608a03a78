"""A Faust worker on a real broker: what it reads, where it begins, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust

from insurance_fund.projections.database import open_database
from insurance_fund.projections.faust_app import LedgerApp
from insurance_fund.projections.faust_ledgers import BEHIND_MAX, Ledgers
from insurance_fund.projections.projector import Position, Projector
from insurance_fund.projections.subscribers import ReadModels
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import Record
from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics
from tests.projections.faust_site import (
    DATABASE,
    Site,
    busy_ledger,
    forged,
    open_site,
    open_writer,
    until,
)
from tests.projections.ledgers import random_ledger, records_of


class Seen:
    """Keeps the values that it is given."""

    ledger = "main"

    def __init__(self, next_offset: int = 0) -> None:
        self.values: list[bytes | None] = []
        self._position = Position(next_offset=next_offset)

    async def position(self) -> Position:
        return self._position

    async def take(self, records: Sequence[Record], halted: asyncio.Event) -> None:
        assert not halted.is_set()
        self.values += [record.value for record in records]


def _raise(error: Exception) -> None:
    raise error


@asynccontextmanager
async def running(app: faust.App) -> AsyncIterator[None]:
    """Run an app in this process."""
    app.finalize()
    try:
        await app.start()
        yield
    finally:
        await app.stop()


async def test_worker_reads_what_is_committed_where_stock_faust_reads_all(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    site, seen, stock = Site(tmp_path, url), Seen(), []
    app = LedgerApp("patched", Ledgers(KafkaAccess(url), [seen], _raise), session_s=6)
    plain = faust.App(
        f"{prefix}.stock",
        broker=f"kafka://{broker.bootstrap}",
        datadir=str(tmp_path / "stock"),
        store="memory://",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
    )

    @plain.agent(plain.topic(site.topic, value_serializer="raw", internal=False), concurrency=1)
    async def _take(stream: Any) -> None:
        async for value in stream:
            stock.append(value)

    async with open_writer(site) as writer, open_writer(site, "other") as other:
        for number in range(3):
            await writer.commit([b"committed %d.%d" % (number, n) for n in range(3)])
            await writer.abort([b"aborted %d.%d" % (number, n) for n in range(3)])
        await other.begin([b"open"])
        async with running(app), running(plain):
            await until(lambda: len(stock) == 19 and len(seen.values) == 9)
            # It is not read either when there is more behind it.
            await writer.commit([b"behind"])
            await until(lambda: len(stock) == 20)
            assert len(seen.values) == 9
            await other.give_up()
            await until(lambda: len(seen.values) == 10)
    committed = [b"committed %d.%d" % (number, n) for number in range(3) for n in range(3)]
    assert seen.values == [*committed, b"behind"]


async def test_worker_begins_at_the_stored_position(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    site = Site(tmp_path, url)
    async with open_writer(site) as writer:
        await writer.commit([b"%d" % number for number in range(9)])
        seen = Seen(next_offset=5)
        app = LedgerApp("seeking", Ledgers(KafkaAccess(url), [seen], _raise), session_s=6)
        async with running(app):
            await writer.commit([b"9"])
            await until(lambda: b"9" in seen.values)
    assert seen.values == [b"5", b"6", b"7", b"8", b"9"]


async def test_worker_catches_up_then_follows_and_a_later_one_goes_on_where_it_left(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    lines = busy_ledger(240)
    behind = BEHIND_MAX + 50
    assert len(lines) > behind + 100
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        for first in range(0, behind, 100):
            await writer.commit(lines[first : min(first + 100, behind)])
        worker = await site.serve()
        # Before it takes anything from Faust it is there.
        assert (await site.positions())["main"].sequence == behind - 1
        assert f"ledger main is {behind + 11} behind: catching up" in worker.told
        for line in lines[behind : behind + 50]:
            await writer.commit([line])
        await site.until(behind + 49)
        assert await worker.end(signal.SIGTERM) == 0, worker.told
        await writer.commit(lines[behind + 50 : behind + 100])
        worker = await site.serve()
        await site.until(behind + 99)
        assert "catching up" not in worker.told
        await site.assert_rows_equal_a_rebuild()


async def test_broken_chain_ends_the_worker_with_the_sequence_and_nothing_of_it_is_written(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    lines = busy_ledger(20)
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        worker = await site.serve()
        await writer.commit(lines[:20])
        await site.until(19)
        await writer.commit([forged(lines[20]), *lines[21:30]])
        assert await worker.ended() == 1
        told = [line for line in worker.lines if line.startswith("halted: ")]
        assert len(told) == 1, worker.told
        assert "the chain is broken at entry 21" in told[0]
        assert (await site.positions())["main"].sequence == 19
        # A restart says it again.
        worker = await site.start()
        assert await worker.ended() == 1
        assert "the chain is broken at entry 21" in worker.told


async def test_missing_entry_ends_the_worker_with_its_sequence(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    lines = busy_ledger(20)
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        worker = await site.serve()
        await writer.commit([*lines[:7], *lines[8:12]])
        assert await worker.ended() == 1
        assert "halted: ledger main: entry 7 is missing, 8 follows 6" in worker.told


async def test_what_faust_drops_or_repeats_is_read_from_the_log(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    lines = busy_ledger(20)
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    site = Site(tmp_path, url)
    database = open_database(f"sqlite:{tmp_path / DATABASE}")
    ledgers = Ledgers(site.access, [ReadModels(Projector(database, "main"))], _raise)
    async with open_writer(site) as writer:
        await writer.commit(lines[:40])
        records = await site.records()
        await ledgers.carry([0])
        await ledgers.take(0, records[:10])
        await ledgers.take(0, records[5:8])
        assert (await site.positions())["main"].sequence == 9
        await ledgers.take(0, records[15:20])
        assert (await site.positions())["main"].sequence == 39
        # What comes late, of a ledger that is another's or amid a rebalance, is left alone.
        await writer.commit(lines[40:50])
        await ledgers.take(1, records[:10])
        await ledgers.halt()
        await ledgers.take(0, (await site.records())[40:])
        assert (await site.positions())["main"].sequence == 39
        await ledgers.carry([0])
        await ledgers.take(0, (await site.records())[40:])
    assert (await site.positions())["main"].sequence == 49
    await site.assert_rows_equal_a_rebuild()
    database.close()


async def test_ledger_that_ends_in_front_of_what_was_read_is_refused(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    lines = busy_ledger(20)
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        database = open_database(f"sqlite:{tmp_path / DATABASE}")
        Projector(database, "main").apply(records_of(lines[:30]))
        database.close()
        await writer.commit(lines[:10])
        worker = await site.start()
        assert await worker.ended() == 2
        assert "ends at offset 11, in front of 30" in worker.told


async def test_another_ledger_of_the_same_name_is_refused(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        database = open_database(f"sqlite:{tmp_path / DATABASE}")
        Projector(database, "main").apply(records_of(random_ledger(4)[:30]))
        database.close()
        await writer.commit(random_ledger(3)[:40])
        worker = await site.start()
        assert await worker.ended() == 1
        (told,) = [line for line in worker.lines if line.startswith("halted: ")]
        assert "entry 29, the last that was taken, is not in fund-ledger:0 of the log" in told


async def test_what_stands_in_the_way_of_a_worker_is_one_line(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("a", "b"))
    async with open_site(tmp_path, url) as site:
        (tmp_path / "damaged.db").write_bytes(b"no database " * 1000)
        unmade = f"kafka://{broker.bootstrap}/{prefix}.unmade"
        for wrong, told in (
            ({"LOG": "sqlite:log.db"}, "Faust workers read a log on Kafka"),
            ({"LOG": "kafka://127.0.0.1:1"}, "no broker listens there"),
            ({"LOG": unmade}, f"has no topic {prefix}.unmade.fund-ledger"),
            ({}, f"{prefix}.fund-ledger holds 2 ledgers, the settings name 1 shards"),
            ({"DATABASE": "sqlite:damaged.db"}, "`insurance-fund projections rebuild`"),
        ):
            worker = await site.start(**wrong)
            assert await worker.ended() == 2, worker.told
            lines = [line for line in worker.lines if line.startswith("error: ")]
            assert len(lines) == 1, worker.told
            assert told in lines[0]
            assert "Traceback" not in worker.told
