"""The supervisor: one child process for each shard that is this host's.

On assign, children that are no longer this host's are asked to end, those that stay are not
touched, new ones are started. A child that fails is started again: that is the one way of repair.
A shard whose child fails again and again is down, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from insurance_fund.events.errors import FencedError

_log = logging.getLogger(__name__)

FENCED: Final = 75
POLL_S: Final = 1.0
# A child that was asked to end has a transaction in hand; its own deadline ends before this.
GRACE_S: Final = 20.0
# Pauses before a child is started again; they begin anew once one has run for long enough. If the
# start after the last of them fails too, the shard is given up: together they are longer than a
# broker takes to come back, or another to take its place.
PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
# One that ends sooner after its recovery has met what ended it before: it counts as a failed start.
STEADY_S: Final = 60.0
# One that is given up is tried again so much later, lest it stays down for what has passed.
GIVEN_UP_PAUSE_S: Final = 60.0


class Group(Protocol):
    """Who says which shards are this host's; `generation` counts how often that was said."""

    assigned: frozenset[int]
    generation: int
    changed: asyncio.Event

    async def join(self) -> None:
        """Become a member."""
        ...

    async def poll(self) -> None:
        """Stay a member; what comes of it is told by the fields above."""
        ...


@dataclass(slots=True)
class Child:
    """A process that runs a shard, and since when it has recovered and may commit.

    `following` is what sets the rest; whoever starts it keeps it here.
    """

    process: Process
    ready_at_s: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    following: asyncio.Task[None] | None = None


class ChildFailedError(Exception):
    """None of this host's shards can be run here; `code` is what the last process ended with."""

    def __init__(self, shards: Sequence[str], code: int) -> None:
        super().__init__(
            f"no shard can be run here ({', '.join(shards)}), the last one ended with exit code "
            f"{code}: see above why"
        )
        self.code = code


@dataclass(frozen=True, slots=True)
class Standing:
    """How a shard stands on this host; `ready` is whether its child may commit.

    `restarts` counts the children that were started in place of one that ended by itself.
    """

    shard: str
    assigned: bool
    ready: bool
    given_up: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class _Fence:
    """When a child was fenced, and by which word of the group the shard was ours then."""

    at_s: float
    generation: int


@dataclass(slots=True)
class _Post:
    """A shard, its child, and what became of those before."""

    shard: str
    child: Child | None = None
    ending: asyncio.Task[None] | None = None
    failures: int = 0
    restarts: int = 0
    to_be_replaced: bool = False
    last_code: int = 0
    start_at_s: float = 0.0
    fence: _Fence | None = None


