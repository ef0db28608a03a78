"""The merge of event mode: records of all partitions by time, the same in every run.

The next record is the one with the smallest (event_time_ms, topic order, partition, offset) over
the heads of all partitions. A record without a usable time takes that of the one before it in its
partition.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final, NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder
from insurance_fund.streams.inputs import Inputs, Taken
from insurance_fund.streams.log import LogReader, TopicPartition

LOOK_BACK: Final = 1_000
_TOPIC_ORDER: Final = {topic: order for order, topic in enumerate(topics.INPUT_TOPICS)}


class Head(NamedTuple):
    """The first record of a partition that is not taken yet, in the order of the merge."""

    time_ms: int
    topic_order: int
    partition: int
    offset: int
    taken: Taken


class EventMerge:
    """Gives the records of the inputs one by one in the order of their times."""

    def __init__(self, log: LogReader, inputs: Inputs, records_max: int) -> None:
        self._log = log
        self._inputs = inputs
        # Of its own: what is looked at again is not counted again.
        self._decoder = Decoder(inputs.record_bytes_max)
        self._records_max = records_max
        self._buffers: dict[TopicPartition, deque[Taken]] = {}
        # The offset and the time of the last head of each partition.
        self._known: dict[TopicPartition, tuple[int, int]] = {}
        self._heads: list[Head] = []
        self._empty: set[TopicPartition] = set()
        # Where there are records that nobody may read yet: one of them could be the next.
        self.pinned: TopicPartition | None = None

    async def head(self) -> Head | None:
        """Return the next record, None where all partitions are read to their ends, or `pinned`."""
        if self._empty or self.pinned is not None or not self._heads:
            await self._refill()
        return self._heads[0] if self._heads and self.pinned is None else None

    async def pop(self) -> None:
        """Take the head away; the next record of its partition becomes one."""
        where = heapq.heappop(self._heads).taken.where
        await self._push_next(where)

    async def _push_next(self, where: TopicPartition) -> None:
        buffer = self._buffers[where]
        if not buffer:
            self._empty.add(where)
            return
        taken = buffer.popleft()
        offset, time_ms = taken.record.offset, taken.decoded.event_time_ms
        if time_ms is None:
            time_ms = await self._time_before(where, offset)
        self._known[where] = (offset, time_ms)
        order = _TOPIC_ORDER[where.topic]
        heapq.heappush(self._heads, Head(time_ms, order, where.partition, offset, taken))

    async def _time_before(self, where: TopicPartition, offset: int) -> int:
        # Whoever the records before are for, and whether this run has read them, their times are
        # the same; so they are looked for in the log, back to the last head.
        known, known_ms = self._known.get(where, (-1, 0))
        first = max(known + 1, await self._log.first_offset(where))
        while offset > first:
            start = max(first, offset - LOOK_BACK)
            time_ms = await self._last_time(where, start, offset)
            if time_ms is not None:
                return time_ms
            offset = start
        return known_ms

    async def _last_time(self, where: TopicPartition, offset: int, end: int) -> int | None:
        last_ms = None
        while offset < end:
            batch = await self._log.read(where, offset, end - offset)
            for record in batch.records:
                if record.offset < end:
                    time_ms = self._inputs.event_time_ms(where.topic, record.value, self._decoder)
                    last_ms = last_ms if time_ms is None else time_ms
            offset = batch.next_offset
        return last_ms

    async def _refill(self) -> None:
        self.pinned = None
        for topic in topics.INPUT_TOPICS:
            for where in await self._inputs.partitions(topic):
                if where in self._empty or where not in self._buffers:
                    await self._refill_one(where)

    async def _refill_one(self, where: TopicPartition) -> None:
        buffer = self._buffers.setdefault(where, deque())
        while not buffer:
            taken, read = await self._inputs.read(where, self._records_max)
            buffer.extend(taken)
            if not read:
                # At its end for now; looked at again whenever a partition runs empty.
                end = await self._log.end_offset(where)
                if end > self._inputs.next_offsets[where]:
                    self.pinned = where
                self._empty.discard(where)
                del self._buffers[where]
                return
        self._empty.discard(where)
        await self._push_next(where)
