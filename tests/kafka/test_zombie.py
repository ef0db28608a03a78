"""A writer that stands still, is replaced, and wakes up: nothing of it becomes visible.

Its transaction may have ended by the brokers' time-out or by its successor's coming, and it may
have stood inside of a commit or anywhere else.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

from insurance_fund.streams.kafka_access import TRANSACTION_MS
from tests.embedded.service import FENCED, said_by
from tests.kafka.cluster import Cluster
from tests.kafka.killed import POINTS
from tests.kafka.ready import until
from tests.kafka.rounds import rounds
from tests.kafka.site import (
    SHARD,
    KafkaSite,
    assert_whole_story_on_cluster,
    is_stopped,
    open_kafka_site,
    play_rounds,
)

ROUNDS: Final = rounds(5, 15)
# They mostly stand still.
AT_ONCE: Final = 5
# Past the transaction time-out, and the time until the brokers look for what has timed out.
STOOD_S: Final = TRANSACTION_MS / 1000 + 2
# What a zombie may take to see that it is one: it must read, commit and be refused.
WAKING_S: Final = 10
# Where one stands still; None is any moment. Inside of a commit its transaction is open.
PLACES: Final = ("all answered", None, "begun", "commit asked", "batch answered", "read")


async def test_zombie_writes_nothing_and_ends_fenced(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async def play(number: int) -> None:
        await play_round(broker, f"{prefix}r{number}", tmp_path / str(number), number)

    await play_rounds(ROUNDS, AT_ONCE, play)


async def play_round(broker: Cluster, prefix: str, folder: Path, number: int) -> None:
    chance = random.Random(f"zombie {number}")  # noqa: S311 - moments, no secrets
    async with open_kafka_site(broker, prefix, folder, chance) as site:
        zombie = await stand_still(site, PLACES[number % len(PLACES)], chance)
        stopped_s = time.monotonic()
        # Half of the successors come at once; the next time round it is the other half.
        if (number + number // len(PLACES)) % 2:
            await asyncio.sleep(STOOD_S)
        successor = await site.start("--shard", SHARD)
        await site.work(successor, 50)
        await asyncio.sleep(stopped_s + STOOD_S - time.monotonic())
        await site.work(successor, 5)

        zombie.send_signal(signal.SIGCONT)
        async with asyncio.timeout(WAKING_S):
            out, said = await site.work_until_end(zombie)
        assert (zombie.returncode, "\nfenced: " in f"\n{said}") == (FENCED, True), (out, said)
        await site.work(successor, 20)
        _, said = await site.end(successor, signal.SIGTERM, chance)
        assert successor.returncode == 0, said
        ledger = await assert_whole_story_on_cluster(site)
        assert len(ledger) > 75


async def stand_still(site: KafkaSite, place: str | None, chance: random.Random) -> Process:
    """Run the shard, working, until it stands still."""
    if place is None:
        process = await site.start("--shard", SHARD)
        await site.work(process, chance.randrange(20, 100))
        await site.any_moment(chance)
        os.kill(process.pid, signal.SIGSTOP)
        return process
    process = await site.start_faulty(
        signal.SIGSTOP, place, chance.randrange(POINTS[place] // 4, POINTS[place] + 1)
    )

    async def has_stopped() -> bool:
        assert process.returncode is None, await said_by(process)
        await site.go_on()
        return is_stopped(process.pid)

    await until(has_stopped)
    return process
