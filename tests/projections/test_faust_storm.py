"""Workers that come, go and die amid a feed with aborted and open transactions."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics
from tests.projections.desk import DROPPED, OK, Answer, Desk, Request, open_desk
from tests.projections.faust_site import (
    READ_MODELS,
    READY,
    WEBHOOKS,
    Site,
    Worker,
    Writer,
    busy_ledger,
    forged,
    open_site,
    open_writer,
)
from tests.projections.test_webhooks import told_by

STORMS: Final = 10
KILLS: Final = 3
STEP_S: Final = 0.08
SHARDS: Final = ("main", "second")
BEFORE: Final = 40
APPS: Final = (READ_MODELS, WEBHOOKS)
HANG_S: Final = 300


class Feed:
    """Two ledgers, written in small transactions, with others between them that come to nothing."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self.lines = [busy_ledger(1_200, name) for name in SHARDS]
        self.written = [0, 0]
        self._site = site
        self._chance = chance
        self.open = 0
        self.aborted = 0

    async def run(self, writer: Writer, other: Writer, ended: asyncio.Event) -> None:
        """Write until `ended`, at an even pace; the last transaction stays open."""
        while not ended.is_set():
            await self.step(writer, other)
            await asyncio.sleep(STEP_S)
        for partition in range(len(SHARDS)):
            await self.commit(writer, partition, 5)
        await other.begin([self._forged(0)])

    async def step(self, writer: Writer, other: Writer) -> None:
        """Write something to one of the ledgers."""
        partition, what = self._chance.randrange(2), self._chance.random()
        if what < 0.2:
            await writer.abort([self._forged(partition), b"garbage"], partition)
            self.aborted += 1
        elif what < 0.25:
            # Entries stand behind one that is open, and cannot be read until it ends.
            await other.begin([self._forged(partition)], partition)
            for _ in range(3):
                await self.commit(writer, partition, self._chance.randint(1, 3))
                await asyncio.sleep(STEP_S)
            await other.give_up()
            self.open += 1
        else:
            await self.commit(writer, partition, self._chance.randint(1, 4))

    async def commit(self, writer: Writer, partition: int, count: int) -> None:
        """Write so many entries."""
        begin = self.written[partition]
        lines = self.lines[partition][begin : begin + count]
        assert lines, "the ledger is too short for this storm"
        await writer.commit(lines, partition)
        self.written[partition] += len(lines)

    def _forged(self, partition: int) -> bytes:
        return forged(self.lines[partition][self.written[partition]])


class Storm:
    """Two workers of each kind, of which one comes and goes, and sometimes the other one dies."""

    def __init__(self, site: Site, feed: Feed) -> None:
        self._site = site
        self._feed = feed
        # When a worker of webhooks was killed.
        self.killed_s: list[float] = []
        self.steady: dict[str, Worker] = {}

    async def begin(self) -> None:
        """Let one worker of each kind stand."""
        self.steady = dict(zip(APPS, await self._serve_all(), strict=True))

    async def storm(self, how: signal.Signals) -> None:
        """Let a second worker of each kind join, do something, and leave."""
        joined = await self._serve_all()
        await self._progress(3)
        await asyncio.gather(*(self._end(worker, how) for worker in joined))

    async def kill(self) -> None:
        """Kill the steady workers and start others in their place."""
        joined = await self._serve_all()
        await asyncio.gather(*(self._end(one, signal.SIGKILL) for one in self.steady.values()))
        self.steady = dict(zip(APPS, joined, strict=True))
        await self._progress(3)

    async def restart_broker(self, broker: Cluster) -> None:
        """Kill the broker and bring it back."""
        broker.kill(0)
        broker.restart(0)
        await broker.wait_ready()
        await self._progress(20)

    async def settle(self) -> None:
        """Wait until everything that is committed has been taken."""
        for name in ("read_models", "webhook:desk"):
            for ledger, written in zip(SHARDS, self._feed.written, strict=True):
                await self._site.until(written - 1, ledger, name)

    async def _progress(self, entries: int) -> None:
        """Wait until the read models of every ledger have come on by so much."""
        now = list(self._feed.written)
        for ledger, written in zip(SHARDS, now, strict=True):
            await self._site.until(written - 1 + entries, ledger)

    async def _serve_all(self) -> list[Worker]:
        workers = [await self._site.start(app) for app in APPS]
        await asyncio.gather(*(worker.said(READY) for worker in workers))
        return workers

    async def _end(self, worker: Worker, how: signal.Signals) -> None:
        if how is signal.SIGKILL and worker.app == WEBHOOKS:
            self.killed_s.append(time.monotonic())
        code = await worker.end(how)
        assert code == (-signal.SIGKILL if how is signal.SIGKILL else 0), worker.told


async def test_rows_equal_a_rebuild_and_no_webhook_is_lost_or_repeated_after_a_storm(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    chance = random.Random(6)  # noqa: S311 - a chance that comes again
    url = await make_topics(broker.bootstrap, prefix, SHARDS)
    async with (
        asyncio.timeout(HANG_S),
        open_desk(_moody(chance)) as desk,
        open_site(tmp_path, url, SHARDS) as site,
        open_writer(site) as writer,
        open_writer(site, "other") as other,
    ):
        site.set_webhooks({"desk": desk.url})
        feed = Feed(site, chance)
        storm = Storm(site, feed)
        for partition in range(len(SHARDS)):
            await feed.commit(writer, partition, BEFORE)
        await storm.begin()
        ended = asyncio.Event()
        feeding = asyncio.create_task(feed.run(writer, other, ended))
        try:
            for number in range(STORMS):
                await storm.storm((signal.SIGTERM, signal.SIGKILL)[number % 2])
                if number % 3 == 2:
                    await storm.kill()
                if number == STORMS // 2:
                    await storm.restart_broker(broker)
        finally:
            ended.set()
            await feeding
        await storm.settle()
        await site.assert_rows_equal_a_rebuild()
        await other.give_up()
    assert len(storm.killed_s) == STORMS // 2 + KILLS
    assert feed.aborted > 20
    assert feed.open > 5
    for status in (OK, DROPPED, 500):
        assert desk.statuses[status], f"the target never answered {status}"
    for lines, written in zip(feed.lines, feed.written, strict=True):
        _assert_told_once(desk, told_by(lines[BEFORE:written]), storm.killed_s)


def _moody(chance: random.Random) -> Callable[[Request], Answer]:
    slow = iter([11.0])

    def answer(request: Request) -> Answer:
        mood = chance.random()
        if mood < 0.1:
            return 500, 0
        if mood < 0.2:
            return DROPPED, 0
        if mood < 0.25:
            # Longer than anybody waits, once; else a little.
            return OK, next(slow, 0.3)
        return OK, 0

    return answer


def _assert_told_once(desk: Desk, expected: Sequence[str], killed_s: Sequence[float]) -> None:
    """Hold a ledger's messages to having been taken in order, and each repeat to a kill."""
    times: dict[str, list[float]] = defaultdict(list)
    known = set(expected)
    for one in desk.taken:
        if one.key in known and one.taken_s is not None:
            times[one.key].append(one.taken_s)
    assert list(times) == list(expected)
    came = defaultdict(list)
    for one in desk.requests:
        came[one.key].append(one.came_s)
    kills = list(killed_s)
    for key, taken in times.items():
        for again in [at for at in came[key] if at > taken[0]]:
            kill = next((at for at in kills if taken[0] - 0.05 < at < again), None)
            assert kill is not None, f"{key} was sent again without a kill between"
            kills.remove(kill)
