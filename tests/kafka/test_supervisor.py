"""The supervisor alone: small processes for children, and a group that the test speaks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.cli.repeats import PERIOD_S, Repeats
from insurance_fund.cli.supervise import start_child
from insurance_fund.events.errors import FencedError, SettingsError
from insurance_fund.streams import supervisor as module
from insurance_fund.streams.supervisor import FENCED, Child, ChildFailedError, Supervisor
from tests.embedded.command import run_command

SESSION_S = 0.5
PAUSES_S = (0.1, 0.2, 0.3, 0.4, 0.5)
WAIT_S = 30.0
READY = "print('{\"ready\": true}', flush=True)\n"
# Ends as a child does, by SIGTERM or with its standard input.
WORKS = READY + "import sys\nsys.stdin.read()"
# Takes no notice of SIGTERM, like one whose broker does not answer.
STUCK = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{WORKS}"
# Has much to tell at its end.
TELLS = f"""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
{READY}
signal.sigwait([signal.SIGTERM])
print('[{{"ledger": "a", "note": "' + 'x' * 100_000 + '"}}]')
"""


class Group:
    """Says what the test wants it to say."""

    def __init__(self, *assigned: int) -> None:
        self.assigned = frozenset(assigned)
        self.generation = 1
        self.changed = asyncio.Event()

    async def join(self) -> None:
        """Become a member."""

    async def poll(self) -> None:
        """Stay a member."""

    def assign(self, *assigned: int) -> None:
        """Share the shards out anew."""
        self.assigned = frozenset(assigned)
        self.generation += 1
        self.changed.set()


class Post:
    """A supervisor of shards a, b and c, and the processes that it has started."""

    def __init__(self, group: Group, scripts: Mapping[str, str] | None = None) -> None:
        self.group = group
        self.scripts = dict(scripts or {})
        self.children: dict[str, list[Child]] = {"a": [], "b": [], "c": []}
        self.started_s: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        self.endings: dict[str, dict[str, Any]] = {}
        self.supervisor = Supervisor(group, "abc", self._spawn, SESSION_S, PAUSES_S)
        self.running = asyncio.create_task(self.supervisor.run())

    async def _spawn(self, shard: str) -> Child:
        script = self.scripts.get(shard, WORKS)
        child = await start_child(["-I", "-S", "-c", script], self.endings)
        self.children[shard].append(child)
        self.started_s[shard].append(time.monotonic())
        return child

    @property
    def starts(self) -> Counter[str]:
        """How often each shard was started."""
        return Counter({shard: len(of) for shard, of in self.children.items() if of})

    def works(self, *shards: str) -> bool:
        """Return whether these shards, and no others, have a child that is ready."""
        return (
            tuple(
                shard
                for shard, of in self.children.items()
                if of and of[-1].ready_at_s is not None and not of[-1].ended.is_set()
            )
            == shards
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                assert not self.running.done() or self.running.exception() is None
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End all processes."""
        for child in (child for of in self.children.values() for child in of):
            with suppress(ProcessLookupError):
                child.process.kill()
        with suppress(BaseException):
            self.supervisor.stop()
            await self.running


@pytest.fixture
async def posts() -> AsyncIterator[Callable[..., Post]]:
    """Make supervisors that are ended with the test."""
    made: list[Post] = []

    def make(group: Group, scripts: Mapping[str, str] | None = None) -> Post:
        made.append(Post(group, scripts))
        return made[-1]

    yield make
    for post in made:
        await post.close()


MakePost = Callable[..., Post]


async def test_host_ends_when_what_was_shared_out_may_not_be_run() -> None:
    group = Group()

    async def check() -> None:
        raise SettingsError("the ledger's topic is missing")

    async def spawn(shard: str) -> Child:
        raise AssertionError(shard)

    supervisor = Supervisor(group, "abc", spawn, SESSION_S, check=check)
    group.assign(0)
    with pytest.raises(SettingsError, match="the ledger's topic is missing"):
        await supervisor.run()


