"""Reading a partition from its first record to its end, as it is when the reading begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.events.ledger import decode_entry
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


async def ledger_lines(log: LogReader, where: TopicPartition, ledger: str) -> AsyncIterator[bytes]:
    """Yield the lines of a ledger.

    Raises SettingsError where another ledger stands in its place.
    """
    first = True
    async for line in partition_values(log, where):
        if first:
            check_name(line, where, ledger)
            first = False
        yield line


def check_name(line: bytes, where: TopicPartition, ledger: str) -> None:
    """Raise SettingsError where a ledger's first line says that it is another ledger's."""
    try:
        found = decode_entry(line).ledger
    except CorruptionError:
        return  # whoever reads the lines says so, with its place
    if found != ledger:
        raise SettingsError(
            f"place {where.partition} of the log holds ledger {found!r}, not {ledger!r}: the order "
            "of the shards in the settings says where each stands; keep it, and add new ones at "
            "the end"
        )
