"""With one protection taken away, the same checks fail on a real broker: they are not blind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from insurance_fund.events import topics
from insurance_fund.events.errors import FencedError, InsuranceFundError, LogUnavailableError
from insurance_fund.fund.policy import load_policy
from insurance_fund.streams import kafka
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.kafka import UNTOLD, KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.service import assert_log_tells_one_story
from tests.kafka.cluster import Cluster
from tests.kafka.ready import admin_of, until
from tests.kafka.site import SHARD, KafkaSite, open_kafka_site

# Of a topic that takes less than what is sent to it.
SMALL_BYTES: Final = 4_000
LARGE_BYTES: Final = "8000000"
TOO_LARGE: Final = b'{"liquidation_id": "' + b"x" * 2 * SMALL_BYTES
SETTLED_S: Final = 20


class DiedError(Exception):
    """Stands for a death of the process."""


class Dying(Processor):
    """Dies right after its second commit of inputs, before anything else is done."""

    dying = False

    async def _commit(self) -> None:
        inputs = any(where.topic == topics.LIQUIDATIONS for where in self.recovered.positions)
        committing = bool(self._pending) and self.started and inputs
        await super()._commit()
        if committing and self.dying:
            raise DiedError
        if committing:
            await self.note_positions()

    async def note_positions(self) -> None:
        """Do nothing: the positions stand in the ledger."""


class PositionsInGroup(Dying):
    """Keeps its positions as a consumer group's offsets, committed after each transaction."""

    consumer: AIOKafkaConsumer

    async def start(self, progress: Any = None) -> None:
        await super().start(progress)
        self.inputs.next_offsets.clear()
        for topic in topics.INPUT_TOPICS:
            for where in await self.inputs.partitions(topic):
                offset = await self.consumer.committed(self._named(where))
                self.inputs.next_offsets[where] = offset or 0

    async def note_positions(self) -> None:
        offsets = self.inputs.next_offsets.items()
        await self.consumer.commit({self._named(where): offset for where, offset in offsets})

    def _named(self, where: TopicPartition) -> KafkaPartition:
        assert isinstance(self._log, KafkaLog)
        return KafkaPartition(self._log.access.url.name(where.topic), where.partition)


class LateTaker(KafkaLog):
    """Takes its shard only when it first commits, after the ledger was read."""

    _wanted: str | None = None

    async def take(self, shard: str) -> None:
        self._wanted = shard

    async def commit(self, *arguments: Any) -> None:
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            await super().take(wanted)
        await super().commit(*arguments)


class BlindLateTaker(LateTaker):
    """Does not see either that its entries would not stand right behind what it has read."""

    def _check_place(self, *_: Any) -> None:
        pass


class TrustingProducer(AIOKafkaProducer):  # type: ignore[misc]
    """Takes every batch for written, whatever the brokers answer."""

    async def send_batch(self, *arguments: Any, **named: Any) -> Any:
        return asyncio.ensure_future(self._trusting(await super().send_batch(*arguments, **named)))

    async def _trusting(self, answer: asyncio.Future[Any]) -> Any:
        try:
            return await answer
        except KafkaError:
            return SimpleNamespace(offset=UNTOLD)


class Stage:
    """A site, and processors on it in this process."""

    def __init__(self, site: KafkaSite) -> None:
        self.site = site
        self._logs: list[KafkaLog] = []

    def processor(
        self,
        log_class: Callable[[KafkaAccess], KafkaLog] = KafkaLog,
        processor_class: type[Processor] = Processor,
    ) -> Processor:
        """Return a processor of the shard on a log of its own."""
        log = log_class(KafkaAccess(self.site.url))
        self._logs.append(log)
        policy = load_policy(self.site.folder / "policy.json")
        options = Options(policy=policy, until_idle=True)
        return processor_class(log, Shard(SHARD), options, SystemClock())

    async def settle(self, processor: Processor | None = None) -> None:
        """Run a processor until there is nothing left to do."""
        runner = processor or self.processor()
        await runner.start()
        await runner.run()

    async def say(self, takeovers: int = 20) -> None:
        """Append inputs."""
        for _ in range(takeovers):
            await self.site.load.go_on()

    async def close(self) -> None:
        """Let go of the cluster."""
        for log in self._logs:
            await log.close()


@asynccontextmanager
async def open_stage(broker: Cluster, prefix: str, folder: Path) -> AsyncIterator[Stage]:
    chance = random.Random(prefix[:2])  # noqa: S311 - what is said, no secrets
    async with open_kafka_site(broker, prefix, folder, chance) as site:
        stage = Stage(site)
        try:
            yield stage
        finally:
            await stage.close()