class Supervisor:
    """Keeps children running for what is assigned, until it is stopped."""

    def __init__(
        self,
        group: Group,
        shards: Sequence[str],
        spawn: Callable[[str], Awaitable[Child]],
        session_s: float,
        pauses_s: Sequence[float] = PAUSES_S,
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`check` raises where no shard may be run; it is asked when shards were shared out."""
        self._group = group
        self._check = check
        self._checked = group.generation
        self._pauses_s = pauses_s
        self._spawn = spawn
        self._session_s = session_s
        self._posts = {index: _Post(shard) for index, shard in enumerate(shards)}
        self._stopped = asyncio.Event()

    def standings(self) -> list[Standing]:
        """Return how each shard of the settings stands, in their order."""
        return [
            Standing(
                post.shard,
                assigned=index in self._group.assigned,
                ready=post.child is not None
                and post.child.ready_at_s is not None
                and post.ending is None
                and not post.child.ended.is_set(),
                given_up=self._is_given_up(post),
                restarts=post.restarts,
            )
            for index, post in self._posts.items()
        ]

    def missing(self) -> list[str]:
        """Return what is missing before all that is assigned to this host is run by it."""
        if not self._group.generation:
            return ["the group has not said yet which shards are this host's"]
        return [
            f"shard {one.shard}: "
            + ("it is down, see the log" if one.given_up else "its process has not recovered yet")
            for one in self.standings()
            if one.assigned and not one.ready
        ]

    def stop(self) -> None:
        """Ask all children to end, then end."""
        self._stopped.set()
        self._group.changed.set()

    async def join(self) -> None:
        """Join the group, unless stopped meanwhile.

        Raises LogUnavailableError where the brokers cannot be reached or refuse us.
        """
        joining = asyncio.create_task(self._group.join())
        stopping = asyncio.create_task(self._stopped.wait())
        await asyncio.wait([joining, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if joining.done():
            joining.result()
        joining.cancel()

    async def run(self) -> None:
        """Run until stopped.

        Raises FencedError for a rival outside of the group, ChildFailedError where no shard of this
        host can be run, LogUnavailableError for a group that this host fell out of.
        """
        try:
            while not self._stopped.is_set():
                await self._group.poll()
                await self._see_sharing()
                for index, post in self._posts.items():
                    await self._tend(post, mine=index in self._group.assigned)
                self._see_failures()
                await self._pause()
        finally:
            await self._end_all()

    async def _see_sharing(self) -> None:
        """See that there is what was shared out: of a topic that is gone nobody is given any."""
        if self._check is not None and self._checked != self._group.generation:
            self._checked = self._group.generation
            await self._check()

    async def _pause(self) -> None:
        """Wait until something has to be done, at the longest a second."""
        timeout_s = POLL_S
        children = []
        for post in self._posts.values():
            if post.child is not None:
                children.append(post.child.ended.wait())
            elif post.start_at_s > time.monotonic():
                timeout_s = min(timeout_s, post.start_at_s - time.monotonic())
        waits = [asyncio.create_task(w) for w in (self._group.changed.wait(), *children)]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._group.changed.clear()

    async def _tend(self, post: _Post, *, mine: bool) -> None:
        child = post.child
        if child is not None and child.ended.is_set():
            self._note_end(post, child, mine=mine)
        elif child is not None and not mine and post.ending is None:
            _log.warning("shard %s goes to another host", post.shard)
            # The other shards are tended meanwhile.
            post.ending = asyncio.create_task(_end(child))
        if not mine:
            post.failures, post.start_at_s, post.fence = 0, 0.0, None
            return
        self._see_fence(post)
        if post.child is None and post.fence is None and time.monotonic() >= post.start_at_s:
            post.restarts += post.to_be_replaced
            post.to_be_replaced = False
            post.child = await self._spawn(post.shard)

    def _see_fence(self, post: _Post) -> None:
        """Give the group its time to say who runs a shard that another has taken."""
        fence = post.fence
        if fence is None:
            return
        if fence.generation != self._group.generation:
            # It came while the shards were shared out anew, and this one is ours again.
            post.fence = None
        elif time.monotonic() - fence.at_s >= self._session_s:
            raise FencedError(
                f"shard {post.shard} has another writer outside of this group, or its process "
                "stood still for longer than a transaction may last: end the other writer if there "
                "is one, then start this again"
            )

    def _note_end(self, post: _Post, child: Child, *, mine: bool) -> None:
        code, now_s = child.process.returncode, time.monotonic()
        assert code is not None
        asked = post.ending is not None
        post.child = post.ending = None
        if asked:
            return
        post.to_be_replaced = True
        if not mine:
            _log.warning("shard %s has gone to another host", post.shard)
            return
        if code == FENCED:
            post.fence = _Fence(now_s, self._group.generation)
            _log.warning(
                "shard %s was taken by another writer; it is left to it, unless the group gives "
                "it to this host again",
                post.shard,
            )
            return
        ran_s = 0.0 if child.ready_at_s is None else now_s - child.ready_at_s
        if code < 0 and ran_s:
            # Somebody killed it while it worked; that says nothing of the next.
            post.failures = max(post.failures, 1)
        else:
            post.failures = 1 if ran_s >= STEADY_S else post.failures + 1
        post.last_code = code
        given_up = self._is_given_up(post)
        pause_s = GIVEN_UP_PAUSE_S if given_up else self._pauses_s[post.failures - 1]
        post.start_at_s = now_s + pause_s
        if given_up:
            _log.error(
                "shard %s is down: it failed %d times in a row, the last time with exit code %d, "
                "see above why; it is tried again in %g s",
                post.shard,
                post.failures,
                code,
                pause_s,
            )
        else:
            _log.warning(
                "shard %s ended with exit code %d, it is started again in %g s",
                post.shard,
                code,
                pause_s,
            )

    def _is_given_up(self, post: _Post) -> bool:
        return post.failures > len(self._pauses_s)

    def _see_failures(self) -> None:
        """End where nothing that is ours can be run; one bad shard must not take others with it."""
        ours = [post for index, post in self._posts.items() if index in self._group.assigned]
        if ours and all(post.child is None and self._is_given_up(post) for post in ours):
            last = max(ours, key=lambda post: post.start_at_s)
            raise ChildFailedError([post.shard for post in ours], last.last_code)

    async def _end_all(self) -> None:
        posts = [post for post in self._posts.values() if post.child is not None]
        await asyncio.gather(*(post.ending or _end(post.child) for post in posts if post.child))


async def _end(child: Child) -> None:
    """Ask a child to end after the transaction in hand, and see that it does."""
    with suppress(ProcessLookupError):
        child.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_S):
            await child.ended.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            child.process.kill()
        await child.ended.wait()
