"""Membership: which shards this host runs, as the consumer group of all hosts agrees.

The group is one on the ledger topic, whose partition is the shard's number. It decides who starts a
shard, never who may write: that is the fence of the log. Nothing is read by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import InvalidSessionTimeoutError

from insurance_fund.events import topics
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.streams import kafka_causes, kafka_trouble
from insurance_fund.streams.kafka_access import KafkaAccess

GROUP: Final = "insurance-fund"
HEARTBEAT_MS: Final = 2_000
# All members come back within a session; so many later something is wrong with ours.
REJOIN_SESSIONS: Final = 3
LEAVE_S: Final = 2.0
POLL_S: Final = 0.5


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """This host's place in the group.

    A host that says nothing for `session_ms` is taken for dead by the brokers.
    """

    def __init__(self, access: KafkaAccess, session_ms: int) -> None:
        self._access = access
        self._session_ms = session_ms
        self._rejoin_s = REJOIN_SESSIONS * session_ms / 1000
        self._consumer: AIOKafkaConsumer | None = None
        self._revoked_s: float | None = None
        self.assigned: frozenset[int] = frozenset()
        self.generation = 0
        self.changed = asyncio.Event()

    async def join(self) -> None:
        """Join the group; what is assigned to this host comes later.

        Raises LogUnavailableError where the brokers cannot be reached or refuse us.
        """
        kafka_causes.listen()
        consumer = AIOKafkaConsumer(
            **self._access.options(),
            group_id=self._access.url.name(GROUP),
            partition_assignment_strategy=(StickyPartitionAssignor,),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, self._session_ms // 3),
        )
        self._consumer, self._revoked_s = consumer, time.monotonic()
        async with kafka_trouble.answered(self._access, "joining the group"):
            await consumer.start()
        consumer.subscribe([self._access.url.name(topics.FUND_LEDGER)], listener=self)

    async def poll(self) -> None:
        """Stay a member; to be called every second, else the group takes this host for stuck.

        Raises LogUnavailableError where our shards were taken back and none were given in time,
        SettingsError for a session that the brokers do not allow.
        """
        assert self._consumer is not None, "join first"
        if self._revoked_s is not None and time.monotonic() - self._revoked_s > self._rejoin_s:
            cause = kafka_causes.cause_since(self._revoked_s)
            raise LogUnavailableError(
                f"{self._access}: no shards were given to this host for {self._rejoin_s:g} s"
                + (f": {cause}" if cause else "")
            )
        async with kafka_trouble.answered(self._access, "staying in the group"):
            try:
                # What is assigned is paused, so that this brings nothing. While shards are shared
                # out it waits for ours; how long that may take is not for it to say.
                async with asyncio.timeout(POLL_S):
                    await self._consumer.getmany(timeout_ms=0)
            except TimeoutError:
                pass
            except InvalidSessionTimeoutError as error:
                raise SettingsError(
                    f"kafka_session_ms = {self._session_ms}: the brokers do not allow it: see "
                    "their group.min.session.timeout.ms and group.max.session.timeout.ms"
                ) from error

    async def leave(self) -> None:
        """Leave the group, so that the others need not wait for this host."""
        if self._consumer is not None:
            await kafka_trouble.let_go(self._consumer.stop(), LEAVE_S)
            self._consumer = None

    def on_partitions_revoked(self, _revoked: Collection[KafkaPartition]) -> None:
        """Note since when nothing is assigned; nobody is stopped for that."""
        self._revoked_s = time.monotonic()

    def on_partitions_assigned(self, assigned: Collection[KafkaPartition]) -> None:
        """Take note of what this host is to run now."""
        assert self._consumer is not None
        self._consumer.pause(*assigned)
        # Nobody else tells it, and without it a host that was taken for dead claims back as much as
        # those who run its shards now.
        StickyPartitionAssignor.on_generation_assignment(
            self._consumer._coordinator.generation  # noqa: SLF001 - it stands nowhere else
        )
        self._revoked_s = None
        self.assigned = frozenset(one.partition for one in assigned)
        self.generation += 1
        self.changed.set()
