"""A service on a cluster, under load that comes by transactions too, and read while it is written.

What is true of it in the end is held by the rules of `tests/embedded/service.py`, and by those here
that only a cluster needs.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition

from insurance_fund.events import topics
from insurance_fund.events.ledger import ClockCause, InputCause, PolicyCause, decode_entry
from insurance_fund.fund.policy import load_policy
from insurance_fund.streams.gate import Passage
from insurance_fund.streams.inputs import Shard, Taken
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import LogReader, NewRecord, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.topic_plan import ALL_TOPICS
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.service import (
    Load,
    Site,
    assert_one_whole_story,
    opened,
    said_by,
)
from tests.embedded.shard import ManualClock
from tests.kafka.cluster import Cluster
from tests.kafka.ready import until
from tests.kafka.topics import make_topics

ROOT: Final = Path(__file__).parents[2]
HANG_S: Final = 240
# Longer than a transaction may last.
UNPINNED_S: Final = 30
PARTITIONS: Final = 2
SHARD: Final = "main"


class MixedPublisher:
    """Publishes plainly, in transactions, and behind transactions that are given up."""

    def __init__(self, url: KafkaUrl, chance: random.Random) -> None:
        self._url = url
        self._chance = chance
        self._plain = KafkaLog(KafkaAccess(url))
        self._producer = AIOKafkaProducer(
            bootstrap_servers=list(url.brokers), transactional_id=url.name("load")
        )

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic, in any of the ways."""
        way = self._chance.random()
        if way < 0.1:
            given_up = [one._replace(value=b'{"liquidation_id": "given up"}') for one in records]
            await self._producer.begin_transaction()
            await self._send(topic, given_up)
            await self._producer.abort_transaction()
        if way < 0.3:
            await self._producer.begin_transaction()
            await self._send(topic, records)
            await self._producer.commit_transaction()
        else:
            await self._plain.publish(topic, records)

    async def _send(self, topic: str, records: Sequence[NewRecord]) -> None:
        for one in records:
            await self._producer.send_and_wait(
                self._url.name(topic), one.value, one.key, partition=one.partition
            )

    async def close(self) -> None:
        """Let go of the cluster."""
        await self._producer.stop()
        await self._plain.close()


class LiveReader:
    """Reads the ledger as any consumer would, all the while it is written."""

    def __init__(self, url: KafkaUrl) -> None:
        self.lines: list[bytes] = []
        self._where = KafkaPartition(url.name(topics.FUND_LEDGER), 0)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=list(url.brokers),
            group_id=None,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin at the first entry."""
        await self._consumer.start()
        self._consumer.assign([self._where])
        self._consumer.seek(self._where, 0)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=1_000)).values():
                self.lines += [one.value for one in records]

    async def assert_saw(self, ledger: list[bytes]) -> None:
        """Hold what was seen, once as many entries have come, to the final ledger."""

        async def read_on() -> bool:
            return len(self.lines) >= len(ledger)

        assert self._task is not None
        assert not self._task.done(), self._task
        async with asyncio.timeout(UNPINNED_S):
            await until(read_on)
        assert self.lines == ledger, "a live reader saw what is not, or not so, in the end"

    async def close(self) -> None:
        """End reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._consumer.stop()


