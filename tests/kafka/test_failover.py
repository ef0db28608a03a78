"""Brokers die, stand still and are restarted under a working service.

It goes on by itself, or ends and says why; each input is in the ledger exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from insurance_fund.events import topics
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.service import Load, Site, Where, assert_one_whole_story, makes_entry, opened
from tests.kafka.cluster import Cluster
from tests.kafka.hosts import Host
from tests.kafka.patient import PatientLog, close_forgotten_connections
from tests.kafka.rounds import rounds
from tests.kafka.site import assert_nothing_hangs_in
from tests.kafka.topics import make_topics

_log = logging.getLogger(__name__)

SHARD: Final = "main"
POLL_S: Final = 0.05
# How long the service may stand still once a fault has passed.
RECOVERY_S: Final = 30.0
TEST_S: Final = 900.0
# A commit's deadline, what ends it, and a slow machine.
DEADLINE_S: Final = 15.0 + 15.0
# Six starts that fail at their deadlines, and the pauses between.
GIVEN_UP_S: Final = 150.0


class TroubledSite(Site):
    """A site whose brokers fail: what was published may stand there more than once."""

    def __init__(self, folder: Path, url: KafkaUrl, chance: random.Random) -> None:
        self.patient, self.publisher = PatientLog(url), PatientLog(url)
        named = f"kafka://{','.join(url.brokers)}/{url.prefix}"
        settings = {"KAFKA_SESSION_MS": "6000"}
        super().__init__(folder, named, self.patient, Load(self.publisher, chance), settings)
        self.url = url
        self.hosts: list[Host] = []
        self.newest_s = time.monotonic()
        self.standstills_s: list[float] = []
        self._stopping = False

    @property
    def written(self) -> int:
        """How many entries a reader has seen."""
        return len(self.seen[0].lines)

    async def inputs(self) -> dict[Where, bytes]:
        """Return what stands in the inputs and must make entries: all that was acknowledged."""
        found: dict[Where, bytes] = {}
        for topic in topics.INPUT_TOPICS:
            where = TopicPartition(topic, 0)
            records = await self.records(where)
            there = Counter(one.value for one in records)
            lost = Counter[bytes | None](self.load.said[where]) - there
            assert not lost, f"{where} has lost what was acknowledged: {list(lost)[:3]}"
            tried = Counter({v: n for (at, v), n in self.publisher.tried.items() if at == where})
            assert not there - tried, f"{where} has more than was ever sent"
            found |= {
                (topic, 0, one.offset): one.value or b""
                for one in records
                if makes_entry(topic, one.value or b"")
            }
        return found

    def begin(self) -> None:
        """Begin to publish and to read."""
        self._publishing = asyncio.create_task(self._publish_on())
        self._reading = asyncio.create_task(self._read_on())

    async def stop(self) -> None:
        """Stop publishing and reading."""
        tasks = [self._publishing, self._reading]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _publish_on(self) -> None:
        """Append inputs until the load is to end."""
        while not self._stopping:
            await self.load.go_on()
            await asyncio.sleep(POLL_S)

    async def _read_on(self) -> None:
        """Read the ledger all the while, and take the time of each standstill."""
        while not self._stopping:
            before = self.written
            await self.entries()
            if self.written > before:
                self.standstills_s.append(time.monotonic() - self.newest_s)
                self.newest_s = time.monotonic()
            await asyncio.sleep(POLL_S)

    async def start_host(self, *arguments: str) -> Host:
        """Start the service."""
        self.hosts.append(Host(await self.start(*arguments), f"host {len(self.hosts)}"))
        return self.hosts[-1]

    async def until(self, condition: Callable[[], object], what: str, wait_s: float) -> float:
        """Wait until something is so; return how long it took."""
        began_s = time.monotonic()
        while not condition():
            waited_s = time.monotonic() - began_s
            for task in (self._publishing, self._reading):
                assert not task.done() or task.exception() is None, task
            assert waited_s < wait_s, f"not within {wait_s} s: {what}\n{self.hosts[-1].said}"
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s

    async def see_it_write(self) -> float:
        """See that the service writes, or has ended with a reason and writes when started again.

        Returns how long it took.
        """
        begun, host = self.written, self.hosts[-1]
        took_s = await self.until(
            lambda: self.written > begun or host.ended, "an entry, or an end", RECOVERY_S
        )
        if host.ended:
            assert host.process.returncode in {1, 2, 75}, host.said
            assert host.lines[-1].startswith(("error: ", "halted: ", "fenced: ")), host.said
            await self.start_host()
            took_s += await self.until(lambda: self.written > begun, "an entry", RECOVERY_S)
        return took_s

    async def assert_whole(self) -> None:
        """Stop load and service, and hold the log to what it must be."""
        self._stopping = True
        # A log is read by one at a time.
        await asyncio.gather(self._publishing, self._reading)
        last = self.hosts[-1]
        last.send(signal.SIGTERM)
        await self.until(lambda: last.ended, "the service ends", RECOVERY_S)
        assert last.process.returncode == 0, last.said
        await assert_one_whole_story(self, (SHARD,))
        await assert_nothing_hangs_in(self.url, self.patient)


@asynccontextmanager
async def open_troubled(
    folder: Path, trio: Cluster, prefix: str, chance: random.Random
) -> AsyncIterator[TroubledSite]:
    """Make the topics of a site, and put it under load; whatever runs at the end is killed."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - nobody waits for it
    url = await make_topics(trio.bootstrap, prefix, [SHARD], replication=3)
    site = TroubledSite(folder, url, chance)
    try:
        async with opened(site, TEST_S):
            site.begin()
            try:
                yield site
            finally:
                await site.stop()
    finally:
        await site.patient.close()
        await site.publisher.close()
        close_forgotten_connections()


