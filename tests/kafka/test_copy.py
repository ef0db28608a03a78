"""Twenty thousand inputs through a service that is bounced: each in the ledger once, in order.

In the shape of Kafka's own system test of transactions: small transactions, bounces that are hard
and clean in turn, first of the shard's process, then of the broker.
"""

from __future__ import annotations

import os
import random
import signal
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

from insurance_fund.events import topics
from tests.embedded.service import POLL_S, assert_log_tells_one_story, record, said_by
from tests.kafka.cluster import Cluster
from tests.kafka.site import (
    PARTITIONS,
    KafkaSite,
    assert_nothing_hangs,
    open_kafka_site,
)

DEPOSITS: Final = 12_000
# About nobody that is known yet: they wait, of whom 10,000 may.
FILLS: Final = 8_000
RECORDS_A_PUBLISH: Final = 500
SETTINGS: Final = {"BATCH_MAX": "750", "SNAPSHOT_ENTRIES": "5000"}
BOUNCES: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)


async def test_every_input_is_copied_once_and_in_order_whatever_is_bounced(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    chance = random.Random("copy")  # noqa: S311 - what is said, no secrets
    async with open_kafka_site(
        broker, prefix, tmp_path, chance, mixed=False, settings=SETTINGS
    ) as site:
        await publish_deposits(site, DEPOSITS)
        supervisor = await site.start()
        for number, bounce in enumerate(BOUNCES):
            await reach(site, supervisor, number * DEPOSITS // len(BOUNCES) + 1)
            child = await site.child_of(supervisor)
            os.kill(child, bounce)
            await site.child_of(supervisor, but=child)
        assert await site.entries() < DEPOSITS, "it was too fast for the last bounce"

        await publish_fills(site, FILLS)
        broker.kill(0)
        broker.restart(0)
        await broker.wait_ready()
        await reach(site, supervisor, DEPOSITS)
        assert await site.entries() < site.load.expected, "it was too fast for the last bounce"
        await broker.terminate(0)
        broker.restart(0)
        await broker.wait_ready()

        await reach(site, supervisor, site.load.expected)
        supervisor.send_signal(signal.SIGTERM)
        _, said = await said_by(supervisor)
        assert supervisor.returncode == 0, said
        (ledger,) = await assert_log_tells_one_story(site)
        await site.live.assert_saw(ledger)
        await assert_nothing_hangs(site)
        assert len(ledger) > DEPOSITS + FILLS


async def publish_deposits(site: KafkaSite, count: int) -> None:
    for start in range(0, count, RECORDS_A_PUBLISH):
        deposits = [
            record("fund_deposit", "USDT", transfer_id=f"t-{n}", amount="1", memo="m")
            for n in range(start, start + RECORDS_A_PUBLISH)
        ]
        await site.load.publish(topics.FUND_TRANSFERS, *deposits)


async def publish_fills(site: KafkaSite, count: int) -> None:
    for start in range(0, count, RECORDS_A_PUBLISH):
        fills = [
            record(
                "fill",
                "USDT",
                liquidation_id="liq-later",
                order_id="liq-later:1",
                fill_id=f"f-{n}",
                instrument_id="BTCUSDT",
                side="sell",
                quantity="1",
                price="50000",
                fee="0",
            )
            for n in range(start, start + RECORDS_A_PUBLISH)
        ]
        partition = start // RECORDS_A_PUBLISH % PARTITIONS
        await site.load.publish(topics.FILLS, *fills, partition=partition)


async def reach(site: KafkaSite, process: Process, entries: int) -> None:
    """Return when so many entries are in the ledger."""
    while await site.entries() < entries:
        assert process.returncode is None, await said_by(process)
        await site.log.wait(POLL_S)