class KafkaSite(Site):
    """A site on a cluster, with topics of its own."""

    def __init__(
        self,
        folder: Path,
        url: KafkaUrl,
        log: KafkaLog,
        load: Load,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        named = f"kafka://{','.join(url.brokers)}/{url.prefix}"
        super().__init__(folder, named, log, load, settings)
        self.url = url
        self.live = LiveReader(url)

    async def start_faulty(self, sent: signal.Signals, point: str, passes: int) -> Process:
        """Start the shard in a process that sends itself a signal at a point."""
        fault = (sent.name, point, str(passes))
        command = (sys.executable, "-m", "tests.kafka.killed", *fault, "run", "--shard", SHARD)
        return await self.spawn(*command, PYTHONPATH=str(ROOT))

    async def child_of(self, supervisor: Process, but: int | None = None) -> int:
        """Return the process id of the shard that a supervisor runs, once it has one (another)."""
        found: list[int] = []

        async def is_there() -> bool:
            assert supervisor.returncode is None, await said_by(supervisor)
            found[:] = [child for child in children_of(supervisor.pid) if child != but]
            return bool(found)

        await until(is_there)
        (child,) = found
        return child


async def play_rounds(
    count: int, at_once: int, play: Callable[[int], Coroutine[Any, Any, None]]
) -> None:
    """Play rounds by number, some of them at the same time; a failure names its round."""
    places = asyncio.Semaphore(at_once)

    async def play_one(number: int) -> None:
        async with places:
            try:
                await play(number)
            except Exception as error:
                error.add_note(f"in round {number}")
                raise

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(play_one(number))


def children_of(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:  # it has ended meanwhile
            continue
        # The name in parentheses may hold anything; behind it stand the state and the parent.
        state, ppid = text.rpartition(")")[2].split()[:2]
        if int(ppid) == parent and state != "Z":
            found.append(int(status.parent.name))
    return found


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def open_kafka_site(
    cluster: Cluster,
    prefix: str,
    folder: Path,
    chance: random.Random,
    *,
    mixed: bool = True,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[KafkaSite]:
    """Make the topics of a site and begin its load; whatever runs at the end is killed.

    The load is published in mixed ways, or all of it plainly. `settings` are those of commands.
    """
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - nobody waits for it
    url = await make_topics(cluster.bootstrap, prefix, [SHARD], partitions=PARTITIONS)
    log, publisher = KafkaLog(KafkaAccess(url)), MixedPublisher(url, chance)
    load = Load(publisher if mixed else log, chance, partitions=PARTITIONS)
    site = KafkaSite(folder, url, log, load, settings)
    async with AsyncExitStack() as stack:
        for opened_here in (log, publisher, site.live):
            stack.push_async_callback(opened_here.close)
        await publisher.start()
        await site.live.start()
        await stack.enter_async_context(opened(site, HANG_S))
        yield site


async def assert_whole_story_on_cluster(site: KafkaSite) -> list[bytes]:
    """Hold a site to all that must be true in the end; return the ledger."""
    (ledger,) = await assert_one_whole_story(site, (SHARD,))
    await site.live.assert_saw(ledger)
    await assert_nothing_hangs(site)
    assert await decided_on_file(site, ledger) == ledger
    return ledger


class _Script(Processor):
    """Takes inputs and deadlines in the order, and at the times, of a ledger."""

    async def follow(self, ledger: list[bytes]) -> None:
        for entry in map(decode_entry, ledger):
            cause, taken = entry.cause, list[Taken]()
            if isinstance(cause, InputCause):
                while not taken:
                    where = TopicPartition(cause.topic, cause.partition)
                    taken, read = await self.inputs.read(where, 1)
                    assert read, f"{where} has no more records"
                self._take(taken[0], entry.now_ms)
            elif isinstance(cause, ClockCause):
                passage = Passage(dict(cause.read_to), cause.capped)
                self._take_deadline(cause.due_ms, cause.deadline, entry.now_ms, passage)
            else:
                assert isinstance(cause, PolicyCause), cause
            await self._commit_full()
        await self._commit()


async def decided_on_file(site: KafkaSite, ledger: list[bytes]) -> list[bytes]:
    """Return what a fund on a file writes that is fed the same records in the ledger's order."""
    path = site.folder / "decided.db"
    file = SqliteLog.open(path, create=True)
    try:
        await _copy_inputs(site, file, path)
        first_ms = decode_entry(ledger[0]).now_ms
        options = Options(policy=load_policy(site.folder / "policy.json"))
        script = _Script(file, Shard(SHARD), options, ManualClock(first_ms))
        await script.start()
        await script.follow(ledger)
        batch = await file.read(script.ledger, 0, len(ledger) + 1)
        return [one.value or b"" for one in batch.records]
    finally:
        await file.close()


async def _copy_inputs(site: KafkaSite, file: SqliteLog, path: Path) -> None:
    """Copy the inputs to a file with their times and offsets, which have holes."""
    for topic in topics.INPUT_TOPICS:
        for partition in await site.log.partitions(topic):
            records = await site.records(TopicPartition(topic, partition))
            if not records:
                continue
            copies = [NewRecord(partition, r.key, r.value, (), r.timestamp_ms) for r in records]
            await file.publish(topic, copies)
            with closing(sqlite3.connect(path)) as connection, connection:
                named = (topic, partition)
                ((table,),) = connection.execute(
                    "SELECT id FROM partitions WHERE topic = ? AND partition = ?", named
                )
                moves = [(one.offset, place) for place, one in enumerate(records)]
                connection.executemany(
                    f"UPDATE records_{table} SET offset = ? WHERE offset = ?",  # noqa: S608
                    reversed(moves),
                )
                connection.execute(
                    "UPDATE partitions SET next_offset = ? WHERE id = ?",
                    (records[-1].offset + 1, table),
                )


async def assert_nothing_hangs(site: KafkaSite) -> None:
    """Hold every partition to having no transaction open in it, in a while."""
    await assert_nothing_hangs_in(site.url, site.log)


async def assert_nothing_hangs_in(url: KafkaUrl, log: LogReader) -> None:
    """Hold every partition under a prefix to having no transaction open in it, in a while."""
    consumers = [
        AIOKafkaConsumer(bootstrap_servers=list(url.brokers), isolation_level=level)
        for level in ("read_committed", "read_uncommitted")
    ]
    partitions = [
        KafkaPartition(url.name(topic), partition)
        for topic in ALL_TOPICS
        for partition in await log.partitions(topic)
    ]
    assert len(partitions) >= len(ALL_TOPICS)

    async def stands_still() -> bool:
        stable, ends = [await consumer.end_offsets(partitions) for consumer in consumers]
        return bool(stable == ends)

    async with AsyncExitStack() as stack:
        for consumer in consumers:
            await consumer.start()
            stack.push_async_callback(consumer.stop)
        async with asyncio.timeout(UNPINNED_S):
            await until(stands_still)
