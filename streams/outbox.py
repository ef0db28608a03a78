"""Outgoing messages as records: partition by key, and CloudEvents headers."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from insurance_fund.events import topics
from insurance_fund.events.fields import TIME_MS_MAX
from insurance_fund.fund.bookkeeper import Message
from insurance_fund.streams.log import LogReader, NewRecord, Outbound
from insurance_fund.streams.partitions import count_partitions, partition_of

CE_SOURCE: Final = "/insurance-fund/"
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Outbox:
    """Knows the ledger that messages come from, and how many partitions each topic has."""

    ledger: str
    partitions: Mapping[str, int]

    @classmethod
    async def of(cls, log: LogReader, ledger: str) -> Self:
        """Look up the output topics of a log; one that is not there yet gets one partition."""
        return cls(ledger, await count_partitions(log, topics.OUTPUT_TOPICS))

    def outbound(self, message: Message) -> Outbound:
        """Return a message as a record; the same key always goes to the same partition."""
        key = message.key.encode()
        partition = partition_of(key, self.partitions[message.topic])
        record = NewRecord(partition, key, message.value, self._headers(message))
        return Outbound(message.topic, record)

    def _headers(self, message: Message) -> tuple[tuple[str, bytes], ...]:
        # CloudEvents 1.0, Kafka protocol binding, binary content mode. A deadline may fall due
        # after the last year that can be written.
        time_ms = min(message.event_time_ms, TIME_MS_MAX)
        time = EPOCH + datetime.timedelta(milliseconds=time_ms)
        return (
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_id", message.event_id.encode()),
            ("ce_source", f"{CE_SOURCE}{self.ledger}".encode()),
            ("ce_type", f"insurance_fund.{message.type}".encode()),
            ("ce_time", time.isoformat(timespec="milliseconds").encode()),
        )