@asynccontextmanager
async def positions_of(stage: Stage) -> AsyncIterator[AIOKafkaConsumer]:
    url = stage.site.url
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(url.brokers),
        group_id=url.name("positions"),
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        consumer.assign(
            [
                KafkaPartition(url.name(topic), partition)
                for topic in topics.INPUT_TOPICS
                for partition in await stage.site.log.partitions(topic)
            ]
        )
        yield consumer
    finally:
        await consumer.stop()


@pytest.mark.parametrize("kind", [Dying, PositionsInGroup])
async def test_positions_outside_the_ledger_are_found(
    broker: Cluster, prefix: str, tmp_path: Path, kind: type[Dying]
) -> None:
    async with open_stage(broker, prefix, tmp_path) as stage, positions_of(stage) as consumer:

        def made() -> Dying:
            processor = stage.processor(processor_class=kind)
            assert isinstance(processor, Dying)
            if isinstance(processor, PositionsInGroup):
                processor.consumer = consumer
            return processor

        await stage.say()
        await stage.settle(made())
        await stage.say()
        killed = made()
        killed.dying = True
        with pytest.raises(DiedError):
            await stage.settle(killed)
        await stage.settle(made())
        if kind is Dying:
            await assert_log_tells_one_story(stage.site)
        else:
            with pytest.raises(AssertionError, match="inputs are covered more than once"):
                await assert_log_tells_one_story(stage.site)


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [(KafkaLog, FencedError), (LateTaker, LogUnavailableError), (BlindLateTaker, None)],
)
async def test_reading_the_ledger_before_fencing_is_found(
    broker: Cluster,
    prefix: str,
    tmp_path: Path,
    kind: type[KafkaLog],
    refusal: type[InsuranceFundError] | None,
) -> None:
    async with open_stage(broker, prefix, tmp_path) as stage:
        await stage.say()
        await stage.settle()
        late = stage.processor(kind)
        await late.start()
        await stage.say()
        await stage.settle()
        await stage.say()
        if refusal is not None:
            with pytest.raises(refusal):
                await late.run()
            await stage.settle()
            await assert_log_tells_one_story(stage.site)
        else:
            await late.run()
            with pytest.raises(AssertionError, match=r"entry \d+ stands in the place of entry"):
                await assert_log_tells_one_story(stage.site)


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        (topics.DEAD_LETTERS, "messages are listed but not there"),
        (topics.FUND_LEDGER, "inputs are covered by no entry"),
    ],
)
async def test_commit_without_a_look_at_every_answer_is_found(
    broker: Cluster,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    topic: str,
    words: str,
) -> None:
    await make_small(broker, f"{prefix}.{topic}")
    async with open_stage(broker, prefix, tmp_path) as stage:
        await stage.site.load.publish(topics.FUND_TRANSFERS, TOO_LARGE)
        monkeypatch.setattr(kafka, "AIOKafkaProducer", TrustingProducer)
        await stage.settle()
        with pytest.raises(AssertionError, match=words):
            await assert_log_tells_one_story(stage.site)


async def test_commit_with_a_record_that_is_refused_shows_nothing_until_it_is_taken(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    await make_small(broker, f"{prefix}.{topics.DEAD_LETTERS}")
    async with open_stage(broker, prefix, tmp_path) as stage:
        await stage.settle()
        entries = await stage.site.entries()
        await stage.site.load.publish(topics.FUND_TRANSFERS, TOO_LARGE)
        with pytest.raises(LogUnavailableError, match="a record is too large"):
            await stage.settle()
        assert await stage.site.entries() == entries

        await make_large(broker, stage.site.url, topics.DEAD_LETTERS)

        async def settles() -> bool:
            try:
                await stage.settle()
            except LogUnavailableError:
                return False
            return True

        # The brokers hear of the setting a little later than they answer.
        async with asyncio.timeout(SETTLED_S):
            await until(settles)
        await assert_log_tells_one_story(stage.site)


async def make_small(broker: Cluster, name: str) -> None:
    """Make a topic that takes small records only; whoever makes the others leaves it so."""
    settings = {"max.message.bytes": str(SMALL_BYTES)}
    new = NewTopic(name, 1, broker.replication, topic_configs=settings)
    async with admin_of(broker.bootstrap) as admin:
        answer = await admin.create_topics([new])
        assert answer.topic_errors[0][1] == 0, answer


async def make_large(broker: Cluster, url: KafkaUrl, topic: str) -> None:
    """Let a topic take large records from now on."""
    settings = {"max.message.bytes": LARGE_BYTES}
    resource = ConfigResource(ConfigResourceType.TOPIC, url.name(topic), configs=settings)
    async with admin_of(broker.bootstrap) as admin:
        await admin.alter_configs([resource])