class Faults:
    """What befalls a cluster."""

    def __init__(self, trio: Cluster, site: TroubledSite, chance: random.Random) -> None:
        self._trio = trio
        self._site = site
        self._chance = chance

    async def _leader(self) -> int:
        return await self._trio.leader_of(self._site.url.name(topics.FUND_LEDGER))

    async def _coordinator(self) -> int:
        return await self._trio.coordinator_of(self._site.url.name(f"insurance-fund.{SHARD}"))

    async def _kill(self, node: int) -> None:
        self._trio.kill(node)
        # Sometimes it is back before the others have noticed.
        await asyncio.sleep(self._chance.uniform(0, 8))
        self._trio.restart(node)

    async def _pause(self, node: int) -> None:
        self._trio.pause(node)
        await asyncio.sleep(self._chance.uniform(5, 15))
        self._trio.resume(node)

    async def leader_killed(self) -> None:
        """Kill the broker that leads the ledger, and start it again."""
        await self._kill(await self._leader())

    async def coordinator_killed(self) -> None:
        """Kill the broker that coordinates the transactions, and start it again."""
        await self._kill(await self._coordinator())

    async def any_broker_killed(self) -> None:
        """Kill a broker, and start it again."""
        await self._kill(self._chance.randrange(3))

    async def leader_paused(self) -> None:
        """Let the broker that leads the ledger stand still."""
        await self._pause(await self._leader())

    async def coordinator_paused(self) -> None:
        """Let the broker that coordinates the transactions stand still."""
        await self._pause(await self._coordinator())

    async def restarted_one_by_one(self) -> None:
        """Restart every broker in an orderly way."""
        for node in range(3):
            await self._trio.terminate(node)
            self._trio.restart(node)
            await self._trio.wait_ready()


FAULTS: Final = (
    Faults.leader_killed,
    Faults.coordinator_killed,
    Faults.any_broker_killed,
    Faults.leader_paused,
    Faults.coordinator_paused,
    Faults.restarted_one_by_one,
)


@pytest.mark.parametrize("seed", range(rounds(1, 5)))
async def test_service_outlives_brokers_that_die_stand_still_or_are_restarted(
    trio: Cluster, prefix: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(f"faults {seed}")  # noqa: S311 - moments, no secrets
    async with open_troubled(tmp_path, trio, prefix, chance) as site:
        await site.start_host()
        await site.see_it_write()
        for fault in chance.sample(FAULTS, len(FAULTS)):
            site.standstills_s.clear()
            await fault(Faults(trio, site, chance))
            took_s = await site.see_it_write()
            await trio.wait_ready()
            _log.warning(
                "%s: longest standstill %.1f s, entry %.1f s after the end, host %d",
                fault.__name__,
                max(site.standstills_s, default=0),
                took_s,
                len(site.hosts),
            )
        await site.assert_whole()


@pytest.mark.parametrize("long", [False, True][: rounds(1, 2)])
async def test_service_without_a_quorum_ends_and_says_why_and_nothing_is_lost(
    trio: Cluster, prefix: str, tmp_path: Path, long: bool
) -> None:
    chance = random.Random("quorum")  # noqa: S311 - moments, no secrets
    async with (
        open_troubled(tmp_path / "alone", trio, f"{prefix}a", chance) as alone,
        open_troubled(tmp_path / "hosted", trio, f"{prefix}h", chance) as hosted,
    ):
        await alone.start_host("--shard", SHARD)
        await hosted.start_host()
        for site in (alone, hosted):
            await site.see_it_write()
        leader = await trio.leader_of(alone.url.name(topics.FUND_LEDGER))
        for node in range(3):
            if node != leader:
                trio.kill(node)
        for site, wait_s in [(alone, DEADLINE_S), (hosted, GIVEN_UP_S)][: 1 + long]:
            (host,) = site.hosts
            took_s = await site.until(partial(getattr, host, "ended"), "an end", wait_s)
            assert host.process.returncode in {1, 2}, host.said
            assert re.search("no answer for|fewer replicas|no broker", host.said), host.said
            assert len(host.lines) < 50 * took_s, "the log is flooded"
            _log.warning("%s ended after %.1f s: %s", site.url.prefix, took_s, host.lines[-1])
        await trio.restore()
        await alone.start_host()
        for site in (alone, hosted):
            await site.see_it_write()
            await site.assert_whole()
