"""Reading a partition to its end, as it is when the reading begins."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

from insurance_fund.events.errors import CorruptionError, LogUnavailableError, SettingsError
from insurance_fund.events.ledger import decode_entry
from insurance_fund.streams.log import LogReader, Record, TopicPartition

READ_MAX: Final = 10_000
# A transaction of ours takes some milliseconds to be seen, and at the longest 20 s to be given up.
OPEN_S_MAX: Final = 30.0
LOOK_S: Final = 0.05


async def partition_records(
    log: LogReader, where: TopicPartition, offset: int, a_read: int = READ_MAX, wait_s: float = 0
) -> AsyncIterator[Record]:
    """Yield the records from an offset on, up to the end as it is when the reading begins.

    It stops sooner where what follows is not committed yet; given `wait_s` it waits that long for
    it, and raises LogUnavailableError if that did not help. `a_read` records are held at a time.
    """
    end = await log.end_offset(where)
    deadline_s = time.monotonic() + wait_s
    while offset < end:
        batch = await log.read(where, offset, a_read)
        for record in batch.records:
            yield record
        if batch.next_offset > offset:
            deadline_s = time.monotonic() + wait_s
        elif not wait_s:
            return
        elif time.monotonic() >= deadline_s:
            raise LogUnavailableError(
                f"{where} cannot be read from offset {offset} on: is a transaction open there? Try "
                "again when it has ended"
            )
        else:
            await log.wait(LOOK_S)
        offset = batch.next_offset


async def partition_values(log: LogReader, where: TopicPartition) -> AsyncIterator[bytes]:
    """Yield the values of a partition, empty for null; of a ledger these are its lines."""
    if where.partition not in await log.partitions(where.topic):
        return
    first = await log.first_offset(where)
    async for record in partition_records(log, where, first, wait_s=OPEN_S_MAX):
        yield record.value or b""


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
