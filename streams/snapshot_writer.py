"""Writing snapshots: after a commit, beside the shard's transactions, never in their way.

The format is that of `streams/snapshots.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import insurance_fund
from insurance_fund.events import topics
from insurance_fund.events.errors import InsuranceFundError
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.fund.state import STATE_VERSION, State
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogPublisher, LogReader, NewRecord, Record, TopicPartition
from insurance_fund.streams.snapshots import (
    RECORDS_A_READ,
    SLOTS,
    VERSION,
    Manifest,
    Place,
    Positions,
    encode_content,
    seal,
)

_log = logging.getLogger(__name__)

# Half of what a Kafka broker takes as one record when nobody has set it otherwise.
CHUNK_BYTES: Final = 512 * 1024
# With this many, no transaction of a file locks other writers out for longer than a moment.
CHUNKS_A_PUBLISH: Final = 8
# Behind the last entry stand only the markers of transactions, mostly one.
LOOK_BACK: Final = 8
# A commit is answered before readers can see it; that takes some milliseconds.
VISIBLE_S: Final = 0.02
VISIBLE_TRIES: Final = 50


class SnapshotWriter:
    """Writes the snapshots of one shard into the slot that the newest one in use does not have.

    It publishes outside of the shard's transactions. A snapshot that fails is warned of, and the
    next is due as if it had been written: the run never depends on one.
    """

    def __init__(
        self,
        log: LogReader,
        publisher: LogPublisher,
        where: TopicPartition,
        entries: int,
        newest: Place,
    ) -> None:
        self._log = log
        self._publisher = publisher
        self._where = where
        self._entries = entries
        self._good_slot = newest.slot
        self._sequence = newest.sequence

    def is_due(self, state: State) -> bool:
        """Tell whether a recovery would have to fold `entries` entries or more."""
        return state.sequence - self._sequence >= self._entries

    async def write(self, state: State, positions: Positions) -> None:
        """Write a snapshot of the state, which is that of the ledger's last committed entry."""
        slot = next(slot for slot in SLOTS if slot != self._good_slot)
        try:
            offset = await _offset_of_last(self._log, self._where, state.head)
            if offset is None:
                # Not to be seen yet, or another writer's is behind it: the next commit tells.
                _warn(state, "it is not the last one that can be read")
                return
            await self._publish(slot, offset, state, positions)
            self._good_slot = slot
        except InsuranceFundError as error:
            _warn(state, error)
        self._sequence = state.sequence

    async def _publish(self, slot: str, offset: int, state: State, positions: Positions) -> None:
        content = encode_content(state, positions)
        starts = range(0, len(content), CHUNK_BYTES)
        manifest = Manifest(
            version=VERSION,
            state_version=STATE_VERSION,
            software=insurance_fund.__version__,
            ledger=state.ledger,
            sequence=state.sequence,
            head=state.head,
            offset=offset,
            chunks=len(starts),
            size=len(content),
            sha256=sha256_hex(content),
        )

        def record(part: object, value: bytes) -> NewRecord:
            key = f"{state.ledger}/{slot}/{part}".encode()
            return NewRecord(self._where.partition, key, value)

        for first in range(0, len(starts), CHUNKS_A_PUBLISH):
            chunks = [
                record(number, content[starts[number] : starts[number] + CHUNK_BYTES])
                for number in range(len(starts))[first : first + CHUNKS_A_PUBLISH]
            ]
            await self._publisher.publish(topics.FUND_SNAPSHOTS, chunks)
        await self._publisher.publish(topics.FUND_SNAPSHOTS, [record("manifest", seal(manifest))])


def _warn(state: State, why: object) -> None:
    _log.warning(
        "ledger %s: no snapshot of entry %d: %s; the run goes on without",
        state.ledger,
        state.sequence - 1,
        why,
    )


async def _offset_of_last(log: LogReader, where: TopicPartition, head: str) -> int | None:
    """Return where the entry of this hash stands, None where it is not the last."""
    for _ in range(VISIBLE_TRIES):
        last = await _last_record(log, where)
        if last is not None and sha256_hex(last.value or b"") == head:
            return last.offset
        await asyncio.sleep(VISIBLE_S)
    return None


async def _last_record(log: LogReader, where: TopicPartition) -> Record | None:
    first, end = await log.first_offset(where), await log.end_offset(where)
    back = LOOK_BACK
    while True:
        start, last = max(first, end - back), None
        async for record in partition_records(log, where, start, RECORDS_A_READ):
            last = record
        if last is not None or start == first:
            return last
        back *= LOOK_BACK
