"""Group offsets for those who watch lag. Nothing depends on them: positions stand in the ledger.

They are told to the group `insurance-fund.<shard>` by a client of its own, whose failures are only
logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition

from insurance_fund.events.errors import InsuranceFundError
from insurance_fund.streams import kafka_trouble
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import TopicPartition

_log = logging.getLogger(__name__)

EVERY_S: Final = 5.0


async def tell_offsets(
    access: KafkaAccess, shard: str, positions: Callable[[], Mapping[TopicPartition, int]]
) -> None:
    """Tell the brokers every few seconds how far a shard has read, until cancelled.

    `positions` gives the next offset of each input partition.
    """
    consumer: AIOKafkaConsumer | None = None
    told: Mapping[KafkaPartition, int] = {}
    try:
        while True:
            offsets = {
                KafkaPartition(access.topic(where.topic), where.partition): offset
                for where, offset in positions().items()
            }
            try:
                if offsets and offsets != told:
                    consumer = consumer or await _joined(access, shard)
                    await _tell(access, consumer, offsets)
                    told = offsets
            except InsuranceFundError as error:
                _log.warning("shard %s: group offsets are not told: %s", shard, error)
            await asyncio.sleep(EVERY_S)
    finally:
        if consumer is not None:
            await kafka_trouble.let_go(consumer.stop())


async def _joined(access: KafkaAccess, shard: str) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        **access.options(),
        group_id=access.url.name(f"insurance-fund.{shard}"),
        enable_auto_commit=False,
        auto_offset_reset="latest",
    )
    await kafka_trouble.connect(access, consumer.start(), consumer.stop)
    return consumer


async def _tell(
    access: KafkaAccess, consumer: AIOKafkaConsumer, offsets: Mapping[KafkaPartition, int]
) -> None:
    if consumer.assignment() != set(offsets):
        consumer.assign(list(offsets))
        # It is to read nothing.
        consumer.pause(*offsets)
    async with kafka_trouble.answered(access, "telling group offsets"):
        await consumer.commit(dict(offsets))
