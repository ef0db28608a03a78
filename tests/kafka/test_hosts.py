"""Several hosts share the shards out: one dies, others come and go, rivals stand outside."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.membership import Membership
from insurance_fund.streams.supervisor import PAUSES_S
from tests.embedded.service import FENCED, assert_log_tells_one_story, assert_one_whole_story
from tests.kafka.cluster import Cluster
from tests.kafka.hosts import SESSION_S, SHARDS, WAIT_S, Host, Hosts, alive, open_hosts
from tests.kafka.rounds import rounds
from tests.kafka.topics import make_topics

ALL = set(SHARDS)
# Within it a process starts and ends, on a machine that has other things to do.
START_S = 3.0


async def assert_whole(hosts: Hosts) -> None:
    """Stop the load, let the ledgers be finished, and hold the log to what it must be."""
    await hosts.stop_load()
    await hosts.site.call("run", "--until-idle")
    await assert_log_tells_one_story(hosts.site, len(SHARDS))


async def start_two(hosts: Hosts) -> tuple[Host, Host]:
    """Start two hosts; return the one with two shards, then the one with one."""
    one, other = await hosts.start(), await hosts.start()
    await hosts.until(
        lambda: sorted((len(one.running()), len(other.running()))) == [1, 2],
        "three shards are shared out between two hosts",
    )
    await hosts.until_written()
    return (one, other) if len(one.running()) == 2 else (other, one)


def assert_nothing_restarted(*hosts: Host) -> None:
    """Hold hosts to one start of a shard each time that it came."""
    for host in hosts:
        for shard, starts in host.starts.items():
            assert starts <= 1 + host.partings[shard], host.said
        assert not host.failures, host.said


async def test_host_that_is_killed_is_replaced_within_its_session_and_ten_seconds(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with open_hosts(tmp_path, broker, prefix) as hosts:
        first, second = await start_two(hosts)
        orphans, kept = first.children(), second.children()
        first.send(signal.SIGKILL)
        took_s = await hosts.until(lambda: second.running() == ALL, "the second runs all shards")
        assert took_s < SESSION_S + 10
        assert kept.items() <= second.children().items(), "a shard that stayed was restarted"
        await hosts.until_written(10)
        await hosts.end(first)
        assert not any(map(alive, orphans.values()))
        assert not [line for line in first.lines if "Traceback" in line], first.said

        children = second.children()
        assert await hosts.end(second, signal.SIGTERM) == 0, second.said
        assert not any(map(alive, children.values()))
        for shard in SHARDS:
            assert f"ledger {shard}: " in second.output
        await hosts.stop_load()
        await assert_one_whole_story(hosts.site, tuple(SHARDS))


async def test_hosts_that_come_and_go_restart_no_shard_that_stays(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    chance = random.Random("storms")  # noqa: S311 - moments, no secrets
    guests: list[Host] = []
    async with open_hosts(tmp_path, broker, prefix) as hosts:
        steady = await hosts.start()
        await hosts.until(lambda: steady.running() == ALL, "one host runs all shards")
        for _ in range(rounds(10, 20)):
            coming = [await hosts.start() for _ in range(chance.choice((1, 1, 2)))]
            guests += coming
            for guest in coming:
                # A quarter of them go while they start or join.
                if chance.random() < 0.75:
                    await hosts.until(guest.running, "a guest runs a shard")
                    for _ in range(chance.randrange(50)):
                        await hosts.breathe()
                guest.send(chance.choice((signal.SIGKILL, signal.SIGTERM)))
        await hosts.until(lambda: steady.running() == ALL, "the one that stays runs all again")
        await hosts.until_written(10)
        assert_nothing_restarted(steady, *guests)
        # Each that comes gets one of three shards, and leaves it behind when it goes.
        assert steady.starts.total() <= len(SHARDS) + len(guests), steady.said
        for guest in guests:
            code = await hosts.end(guest)
            assert code in {0, -signal.SIGKILL, -signal.SIGTERM}, guest.said
        # Nobody is there any more who could take shards from its children.
        assert await hosts.end(steady, signal.SIGKILL) == -signal.SIGKILL, steady.said
        await assert_whole(hosts)


async def test_host_that_stood_still_comes_back_and_takes_no_more_than_its_share(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with open_hosts(tmp_path, broker, prefix) as hosts:
        first, second = await start_two(hosts)
        first.send(signal.SIGSTOP)
        await hosts.until(lambda: second.running() == ALL, "the second runs all shards")
        first.send(signal.SIGCONT)
        await hosts.until(
            lambda: len(first.running()) == 1 and len(second.running()) == 2,
            "the first runs one shard again",
        )
        assert second.partings.total() == 1, second.said
        assert_nothing_restarted(first, second)
        for host in (first, second):
            assert await hosts.end(host, signal.SIGTERM) == 0, host.said
        await assert_whole(hosts)


async def test_member_says_by_which_sharing_out_it_claims_its_shards(
    broker: Cluster, prefix: str
) -> None:
    # Of claims of two hosts the newer must win; the client never tells its assignor which that is.
    access = KafkaAccess(await make_topics(broker.bootstrap, prefix, tuple(SHARDS)))
    member = Membership(access, round(SESSION_S * 1000))
    try:
        async with asyncio.timeout(WAIT_S):
            await member.join()
            await member.changed.wait()
        assert member.assigned == {0, 1, 2}
        assert StickyPartitionAssignor.generation == 1
    finally:
        await member.leave()


async def test_rival_outside_of_the_group_ends_a_host_once_and_both_stay_away(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with open_hosts(tmp_path, broker, prefix) as hosts:
        host = await hosts.start()
        await hosts.until(lambda: host.running() == ALL, "one host runs all shards")
        rival = await hosts.start("--shard", "usdt")
        await hosts.until(lambda: host.partings["usdt"] == 1, "the rival takes its shard")
        fenced_s = time.monotonic()
        assert await hosts.end(host) == FENCED, host.said
        assert SESSION_S - 1 < time.monotonic() - fenced_s < SESSION_S + 20
        assert "fenced: shard usdt has another writer outside of this group" in host.lines[-1]
        assert host.starts == dict.fromkeys(SHARDS, 1)

        second_rival = await hosts.start("--shard", "usdt")
        assert await hosts.end(rival) == FENCED, rival.said
        assert rival.starts == {"usdt": 1}
        # Who comes last has the shard, be it in the group or not.
        last = await hosts.start()
        assert await hosts.end(second_rival) == FENCED, second_rival.said
        await hosts.until(lambda: last.running() == ALL, "the last host runs all shards")
        await hosts.until_written(10)
        assert await hosts.end(last, signal.SIGTERM) == 0, last.said
        assert last.starts == dict.fromkeys(SHARDS, 1)
        await assert_whole(hosts)


async def test_host_starts_a_killed_child_at_once_and_ends_when_none_can_start(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with open_hosts(tmp_path, broker, prefix) as hosts:
        host = await hosts.start()
        await hosts.until(lambda: host.running() == ALL, "one host runs all shards")
        others = {shard: pid for shard, pid in host.children().items() if shard != "xbt"}
        hosts.kill_child(host, "xbt")
        await hosts.until(lambda: host.starts["xbt"] == 2, "the killed child is back", wait_s=10)
        assert others.items() <= host.children().items()
        await hosts.until_written()

        (tmp_path / "policy.json").write_text("{")
        hosts.kill_child(host, "xbt")
        # As many starts as there are pauses, and a process each.
        wait_s = sum(PAUSES_S) + START_S * (1 + len(PAUSES_S))
        await hosts.until(lambda: host.down == {"xbt"}, "the shard is given up", wait_s)
        assert others.items() <= host.children().items()
        for shard in others:
            hosts.kill_child(host, shard)
        assert await hosts.end(host, wait_s=wait_s) == 2, host.said
        assert "error: no shard can be run here" in host.lines[-1]
        assert any(line.startswith("error: policy policy.json") for line in host.lines), host.said