def test_host_whose_shards_do_not_fit_its_policy_joins_no_group(tmp_path: Path) -> None:
    (tmp_path / "insurance-fund.toml").write_text('[shards]\nmain = ["USDT"]\nalts = ["SOL"]\n')
    (tmp_path / "policy.json").write_text("{}")
    nobody = ("--log", "kafka://127.0.0.1:1")
    told = run_command(tmp_path, "run", *nobody, "--policy", "policy.json", code=2).stderr
    assert "shards.alts: the policy names no currency SOL" in told


async def test_child_of_a_shard_that_stays_is_not_touched_when_shards_are_shared_out_anew(
    posts: MakePost,
) -> None:
    group = Group(0, 1)
    post = posts(group)
    await post.until(lambda: post.works("a", "b"))
    group.assign(1, 2)
    await post.until(lambda: post.works("b", "c"))
    group.assign(0, 1)
    await post.until(lambda: post.works("a", "b"))
    assert post.starts == {"a": 2, "b": 1, "c": 1}


async def test_child_that_does_not_end_holds_up_no_other_shard(posts: MakePost) -> None:
    group = Group(0)
    post = posts(group, {"a": STUCK})
    await post.until(lambda: post.works("a"))
    group.assign(1)
    await post.until(lambda: post.works("a", "b"))
    # It comes back to this host before it has ended: one after the other, never two.
    group.assign(0, 1)
    await asyncio.sleep(2 * module.POLL_S)
    assert post.starts == {"a": 1, "b": 1}
    post.children["a"][0].process.kill()
    await post.until(lambda: post.starts["a"] == 2 and post.works("a", "b"))


async def test_fenced_child_is_left_to_its_rival_and_the_supervisor_ends_after_a_session(
    posts: MakePost,
) -> None:
    post = posts(Group(0, 1), {"a": f"{READY}raise SystemExit({FENCED})"})
    with pytest.raises(FencedError, match="shard a has another writer outside of this group"):
        await post.running
    assert post.starts == {"a": 1, "b": 1}
    assert time.monotonic() - post.started_s["a"][0] > SESSION_S
    assert post.children["b"][0].process.returncode is not None


async def test_fenced_child_is_started_again_where_the_group_gives_its_shard_back(
    posts: MakePost,
) -> None:
    group = Group(0)
    post = posts(group, {"a": f"{READY}raise SystemExit({FENCED})"})
    await post.until(lambda: bool(post.children["a"]) and post.children["a"][0].ended.is_set())
    post.scripts["a"] = WORKS
    group.assign(0)
    await post.until(lambda: post.works("a"))
    await asyncio.sleep(2 * SESSION_S)
    assert post.works("a")
    assert post.starts == {"a": 2}


async def test_killed_child_is_started_again_at_once(posts: MakePost) -> None:
    post = posts(Group(0))
    await post.until(lambda: post.works("a"))
    killed_s = time.monotonic()
    post.children["a"][0].process.kill()
    await post.until(lambda: post.starts["a"] == 2 and post.works("a"))
    assert post.started_s["a"][1] - killed_s < 1


async def test_shard_that_fails_again_and_again_is_down_and_the_others_go_on(
    posts: MakePost, caplog: pytest.LogCaptureFixture
) -> None:
    # One does not even recover, the other fails each time at the same place behind it.
    failing = {"a": "raise SystemExit(1)", "b": f"{READY}raise SystemExit(2)"}
    group = Group(0, 1, 2)
    post = posts(group, failing)
    await post.until(lambda: caplog.text.count("is down: it failed 6 times in a row") == 2)
    assert post.works("c")
    assert post.starts == {"a": 6, "b": 6, "c": 1}

    # Of what is left nothing can be run here.
    group.assign(0, 1)
    with pytest.raises(ChildFailedError, match=r"no shard can be run here \(a, b\)") as failed:
        await post.running
    assert failed.value.code in {1, 2}
    assert post.starts == {"a": 6, "b": 6, "c": 1}
    assert post.children["c"][0].process.returncode is not None


