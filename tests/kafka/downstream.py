"""A fund's output on a broker, written by a plain producer, for those who read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from insurance_fund.events import topics
from insurance_fund.events.ledger import decode_entry
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.state import State
from insurance_fund.streams.log import NewRecord, Outbound
from insurance_fund.streams.outbox import Outbox
from tests.kafka.cluster import Cluster
from tests.kafka.ready import admin_of

RECORDED: Final = Path(__file__).parents[1] / "unit" / "recorded_ledger.ndjson"
LEDGER: Final = "main"
PARTITIONS: Final = {topics.FUND_LEDGER: 1, topics.ADL_TRIGGERS: 2}
ANSWER_S: Final = 30


class Step(NamedTuple):
    """An entry and the ADL messages that are committed with it."""

    entry: bytes
    triggers: Sequence[Outbound]

    def outbound(self) -> list[Outbound]:
        """Return all that is to be sent."""
        record = NewRecord(0, LEDGER.encode(), self.entry)
        return [Outbound(topics.FUND_LEDGER, record), *self.triggers]


def recorded_steps() -> list[Step]:
    """Return the recorded ledger, entry by entry, with its ADL messages."""
    keeper, steps = Bookkeeper(LEDGER, State()), []
    outbox = Outbox(LEDGER, {topic: PARTITIONS.get(topic, 1) for topic in topics.OUTPUT_TOPICS})
    for line in RECORDED.read_bytes().splitlines():
        written = keeper.again(decode_entry(line))
        assert written.line == line
        sent = [outbox.outbound(message) for message in written.messages]
        steps.append(Step(line, [one for one in sent if one.topic == topics.ADL_TRIGGERS]))
    return steps


class Downstream:
    """The topics of one fund, under a prefix of their own."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster = cluster
        self.prefix = prefix

    async def create(self) -> None:
        """Make the topics."""
        new = [
            NewTopic(f"{self.prefix}.{topic}", partitions, self.cluster.replication)
            for topic, partitions in PARTITIONS.items()
        ]
        async with admin_of(self.cluster.bootstrap) as admin:
            answer = await admin.create_topics(new)
        assert [error[1] for error in answer.topic_errors] == [0, 0]

    def producer(self) -> AIOKafkaProducer:
        """Return a transactional producer, to be entered."""
        return AIOKafkaProducer(
            bootstrap_servers=self.cluster.bootstrap,
            transactional_id=f"{self.prefix}.insurance-fund.{LEDGER}",
        )

    async def write(
        self, producer: AIOKafkaProducer, steps: Sequence[Step], *, abort: bool = False
    ) -> None:
        """Send steps in one transaction, and abort it on demand once all of it is in the log."""
        async with asyncio.timeout(ANSWER_S):
            await producer.begin_transaction()
            for topic, record in (one for step in steps for one in step.outbound()):
                await producer.send_and_wait(
                    f"{self.prefix}.{topic}",
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
            if abort:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
