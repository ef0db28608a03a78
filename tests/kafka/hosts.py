"""Hosts: supervisors that share shards out among themselves, and what they say while they do."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from tests.embedded.service import Load, Site, opened
from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics

SHARDS: Final = {"usdt": "USDT", "xbt": "XBT", "usdc": "USDC"}
SESSION_S: Final = 3.0
# How long one condition may take to come, and a whole test; both for a machine under load.
WAIT_S: Final = 40.0
TEST_S: Final = 240.0
POLL_S: Final = 0.05
_RUNNING: Final = re.compile(r"^ledger (\w+): \d+ entr\w+, \w+ clock, running$")


class Host:
    """A process of `run`, and every line that it and its children have said so far."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = name
        self.lines: list[str] = []
        self._out = b""
        self._begun = set[int | None]()
        self._listening = asyncio.gather(self._listen(), self._take_output())

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            begun = _RUNNING.search(self.lines[-1])
            if begun is not None:
                self._begun.add(self.children().get(begun[1]))

    async def _take_output(self) -> None:
        assert self.process.stdout is not None
        self._out = await self.process.stdout.read()

    @property
    def said(self) -> str:
        """All that was said, for a message."""
        return f"{self.name}:\n" + "\n".join(self.lines)

    def count(self, pattern: str | re.Pattern[str]) -> Counter[str]:
        """Return how often each shard stands in lines of such a form (its group 1)."""
        found = (re.search(pattern, line) for line in self.lines)
        return Counter(one[1] for one in found if one is not None)

    @property
    def starts(self) -> Counter[str]:
        """How often a child of each shard has begun to run."""
        return self.count(_RUNNING)

    @property
    def partings(self) -> Counter[str]:
        """How often each shard has left this host."""
        return self.count(r"shard (\w+) (?:goes to|has gone to|was taken by) ")

    @property
    def failures(self) -> Counter[str]:
        """How often a child of each shard has failed."""
        return self.count(r"shard (\w+) ended with exit code")

    @property
    def down(self) -> set[str]:
        """Return the shards that were given up."""
        return set(self.count(r"shard (\w+) is down: it failed"))

    def running(self) -> set[str]:
        """Return the shards of which a child is there that has begun to run."""
        return {shard for shard, pid in self.children().items() if pid in self._begun}

    def children(self) -> dict[str, int]:
        """Return the process ids of the children that there are now, by shard."""
        found: dict[str, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                words = folder.joinpath("cmdline").read_text().split("\0")
            except (OSError, ValueError):
                continue
            if parent == self.process.pid and "--supervised" in words:
                found[words[words.index("--shard") + 1]] = int(folder.name)
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(number)

    @property
    def ended(self) -> bool:
        """Whether it and all its children have ended, and all that they said is known."""
        return self.process.returncode is not None and self._listening.done()

    @property
    def output(self) -> str:
        """What it has printed, once it has ended."""
        return self._out.decode()


def alive(pid: int) -> bool:
    """Return whether there is a process of this id."""
    return Path(f"/proc/{pid}").exists()


class Hosts:
    """A log with three shards, hosts to run them, and a load that goes on meanwhile."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.load_task: asyncio.Task[None] | None = None
        self._hosts: list[Host] = []
        self._stopping = False

    async def start(self, *arguments: str) -> Host:
        """Start a host, or with `--shard` a rival of all hosts."""
        host = Host(await self.site.start(*arguments), f"host {len(self._hosts)}")
        self._hosts.append(host)
        return host

    async def until(
        self, condition: Callable[[], object], what: str, wait_s: float = WAIT_S
    ) -> float:
        """Wait until something is so; return how long it took."""
        began_s = time.monotonic()
        while not condition():
            if self.load_task is not None and self.load_task.done():
                self.load_task.result()
            waited_s = time.monotonic() - began_s
            assert waited_s < wait_s, "\n\n".join(
                [f"not within {wait_s} s: {what}", *(host.said for host in self._hosts)]
            )
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s

    async def end(
        self, host: Host, number: signal.Signals | None = None, wait_s: float = WAIT_S
    ) -> int:
        """Send a signal to a host, if given, and wait for its end; return its exit code."""
        if number is not None:
            host.send(number)
        await self.until(lambda: host.ended, f"{host.name} ends", wait_s)
        assert host.process.returncode is not None
        return host.process.returncode

    async def breathe(self) -> None:
        """Let everything go on for a moment."""
        await asyncio.sleep(POLL_S)

    async def stop_load(self) -> None:
        """End the load, not in the middle of an append."""
        self._stopping = True
        assert self.load_task is not None
        await self.load_task

    def kill_child(self, host: Host, shard: str) -> None:
        """Kill a child of a host."""
        os.kill(host.children()[shard], signal.SIGKILL)

    async def go_on(self) -> None:
        """Append inputs, and read the ledgers meanwhile."""
        while not self._stopping:
            await self.site.entries()
            # However far the ledgers are behind: a writer hears that it is none when it writes.
            await self.site.load.go_on()
            await self.breathe()

    async def until_written(self, entries: int = 1) -> float:
        """Wait until every ledger has so many entries more."""
        seen = self.site.seen
        begun = {index: len(seen[index].lines) for index in range(len(SHARDS))}
        return await self.until(
            lambda: all(len(seen[index].lines) >= begun[index] + entries for index in begun),
            f"{entries} more entries in each ledger",
        )


@asynccontextmanager
async def open_hosts(
    folder: Path, broker: Cluster, prefix: str, seed: int = 0
) -> AsyncIterator[Hosts]:
    """Make topics and settings, and put them under load."""
    (folder / "insurance-fund.toml").write_text(
        "[shards]\n" + "".join(f'{shard} = ["{one}"]\n' for shard, one in SHARDS.items()),
        encoding="utf-8",
    )
    url = await make_topics(broker.bootstrap, prefix, tuple(SHARDS))
    log = KafkaLog(KafkaAccess(url))
    load = Load(log, random.Random(seed), tuple(SHARDS.values()))  # noqa: S311 - no secrets
    site = Site(
        folder,
        f"kafka://{broker.bootstrap}/{prefix}",
        log,
        load,
        {"KAFKA_SESSION_MS": str(round(SESSION_S * 1000))},
    )
    try:
        async with opened(site, TEST_S):
            hosts = Hosts(site)
            hosts.load_task = asyncio.create_task(hosts.go_on())
            try:
                yield hosts
            finally:
                hosts.load_task.cancel()
                await asyncio.wait([hosts.load_task])
    finally:
        await log.close()
