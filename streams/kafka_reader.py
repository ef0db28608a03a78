"""Reading from Kafka: the reader side of the log port.

One consumer follows the partitions that are read, without a group: positions are the caller's. A
second one, which reads nothing, tells the ends of partitions including what is not committed yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import OffsetOutOfRangeError

from insurance_fund.events.errors import LogUnavailableError
from insurance_fund.events.topics import FUND_SNAPSHOTS
from insurance_fund.streams import kafka_causes, kafka_trouble
from insurance_fund.streams.kafka_access import DEADLINE_S, KafkaAccess
from insurance_fund.streams.log import Batch, Record, TopicPartition

# How long a broker holds a fetch that finds nothing. Other requests wait behind it.
FETCH_WAIT_MS: Final = 20
# A partition's share of a fetch; a larger record comes alone.
FETCH_BYTES: Final = 4 * 1024 * 1024
# So long it is taken for known which partitions there are and where those that are read end: new
# ones are found within it, and so is a topic that was deleted or from which nothing comes any more.
KNOWN_S: Final = 10.0
# A topic that is not there is looked for again sooner.
MISSING_S: Final = 1.0
STALLED_MS: Final = 200

# A record of the client as one of ours, without a call of ours for each.
_parts = attrgetter("offset", "timestamp", "key", "value")
_record = partial(tuple.__new__, Record)


@dataclass(slots=True)
class _Followed:
    """A partition that is read: what was fetched for it, and where its next read begins."""

    offset: int
    ready: list[Record] = field(default_factory=list)
    # The largest end that the caller knows of: in front of it a read waits for what is on its way.
    end: int = 0
    touched: bool = True


class KafkaReader:
    """Reads committed records of a cluster; for one task, as what was fetched is kept here."""

    def __init__(self, access: KafkaAccess) -> None:
        self.access = access
        self._options: dict[str, Any] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._plain: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._followed: dict[TopicPartition, _Followed] = {}
        # How far each partition was read.
        self._read_to: dict[TopicPartition, int] = {}
        # What the cluster has, and what of it was asked for: that must not vanish.
        self._partitions: dict[str, list[int]] = {}
        self._asked: set[str] = set()
        self._known_at_s = float("-inf")

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising; empty where the topic does not exist."""
        name = self.access.topic(topic)
        if self._age_s() > (KNOWN_S if name in self._partitions else MISSING_S):
            await self._look_up()
        self._rely_on(topic)
        return self._partitions.get(name, [])

    def _rely_on(self, topic: str) -> None:
        # Nothing hangs on snapshots.
        if topic != FUND_SNAPSHOTS:
            self._asked.add(self.access.topic(topic))

    def _age_s(self) -> float:
        return time.monotonic() - self._known_at_s

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record that is retained."""
        consumer, named = await self._plain_consumer(), self._named(where)
        async with self._answered(f"asking where {where} begins"):
            found = await kafka_trouble.patiently(lambda: consumer.beginning_offsets([named]))
            return int(found[named])

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the offset that the next record will have at least (the high watermark)."""
        end = await self._end_of(await self._plain_consumer(), where)
        followed = self._followed.get(where)
        if followed is not None:
            followed.end = max(followed.end, end)
        return end

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return up to `records_max` committed records from `offset` on, none at the end.

        Raises LogUnavailableError for an offset that is no longer, or not yet, in the log.
        """
        if records_max < 1:
            raise ValueError(records_max)
        try:
            followed = await self._follow(where, offset)
            followed.touched = True
            if not followed.ready:
                await self._fetch(where, followed)
        except LogUnavailableError:
            # What goes wrong with it shall not come up again when others are read.
            self._forget(where)
            raise
        ready = followed.ready
        records, followed.ready = ready[:records_max], ready[records_max:]
        if followed.ready:
            followed.offset = records[-1].offset + 1
        else:
            followed.offset = await self._position(where)
        self._read_to[where] = max(followed.offset, self._read_to.get(where, 0))
        return Batch(records, followed.offset)

    async def wait(self, timeout_s: float) -> None:
        """Return when something came to what was read since the last wait, or after `timeout_s`."""
        consumer = await self._committed_consumer()
        if self._age_s() > KNOWN_S:
            await self._look_up()
        idle = [where for where, followed in self._followed.items() if not followed.touched]
        for where in idle:
            del self._followed[where]
        if idle:
            self._assign(consumer)
        for followed in self._followed.values():
            followed.touched = False
        if any(followed.ready for followed in self._followed.values()):
            await asyncio.sleep(0)
            return
        if not self._followed:
            await asyncio.sleep(timeout_s)
            return
        await self._get(list(self._followed), round(timeout_s * 1000))

    async def close(self) -> None:
        """Let go of the cluster."""
        for client in (self._consumer, self._plain):
            if client is not None:
                await kafka_trouble.let_go(client.stop())
        if self._admin is not None:
            await kafka_trouble.let_go(self._admin.close())
        self._consumer = self._plain = self._admin = None

    def _answered(
        self, doing: str, deadline_s: float = DEADLINE_S
    ) -> AbstractAsyncContextManager[None]:
        return kafka_trouble.answered(self.access, doing, deadline_s=deadline_s)

    def _client_options(self) -> dict[str, Any]:
        if self._options is None:
            kafka_causes.listen()
            self._options = self.access.options()
        return self._options

    def _named(self, where: TopicPartition) -> KafkaPartition:
        return KafkaPartition(self.access.topic(where.topic), where.partition)

    async def _committed_consumer(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await self._started("read_committed")
        return self._consumer

    async def _plain_consumer(self) -> AIOKafkaConsumer:
        if self._plain is None:
            self._plain = await self._started("read_uncommitted")
        return self._plain

    async def _started(self, isolation_level: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation_level,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await kafka_trouble.connect(self.access, consumer.start(), consumer.stop)
        return consumer

    async def _look_up(self) -> None:
        """Ask which topics there are; asking for all of them makes none, whatever the brokers do.

        Any broker may answer; one that has just died is asked again until another is.
        """
        if self._admin is None:
            admin = AIOKafkaAdminClient(**self._client_options())
            await kafka_trouble.connect(self.access, admin.start(), admin.close)
            self._admin = admin
        async with self._answered("asking for the topics"):
            topics = await kafka_trouble.patiently(self._admin.describe_topics)
        found = {
            topic["topic"]: sorted(partition["partition"] for partition in topic["partitions"])
            for topic in topics
            if not topic["error_code"]
        }
        for name in self._asked:
            gone = set(self._partitions.get(name, ())) - set(found.get(name, ()))
            if gone:
                raise LogUnavailableError(
                    f"{self.access}: {name}:{min(gone)} is gone: the topic was deleted while this "
                    "ran, or this user may no longer see it; bring it back, then start again"
                )
        self._partitions, self._known_at_s = found, time.monotonic()
        for where, followed in self._followed.items():
            # From now on a read waits for what is there, and says so if it does not come.
            if await self.end_offset(where) < followed.offset:
                raise self._out_of_reach(where, followed.offset, 0)

    async def _end_of(self, consumer: AIOKafkaConsumer, where: TopicPartition) -> int:
        named = self._named(where)
        async with self._answered(f"asking where {where} ends"):
            found = await kafka_trouble.patiently(lambda: consumer.end_offsets([named]))
            return int(found[named])

    async def _follow(self, where: TopicPartition, offset: int) -> _Followed:
        followed = self._followed.get(where)
        if followed is not None and followed.offset == offset:
            return followed
        consumer = await self._committed_consumer()
        first, end = await self.first_offset(where), await self.end_offset(where)
        if not first <= offset <= end:
            raise self._out_of_reach(where, offset, first)
        self._rely_on(where.topic)
        known = followed is not None
        followed = self._followed[where] = _Followed(offset, end=end)
        if known:
            consumer.seek(self._named(where), offset)
        else:
            self._assign(consumer)
        if offset >= end:
            await self._see_that_we_may(where, consumer)
        return followed

    async def _see_that_we_may(self, where: TopicPartition, consumer: AIOKafkaConsumer) -> None:
        """Wait for the first answer of an empty partition: nothing else tells that we may read it.

        Without it, entries are written to a ledger that the next start cannot read.
        """
        async with self._answered(f"reading {where}"):
            while consumer.highwater(self._named(where)) is None:
                await self._get([where], FETCH_WAIT_MS)

    def _out_of_reach(self, where: TopicPartition, offset: int, first: int) -> LogUnavailableError:
        if offset < first:
            return LogUnavailableError(
                f"{where} of {self.access} begins at offset {first}, offset {offset} was deleted: "
                "it went by retention, or somebody deleted it"
            )
        return LogUnavailableError(
            f"{where} of {self.access} ends in front of offset {offset}: was the topic made anew, "
            "or is this another cluster?"
        )

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        """Tell the consumer what is followed; it forgets its positions over it."""
        consumer.assign([self._named(where) for where in self._followed])
        for where, followed in self._followed.items():
            behind = followed.ready[-1].offset + 1 if followed.ready else followed.offset
            consumer.seek(self._named(where), behind)

    def _forget(self, where: TopicPartition) -> None:
        if self._followed.pop(where, None) is not None and self._consumer is not None:
            self._assign(self._consumer)

    async def _position(self, where: TopicPartition) -> int:
        consumer = await self._committed_consumer()
        async with self._answered(f"reading {where}"):
            return int(await consumer.position(self._named(where)))

    async def _fetch(self, where: TopicPartition, followed: _Followed) -> None:
        await self._get([where], 0)
        if followed.ready or await self._position(where) >= followed.end:
            return
        # There is something in front of the known end: committed, on its way, or not yet readable.
        readable = await self._end_of(await self._committed_consumer(), where)
        async with self._answered(f"reading {where} up to offset {readable}"):
            while not followed.ready and await self._position(where) < readable:
                # Of all: nothing is fetched from a broker from which something lies there untaken.
                await self._get(list(self._followed), STALLED_MS)

    async def _get(self, wanted: Sequence[TopicPartition], timeout_ms: int) -> None:
        """Move all that the consumer has for some partitions to where it is read from.

        Then it fetches on, while what was moved is worked on.
        """
        consumer = await self._committed_consumer()
        named = {self._named(where): where for where in wanted}
        doing = f"reading {', '.join(map(str, wanted))}"
        async with self._answered(doing, deadline_s=timeout_ms / 1000 + DEADLINE_S):
            try:
                got = await consumer.getmany(*named, timeout_ms=timeout_ms)
            except OffsetOutOfRangeError as error:
                (offsets,) = error.args
                found, offset = next(iter(offsets.items()))
                where = named.get(found, wanted[0])
                first = await self.first_offset(where)
                raise self._out_of_reach(where, offset, first) from error
        for found, records in got.items():
            self._followed[named[found]].ready += map(_record, map(_parts, records))
