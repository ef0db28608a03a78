"""Recovery: read the ledger, evolve it, know where to read on. There is no other way to start.

A snapshot may stand in for the beginning of the ledger; it is never more than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import (
    Cause,
    CheckpointCause,
    InputCause,
    decode_entry,
    sha256_hex,
)
from insurance_fund.events.terms import Position
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.streams.lines import check_name
from insurance_fund.streams.log import LogReader, Record, TopicPartition
from insurance_fund.streams.snapshots import NOWHERE, Place, Snapshot, newest_snapshot

_log = logging.getLogger(__name__)
ENTRIES_A_READ: Final = 5_000
# What is not committed yet in front of the end is waited for, and told of every ten seconds.
UNREADABLE_WAIT_S: Final = 0.1
UNREADABLE_WARN: Final = 100


@dataclass(slots=True)
class Recovered:
    """What a ledger has come to: its state, and the positions that its entries say.

    `snapshot` is the place of the one that it was begun from.
    """

    state: State = field(default_factory=State)
    snapshot: Place = NOWHERE
    _last: dict[tuple[str, int], InputCause | Position] = field(default_factory=dict)

    @classmethod
    def begun(cls, snapshot: Snapshot) -> Recovered:
        """Return what a snapshot says that a ledger had come to."""
        recovered = cls(snapshot.state, snapshot.place)
        for where, position in snapshot.positions.items():
            recovered._last[where] = position
        return recovered

    def move(self, cause: Cause) -> None:
        """Move the positions by the cause of an entry."""
        if isinstance(cause, InputCause):
            # Its fingerprint is only worked out when somebody asks for the positions.
            self._last[cause.topic, cause.partition] = cause
        elif isinstance(cause, CheckpointCause):
            for name, position in cause.positions.items():
                topic, _, partition = name.rpartition(":")
                self._last[topic, int(partition)] = position

    @property
    def positions(self) -> dict[TopicPartition, Position]:
        """Return where each partition was read up to."""
        return {
            TopicPartition(*where): _position_after(last) if isinstance(last, InputCause) else last
            for where, last in self._last.items()
        }


def _position_after(cause: InputCause) -> Position:
    return Position(
        next_offset=cause.offset + 1,
        last_offset=cause.offset,
        sha256=cause.sha256(),
        timestamp_ms=cause.timestamp_ms,
    )


def position_after(record: Record) -> Position:
    """Return the position of a partition after this record."""
    return Position(
        next_offset=record.offset + 1,
        last_offset=record.offset,
        sha256=sha256_hex(record.value or b""),
        timestamp_ms=record.timestamp_ms,
    )


async def recover(
    log: LogReader,
    where: TopicPartition,
    ledger: str,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Recovered:
    """Fold a ledger to its end, checking the chain; `progress` is told (offset, end offset).

    It begins from the newest good snapshot, else from the first entry. Where `stopped` says so, it
    returns what it has come to by then.

    Raises CorruptionError for a gap, a broken chain, or an entry that is not this ledger's.
    """
    recovered = Recovered()
    snapshot = await newest_snapshot(log, where, ledger)
    # Not whether the partition is listed: a broker that is behind may not know it yet. And one that
    # is empty is read too: else nobody sees that we may write it and not read it.
    offset, end = await log.first_offset(where), await log.end_offset(where)
    if snapshot is not None:
        recovered, offset = Recovered.begun(snapshot), snapshot.next_offset
        if progress is not None:
            progress(offset, end)
    unread = 0
    while True:
        batch = await log.read(where, offset, ENTRIES_A_READ)
        if not batch.records and batch.next_offset >= end:
            return recovered
        if batch.next_offset == offset:
            unread += 1
            await _wait_for_open(log, where, offset, unread)
        for record in batch.records:
            _apply(recovered, record, where, ledger)
        offset = batch.next_offset
        if progress is not None:
            progress(offset, end)
        if stopped is not None and stopped():
            return recovered


async def _wait_for_open(log: LogReader, where: TopicPartition, offset: int, times: int) -> None:
    await log.wait(UNREADABLE_WAIT_S)
    if times % UNREADABLE_WARN == 0:
        _log.warning(
            "%s from offset %d on cannot be read yet: is a transaction open there, not ours?",
            where,
            offset,
        )


def _apply(recovered: Recovered, record: Record, where: TopicPartition, ledger: str) -> None:
    sequence = recovered.state.sequence
    if record.value is None:
        raise CorruptionError(f"entry {sequence} is gone: a null stands in its place", sequence)
    try:
        entry = decode_entry(record.value)
    except CorruptionError as error:
        raise CorruptionError(f"entry {sequence}: {error}", sequence) from error
    if sequence == 0:
        check_name(record.value, where, ledger)
    if entry.ledger != ledger:
        raise CorruptionError(
            f"entry {entry.sequence} belongs to ledger {entry.ledger!r}, not {ledger!r}",
            entry.sequence,
        )
    apply_entry(recovered.state, entry, sha256_hex(record.value))
    recovered.move(entry.cause)


async def check_inputs(log: LogReader, positions: dict[TopicPartition, Position]) -> None:
    """Compare the last consumed record of each partition with its fingerprint.

    Raises CorruptionError where the topic is not the one that was read. What is gone, by retention
    or compaction, is only warned of: that a partition begins behind the position can also come from
    holes in its offsets, and nothing that a person does brings records back.
    """
    for where, position in sorted(positions.items()):
        if where.partition not in await log.partitions(where.topic):
            raise CorruptionError(
                f"{where} is gone; the ledger has read it up to offset {position.last_offset}"
            )
        first, end = await log.first_offset(where), await log.end_offset(where)
        if end <= position.last_offset:
            raise CorruptionError(
                f"{where} ends at offset {end}, the ledger has read offset "
                f"{position.last_offset}; was the topic made anew?"
            )
        if first > position.next_offset:
            _log.error(
                "%s begins at offset %d, the ledger reads on from %d: records between them that "
                "were not read are lost to retention",
                where,
                first,
                position.next_offset,
            )
        if first > position.last_offset:
            _log.warning(
                "%s offset %d, read last, is gone by retention", where, position.last_offset
            )
            continue
        records = (await log.read(where, position.last_offset, 1)).records
        if not records or records[0].offset != position.last_offset:
            _log.warning("%s offset %d, read last, was compacted", where, position.last_offset)
        elif sha256_hex(records[0].value or b"") != position.sha256:
            raise CorruptionError(
                f"{where} offset {position.last_offset} is not the record that the ledger has "
                "read; was the topic made anew?"
            )
