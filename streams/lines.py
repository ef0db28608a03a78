"""Reading a partition from its first record to its end, as it is when the reading begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from insurance_fund.streams.log import LogReader, TopicPartition

READ_MAX: Final = 10_000


async def partition_values(log: LogReader, where: TopicPartition) -> AsyncIterator[bytes]:
    """Yield the values of a partition, empty for null; of a ledger these are its lines."""
    if where.partition not in await log.partitions(where.topic):
        return
    offset, end = await log.first_offset(where), await log.end_offset(where)
    while offset < end:
        batch = await log.read(where, offset, READ_MAX)
        for record in batch.records:
            yield record.value or b""
        offset = batch.next_offset
