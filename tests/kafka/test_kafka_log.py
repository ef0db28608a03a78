"""The Kafka log: the contract of the port on a real broker, and what only a cluster can do."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition as KafkaPartition

from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.log_contract import LogContract, Logs
from tests.kafka.cluster import Cluster
from tests.kafka.ready import admin_of

ROOT = Path(__file__).parents[2]


class KafkaLogs(Logs):
    """A cluster, as one test sees it: topics of its own prefix."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster = cluster
        self.url = KafkaUrl(tuple(cluster.bootstrap.split(",")), prefix)
        self._opened: list[KafkaLog] = []

    def opened_log(self) -> KafkaLog:
        """Return a new connection of which the test may use every side."""
        log = KafkaLog(KafkaAccess(self.url))
        self._opened.append(log)
        return log

    async def reader(self) -> KafkaLog:
        return self.opened_log()

    async def writer(self) -> KafkaLog:
        return self.opened_log()

    async def publisher(self) -> KafkaLog:
        return self.opened_log()

    async def make_topic(self, topic: str, partitions: int) -> None:
        settings = {"max.message.bytes": str(5 * 1024 * 1024)}
        await self.cluster.make_topic(self.url.name(topic), partitions, settings)

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        named = KafkaPartition(self.url.name(where.topic), where.partition)
        async with admin_of(self.cluster.bootstrap) as admin:
            await admin.delete_records({named: RecordsToDelete(before_offset=offset)})

    @asynccontextmanager
    async def uncommitted(self, where: TopicPartition, value: bytes) -> AsyncIterator[None]:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.cluster.bootstrap, transactional_id=f"{self.url.prefix}.open"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(
                self.url.name(where.topic), value, partition=where.partition
            )
            yield
            await producer.abort_transaction()
        finally:
            await producer.stop()

    @asynccontextmanager
    async def committing_elsewhere(self, transactions: int) -> AsyncIterator[None]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.embedded.appender"),
            *(f"kafka://{self.cluster.bootstrap}/{self.url.prefix}",),
            *("--transactions", str(transactions)),
            cwd=ROOT,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            yield
            _, errors = await process.communicate()
            assert (process.returncode, errors) == (0, b"")
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Close every connection."""
        for log in self._opened:
            await log.close()


@pytest.fixture
async def logs(broker: Cluster, prefix: str) -> AsyncIterator[KafkaLogs]:
    opened = KafkaLogs(broker, prefix)
    yield opened
    await opened.close()


class TestKafkaLogKeepsTheContract(LogContract):
    """The cases that hold for every adapter."""
