"""Copying a log in memory into a log that lasts, record by record at the same offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from insurance_fund.events import topics
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import (
    LogPublisher,
    LogWriter,
    NewRecord,
    Outbound,
    TopicPartition,
)
from insurance_fund.streams.simulator.broker import Broker

RECORDS_A_COMMIT: Final = 10_000


class Target(LogWriter, LogPublisher, Protocol):
    """A log that can be written to from both sides."""


async def copy_log(source: Broker, target: Target, shard: Shard) -> None:
    """Copy all topics into a log that has no record yet: first inputs, then what came of them.

    Entries and the messages that they list are committed together. Raises ValueError where the
    source has holes in its offsets, which the copy would not have.
    """
    for topic in topics.INPUT_TOPICS:
        records = _records(source, topic)
        for start in range(0, len(records), RECORDS_A_COMMIT):
            await target.publish(topic, records[start : start + RECORDS_A_COMMIT])
    messages = [
        Outbound(topic, record)
        for topic in topics.OUTPUT_TOPICS
        for record in _records(source, topic)
    ]
    messages.sort(key=_sequence)
    entries = _records(source, topics.FUND_LEDGER)
    await target.take(shard.name)
    ledger, copied = TopicPartition(topics.FUND_LEDGER, shard.index), 0
    for start in range(0, len(entries), RECORDS_A_COMMIT):
        batch = entries[start : start + RECORDS_A_COMMIT]
        end = copied
        while end < len(messages) and _sequence(messages[end]) < start + len(batch):
            end += 1
        await target.commit(ledger, batch, messages[copied:end])
        copied = end


def _records(source: Broker, topic: str) -> Sequence[NewRecord]:
    records = []
    for partition in source.partitions(topic):
        appended = source.appended_to(TopicPartition(topic, partition))
        for offset, (record, headers) in enumerate(appended):
            if record.offset != offset:
                raise ValueError(f"{topic}:{partition} has no record at offset {offset}")
            new = NewRecord(partition, record.key, record.value, headers, record.timestamp_ms)
            records.append(new)
    return records


def _sequence(message: Outbound) -> int:
    sequence: int = orjson.loads(message.record.value or b"{}")["sequence"]
    return sequence
