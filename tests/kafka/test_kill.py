"""The service on a broker under `kill -9`: each input in the ledger exactly once.

In every round the shard dies at a named point of its work with the log, then under a supervisor at
any moment, sometimes together with that. Afterwards the cluster must tell one whole story.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final

from tests.embedded.service import said_by
from tests.kafka.cluster import Cluster
from tests.kafka.killed import POINTS
from tests.kafka.rounds import rounds
from tests.kafka.site import KafkaSite, assert_whole_story_on_cluster, open_kafka_site, play_rounds

ROUNDS: Final = rounds(16, 64)
# Rounds wait for their processes to start, and for a group to see that a member is dead.
AT_ONCE: Final = 4


async def test_service_that_is_killed_anywhere_takes_each_input_exactly_once(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async def play(number: int) -> None:
        await play_round(broker, f"{prefix}r{number}", tmp_path / str(number), number)

    await play_rounds(ROUNDS, AT_ONCE, play)


async def play_round(broker: Cluster, prefix: str, folder: Path, number: int) -> None:
    chance = random.Random(f"kill {number}")  # noqa: S311 - moments, no secrets
    point, passes_max = list(POINTS.items())[number % len(POINTS)]
    async with open_kafka_site(broker, prefix, folder, chance) as site:
        # Half of them find a ledger that they must recover first.
        if (number + number // len(POINTS)) % 2:
            await die_at(site, "commit", chance.randrange(1, POINTS["commit"] + 1))
        await die_at(site, point, chance.randrange(1, passes_max + 1))

        supervisor = await site.start()
        await site.work(supervisor, chance.randrange(1, 120))
        await site.any_moment(chance)
        child = await site.child_of(supervisor)
        if number % 3 == 2:
            supervisor.kill()
            # By chance the child dies with it, or sees by itself that it is alone.
            if chance.random() < 0.5:
                os.kill(child, signal.SIGKILL)
            await said_by(supervisor)
            supervisor = await site.start()
        else:
            os.kill(child, signal.SIGKILL)
        await site.child_of(supervisor, but=child)
        await site.work(supervisor, chance.randrange(20, 60))
        _, said = await site.end(supervisor, signal.SIGTERM, chance)
        assert (supervisor.returncode, "Traceback" in said) == (0, False), said

        ledger = await assert_whole_story_on_cluster(site)
        assert len(ledger) > 50


async def die_at(site: KafkaSite, point: str, passes: int) -> None:
    """Run the shard, working, until it kills itself at a point."""
    process = await site.start_faulty(signal.SIGKILL, point, passes)
    out, said = await site.work_until_end(process)
    assert (process.returncode, "Traceback" in said) == (-signal.SIGKILL, False), (out, said)
