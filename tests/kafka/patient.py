"""Clients that outlive what befalls the brokers: what fails is tried again by new ones."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiokafka.conn import AIOKafkaConnection

from insurance_fund.events.errors import LogUnavailableError
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import Batch, NewRecord, TopicPartition
from insurance_fund.streams.urls import KafkaUrl

RETRY_S = 0.1
_T = TypeVar("_T")


def close_forgotten_connections() -> None:
    """Close what clients have left open that were given up while they connected."""
    for one in gc.get_objects():
        if isinstance(one, AIOKafkaConnection):
            one.close()


class PatientLog:
    """Reads and publishes until it has an answer; `tried` counts what may have been appended."""

    def __init__(self, url: KafkaUrl) -> None:
        self._access = KafkaAccess(url)
        self._log = KafkaLog(self._access)
        self.tried: Counter[tuple[TopicPartition, bytes | None]] = Counter()

    async def _patiently(self, call: Callable[[KafkaLog], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await call(self._log)
            except LogUnavailableError:
                await self.close()
                self._log = KafkaLog(self._access)
                await asyncio.sleep(RETRY_S)

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic."""
        return await self._patiently(lambda log: log.partitions(topic))

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record."""
        return await self._patiently(lambda log: log.first_offset(where))

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the high watermark."""
        return await self._patiently(lambda log: log.end_offset(where))

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return committed records from an offset on."""
        return await self._patiently(lambda log: log.read(where, offset, records_max))

    async def wait(self, timeout_s: float) -> None:
        """Wait for records, or for so long."""
        await self._patiently(lambda log: log.wait(timeout_s))

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic; each stands there once, or as often as it was tried."""

        async def once(log: KafkaLog) -> None:
            for one in records:
                self.tried[TopicPartition(topic, one.partition), one.value] += 1
            await log.publish(topic, records)

        await self._patiently(once)

    async def close(self) -> None:
        """Let go of the cluster; what was not acknowledged yet is not sent any more."""
        publisher = self._log._publisher
        await self._log.close()
        if publisher is not None:
            # Without brokers it does not come to its end by itself.
            await publisher._sender.close()
            await publisher.client.close()