async def test_stopped_supervisor_ends_all_children_and_keeps_what_they_told(
    posts: MakePost,
) -> None:
    post = posts(Group(0, 1), {"a": TELLS})
    await post.until(lambda: post.works("a", "b"))
    post.supervisor.stop()
    await post.running
    assert [of[0].process.returncode is None for of in post.children.values() if of] == [False] * 2
    assert post.endings["a"]["note"] == "x" * 100_000


async def test_supervisor_that_is_stopped_while_it_joins_ends(posts: MakePost) -> None:
    class Unreachable(Group):
        async def join(self) -> None:
            await asyncio.Event().wait()

    post = posts(Unreachable(0))
    post.running.cancel()
    joining = asyncio.create_task(post.supervisor.join())
    post.supervisor.stop()
    async with asyncio.timeout(WAIT_S):
        await joining
        await post.supervisor.run()
    assert not post.starts


async def test_child_that_speaks_nonsense_is_followed_to_its_end(posts: MakePost) -> None:
    nonsense = {"a": "nonsense", "b": "5", "c": '[{"entries": 5}]'}
    scripts = {shard: f"print({told!r}, flush=True)\n{WORKS}" for shard, told in nonsense.items()}
    post = posts(Group(0, 1, 2), scripts)
    await post.until(lambda: post.starts.total() == 3)
    post.supervisor.stop()
    await post.running
    assert all(of[0].process.returncode is not None for of in post.children.values())


def test_what_the_client_repeats_is_told_once_in_a_while() -> None:
    def told(name: str, text: str, created_s: float) -> bool:
        record = logging.makeLogRecord({"name": name, "msg": text, "created": created_s})
        return repeats.filter(record)

    repeats = Repeats()
    assert told("aiokafka.conn", "no node 1", 0)
    assert not told("aiokafka.conn", "no node 1", PERIOD_S - 1)
    assert told("aiokafka.conn", "no node 2", PERIOD_S - 1)
    assert told("aiokafka.conn", "no node 1", PERIOD_S)
    for _ in range(2):
        assert told("insurance_fund.streams.supervisor", "shard a is down", 0)


async def test_supervisor_is_ready_when_all_that_it_was_given_may_commit(posts: MakePost) -> None:
    group = Group(0, 1)
    group.generation = 0
    post = posts(group, {"b": "import sys\nsys.stdin.read()"})
    told = post.supervisor
    assert told.missing() == ["the group has not said yet which shards are this host's"]
    group.generation = 1
    await post.until(lambda: post.works("a"))
    assert told.missing() == ["shard b: its process has not recovered yet"]
    stands = {one.shard: (one.assigned, one.ready) for one in told.standings()}
    assert stands == {"a": (True, True), "b": (True, False), "c": (False, False)}
    group.assign(0)
    await post.until(lambda: not told.missing())
    group.assign()
    await post.until(lambda: not any(one.ready for one in told.standings()))
    # It stands by, and would take a shard at once.
    assert told.missing() == []


async def test_supervisor_counts_restarts_and_tells_what_is_down(posts: MakePost) -> None:
    group = Group(0, 1)
    post = posts(group, {"a": "raise SystemExit(1)"})
    await post.until(lambda: post.works("b"))
    group.assign(1)
    group.assign(0, 1)
    await post.until(lambda: post.supervisor.standings()[0].given_up)
    assert post.supervisor.missing() == ["shard a: it is down, see the log"]
    a, b, c = post.supervisor.standings()
    assert a.restarts == post.starts["a"] - 1 == len(PAUSES_S)
    assert (b.ready, b.restarts, c.restarts) == (True, 0, 0)
    # One that is asked to end and comes back later is no restart.
    group.assign(2)
    await post.until(lambda: post.works("c"))
    group.assign(1)
    await post.until(lambda: post.works("b"))
    assert post.starts["b"] == 2
    assert post.supervisor.standings()[1].restarts == 0
