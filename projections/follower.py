"""The embedded driver: follows a ledger in a log and keeps its read models up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.projections.database import REBUILD
from insurance_fund.projections.projector import Position, Projector
from insurance_fund.streams.lines import OPEN_S_MAX, partition_records
from insurance_fund.streams.log import LogReader, Record, TopicPartition

# In one SQL transaction.
ENTRIES_MAX: Final = 5_000
WAIT_S: Final = 0.5


async def catch_up(
    log: LogReader,
    where: TopicPartition,
    projector: Projector,
    progress: Callable[[int], None] = lambda sequence: None,
    until: int | None = None,
) -> Position:
    """Apply what stands in a ledger as of now, in front of the offset `until` if that is given.

    `progress` is told the sequences reached.

    Raises what `Projector.apply` does, and LogUnavailableError.
    """
    position = await asyncio.to_thread(projector.position)
    there = where.partition in await log.partitions(where.topic)
    if not there and position.sequence < 0:
        return position
    first = await log.first_offset(where) if there else 0
    if position.sequence >= 0 and first < position.next_offset:
        await check_same(log, where, projector.ledger, position)
    offset = max(position.next_offset, first)
    records: list[Record] = []
    async for record in partition_records(log, where, offset, ENTRIES_MAX, OPEN_S_MAX):
        if until is not None and record.offset >= until:
            break
        records.append(record)
        if len(records) == ENTRIES_MAX:
            position = await _apply(projector, records)
            progress(position.sequence)
            records = []
    if records:
        position = await _apply(projector, records)
        progress(position.sequence)
    return position


async def follow(
    log: LogReader,
    where: TopicPartition,
    projector: Projector,
    stopped: asyncio.Event,
    told: Callable[[Position], None] = lambda position: None,
) -> None:
    """Keep the read models of a ledger up to date until `stopped`; `told` hears how far it is.

    Raises as `catch_up` does.
    """
    position = await catch_up(log, where, projector)
    told(position)
    while not stopped.is_set():
        if where.partition not in await log.partitions(where.topic):
            await asyncio.sleep(WAIT_S)
            continue
        batch = await log.read(where, position.next_offset, ENTRIES_MAX)
        if batch.records:
            position = await _apply(projector, batch.records)
            told(position)
        else:
            await log.wait(WAIT_S)


async def check_same(
    log: LogReader, where: TopicPartition, ledger: str, position: Position
) -> None:
    """Raise CorruptionError where the log has not the last entry that was applied.

    Nothing would follow it there for a long time, and the read models would look up to date.
    """
    offset = position.next_offset - 1
    async for record in partition_records(log, where, offset, 1, OPEN_S_MAX):
        if record.offset == offset and sha256_hex(record.value or b"") == position.sha256:
            return
        break
    raise CorruptionError(
        f"ledger {ledger}: entry {position.sequence}, the last that was taken, is not in {where} "
        "of the log: it was replaced, lost its end, or is another one than that of these read "
        f"models; `insurance-fund verify` says more; if the ledger is whole, {REBUILD}",
        position.sequence,
    )


async def _apply(projector: Projector, records: Sequence[Record]) -> Position:
    # In a thread: whoever shares the loop, perhaps the fund itself, goes on meanwhile.
    return await asyncio.to_thread(projector.apply, records)
