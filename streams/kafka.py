"""The log on Apache Kafka: the adapter of the port.

One fixed transactional id a shard: whoever starts a producer with it fences all before. One
transaction holds entries and what is sent with them. Every record's own answer is looked at before
the commit, because a commit succeeds after a batch of it has failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from insurance_fund.events.errors import (
    CommitUnknownError,
    FencedError,
    InsuranceFundError,
    LogUnavailableError,
)
from insurance_fund.streams import kafka_causes, kafka_trouble
from insurance_fund.streams.kafka_access import TRANSACTION_MS, KafkaAccess
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.log import NewRecord, Outbound, TopicPartition, by_partition

# What ledger, dead letters and snapshots take; a topic must allow as much.
RECORD_BYTES_MAX: Final = 4 * 1024 * 1024
# Records of one partition go out in batches of this size: many a request, few a large record.
BATCH_BYTES: Final = 1024 * 1024
# A commit is answered before its markers stand. A transaction that begins sooner is sent back, and
# the client tries again this much later; so the pause between the two finds its own length.
SENT_BACK_S: Final = 0.02
PAUSE_S_MIN: Final = 0.001
PAUSE_S_MAX: Final = 0.01
ABORT_S: Final = 2.0
# The client numbers the records of a partition in 32 bits, and does not begin anew rightly.
RECORDS_MAX: Final = 1_000_000_000
# The offset of a batch that was sent twice and had arrived at first, if that was long ago.
UNTOLD: Final = -1


class KafkaLog(KafkaReader):
    """Reader, writer and publisher of one cluster; every part connects when it is first used."""

    def __init__(self, access: KafkaAccess) -> None:
        super().__init__(access)
        self._producer: AIOKafkaProducer | None = None
        self._publisher: AIOKafkaProducer | None = None
        self._committed_s = float("-inf")
        self._pause_s = 2 * PAUSE_S_MIN
        self._records = 0

    async def take(self, shard: str) -> None:
        """Become the writer of a shard: older writers of it can no longer commit."""
        name = self.access.url.name(f"insurance-fund.{shard}")
        if self._producer is not None:
            await kafka_trouble.let_go(self._producer.stop())
        self._producer = await self._start(
            f"taking shard {shard}", transactional_id=name, transaction_timeout_ms=TRANSACTION_MS
        )
        self._records = 0

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        """Append entries and outgoing messages in one atomic transaction.

        Raises FencedError where a newer writer took the shard, LogUnavailableError where nothing
        became visible, CommitUnknownError where it cannot be told whether the transaction happened.
        """
        if any(entry.partition != ledger.partition for entry in entries):
            raise ValueError(f"an entry of another partition than {ledger}")
        producer = self._producer
        if producer is None:
            raise RuntimeError("take a shard before the first commit")
        groups = by_partition((message.topic, message.record) for message in messages)
        groups.setdefault(ledger, []).extend(entries)
        self._count(len(entries) + len(messages))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._committed_s + self._pause_s - loop.time())
        started_s = time.monotonic()
        try:
            async with kafka_trouble.answered(self.access, "committing", commit=True):
                await producer.begin_transaction()
                offsets = await self._send_all(producer, groups)
                self._find_pause(time.monotonic() - started_s)
                self._check_place(ledger, offsets)
                await producer.commit_transaction()
        except (FencedError, LogUnavailableError) as error:
            _hear_end(producer)
            if isinstance(error, LogUnavailableError):
                await self._abort(producer)
            raise
        if kafka_causes.was_heard("EndTxn", started_s):
            # It was sent twice. The first may be on its way still, and would end the transaction
            # after this one half done.
            raise CommitUnknownError(f"{self.access}: a commit was answered late: start again")
        self._move(ledger, offsets, len(entries))
        self._committed_s = loop.time()

    def _find_pause(self, sending_s: float) -> None:
        if sending_s >= SENT_BACK_S:
            self._pause_s = min(1.25 * self._pause_s, PAUSE_S_MAX)
        else:
            self._pause_s = max(0.995 * self._pause_s, PAUSE_S_MIN)

    def _count(self, records: int) -> None:
        self._records += records
        if self._records > RECORDS_MAX:
            raise LogUnavailableError(
                f"{self.access}: this process has written {RECORDS_MAX:,} records, as many as the "
                "client can number: start again"
            )

    def _check_place(self, ledger: TopicPartition, offsets: dict[TopicPartition, int]) -> None:
        """Raise LogUnavailableError where entries would not stand right behind what was read.

        Then the ledger was read from a broker that was behind, was made anew, or somebody else has
        written to it; nothing is committed, and a start reads what is true.
        """
        expected, offset = self._read_to.get(ledger), offsets.get(ledger, UNTOLD)
        if expected is not None and offset not in (expected, UNTOLD):
            raise LogUnavailableError(
                f"{self.access}: the next entry of {ledger} would stand at offset {offset}, and it "
                f"was read to offset {expected}: nothing was committed. Did somebody else write to "
                "it, or was it made anew? Start again; if it comes back, see `verify`"
            )

    def _move(
        self, ledger: TopicPartition, offsets: dict[TopicPartition, int], entries: int
    ) -> None:
        """Note how far the ledger reaches now; behind the entries stands the commit's marker."""
        offset = offsets.get(ledger, UNTOLD)
        if offset == UNTOLD:
            self._read_to.pop(ledger, None)
        else:
            self._read_to[ledger] = offset + entries + 1

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic; each partition's come in their order."""
        if self._publisher is None:
            self._publisher = await self._start("connecting", enable_idempotence=True)
        groups = by_partition((topic, record) for record in records)
        try:
            self._count(len(records))
            async with self._answered(f"publishing to {topic}"):
                await self._send_all(self._publisher, groups)
        except BaseException:
            # After a failed batch it refuses all that come.
            publisher, self._publisher = self._publisher, None
            await kafka_trouble.let_go(publisher.stop())
            raise

    async def close(self) -> None:
        """Let go of the cluster; a transaction that is open is left to be fenced."""
        for producer in (self._producer, self._publisher):
            if producer is not None:
                await kafka_trouble.let_go(producer.stop())
        self._producer = self._publisher = None
        await super().close()

    async def _start(self, doing: str, **options: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._client_options(),
            acks="all",
            max_request_size=2 * RECORD_BYTES_MAX,
            max_batch_size=BATCH_BYTES,
            **options,
        )
        await kafka_trouble.connect(self.access, producer.start(), producer.stop, doing)
        return producer

    async def _send_all(
        self, producer: AIOKafkaProducer, groups: dict[TopicPartition, list[NewRecord]]
    ) -> dict[TopicPartition, int]:
        """Send, and see every batch answered; one that fails fails all.

        Returns the offset of each partition's first record, UNTOLD where the brokers do not say.
        """
        answers: dict[asyncio.Future[Any], TopicPartition] = {}
        sends = [self._send(producer, where, of, answers) for where, of in groups.items()]
        sent = await asyncio.gather(*sends, return_exceptions=True)
        answered = await asyncio.gather(*answers, return_exceptions=True)
        failed = [one for one in sent if isinstance(one, BaseException)]
        offsets: dict[TopicPartition, int] = {}
        for where, one in zip(answers.values(), answered, strict=True):
            if isinstance(one, BaseException):
                failed.append(kafka_trouble.naming(self.access.topic(where.topic), one))
            else:
                offsets.setdefault(where, one.offset)
        if failed:
            raise kafka_trouble.most_telling(failed)
        return offsets

    async def _send(
        self,
        producer: AIOKafkaProducer,
        where: TopicPartition,
        records: Iterable[NewRecord],
        answers: dict[asyncio.Future[Any], TopicPartition],
    ) -> None:
        """Hand records over in batches; what will be their answers is added to `answers`."""
        topic = self.access.topic(where.topic)
        batch, empty = producer.create_batch(), True

        async def hand_over() -> None:
            while True:
                try:
                    answer = await producer.send_batch(batch, topic, partition=where.partition)
                except KafkaTimeoutError:
                    # The batch before it is on its way still; the deadline is the caller's.
                    continue
                answers[answer] = where
                return

        for record in records:
            fields = {
                "timestamp": record.timestamp_ms,
                "key": record.key,
                "value": record.value,
                "headers": list(record.headers),
            }
            if batch.append(**fields) is None:
                await hand_over()
                batch = producer.create_batch()
                batch.append(**fields)
            empty = False
        if not empty:
            await hand_over()

    async def _abort(self, producer: AIOKafkaProducer) -> None:
        # So that readers need not wait until the brokers give the transaction up.
        try:
            async with kafka_trouble.answered(self.access, "aborting", deadline_s=ABORT_S):
                await producer.abort_transaction()
        except InsuranceFundError:
            pass


def _hear_end(producer: AIOKafkaProducer) -> None:
    """Take note of how a transaction ended: the client drops it unseen, of which asyncio warns."""
    ended = producer._txn_manager.wait_for_transaction_end()  # noqa: SLF001 - nothing else tells it
    if ended is not None and ended.done() and not ended.cancelled():
        ended.exception()
