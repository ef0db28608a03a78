"""What a service tells the brokers of how far it has read, for those who watch lag."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka.structs import TopicPartition as KafkaPartition

from insurance_fund.events import topics
from insurance_fund.streams.log import TopicPartition
from tests.kafka.cluster import Cluster
from tests.kafka.fund import HANG_S, open_fund
from tests.kafka.ready import admin_of, until
from tests.kafka.topics import make_topics


async def test_offsets_of_a_shard_come_to_the_ends_of_its_inputs(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ["main"])
    async with open_fund(tmp_path, url) as fund:
        process = await fund.serve()
        await fund.take_over(3)
        ends = {
            KafkaPartition(url.name(topic), 0): await fund.log.end_offset(TopicPartition(topic, 0))
            for topic in topics.INPUT_TOPICS
        }
        async with admin_of(broker.bootstrap) as admin:

            async def told() -> bool:
                group = url.name("insurance-fund.main")
                known = await admin.list_consumer_group_offsets(group)
                return {where: one.offset for where, one in known.items()} == ends

            async with asyncio.timeout(HANG_S):
                await until(told)
        process.terminate()
        assert (await fund.ended(process)).code == 0
