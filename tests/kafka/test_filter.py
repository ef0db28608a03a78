"""All fills of an exchange on one topic: those of liquidations make entries, the others none."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Final

from insurance_fund.events import topics
from insurance_fund.events.ledger import CheckpointCause, decode_entry
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.processor import CHECKPOINT_MS, CHECKPOINT_SKIPPED
from tests.embedded.service import POLL_S, assert_log_tells_one_story, inputs_of, record, said_by
from tests.kafka.cluster import Cluster
from tests.kafka.site import PARTITIONS, SHARD, KafkaSite, open_kafka_site

FILLS: Final = 50_000
ONE_IN: Final = 1_000
# As many that nothing is about, so that their number alone makes a checkpoint, and some.
ORDINARY: Final = CHECKPOINT_SKIPPED + 20_000
FILLS_A_PUBLISH: Final = 5_000


def fill(number: int, **about: str) -> bytes:
    return record(
        "fill",
        "USDT",
        **about,
        fill_id=f"f-{number}",
        order_id=f"o-{number}",
        instrument_id="BTCUSDT",
        side="sell",
        quantity="1",
        price="50000",
        fee="0",
    )


async def publish(site: KafkaSite, fills: list[bytes]) -> None:
    for start in range(0, len(fills), FILLS_A_PUBLISH):
        partition = start // FILLS_A_PUBLISH % PARTITIONS
        values = fills[start : start + FILLS_A_PUBLISH]
        await site.load.publish(topics.FILLS, *values, partition=partition)


async def skipped_by_a_run(site: KafkaSite) -> int:
    (ending,) = json.loads(await site.call("run", "--until-idle", "--format", "json"))
    return int(ending["skipped"])


async def test_only_fills_of_liquidations_make_entries_and_a_checkpoint_tells_what_was_skipped(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    chance = random.Random("filter")  # noqa: S311 - what is published, no secrets
    async with open_kafka_site(broker, prefix, tmp_path, chance, mixed=False) as site:
        about = [{"liquidation_id": "liq"} if n % ONE_IN == 0 else {} for n in range(FILLS)]
        await publish(site, [fill(number, **words) for number, words in enumerate(about)])
        assert await skipped_by_a_run(site) == FILLS - FILLS // ONE_IN
        (ledger,) = await assert_log_tells_one_story(site)
        taken = [where for where, _ in inputs_of(ledger) if where[0] == topics.FILLS]
        assert len(taken) == FILLS // ONE_IN

        await publish(site, [fill(FILLS)] * ORDINARY)
        checkpoint = await killed_behind_a_checkpoint(site)
        behind = 0
        for partition in range(PARTITIONS):
            where = TopicPartition(topics.FILLS, partition)
            # What is published in no transaction has no holes between its offsets.
            position = checkpoint.positions[str(where)]
            behind += len(site.load.said[where]) - position.next_offset
        assert await skipped_by_a_run(site) == behind
        # Those behind the last entry of the first run were read and skipped twice.
        assert behind <= ORDINARY - CHECKPOINT_SKIPPED + PARTITIONS * ONE_IN
        await assert_log_tells_one_story(site)


async def killed_behind_a_checkpoint(site: KafkaSite) -> CheckpointCause:
    """Run the shard until a checkpoint is in the ledger, and kill it; return what that says."""
    process = await site.start("--shard", SHARD)
    entries = await site.entries()
    # Later one would come by the time alone.
    async with asyncio.timeout(CHECKPOINT_MS / 2000):
        while await site.entries() == entries:
            assert process.returncode is None, await said_by(process)
            await site.log.wait(POLL_S)
    process.kill()
    await said_by(process)
    cause = decode_entry(site.seen[0].lines[-1]).cause
    assert isinstance(cause, CheckpointCause)
    return cause
