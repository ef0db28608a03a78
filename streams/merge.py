"""The merge of event mode: records of all partitions by time, the same in every run.

The next record is the one with the smallest (event_time_ms, topic order, partition, offset) over
the heads of all partitions. A record without a usable time takes that of the one before it in its
partition.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder
from insurance_fund.events.terms import Position
from insurance_fund.streams.inputs import Inputs, Taken
from insurance_fund.streams.log import LogReader, TopicPartition


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
        self._records_max = records_max
        self._buffers: dict[TopicPartition, deque[Taken]] = {}
        self._times: dict[TopicPartition, int] = {}
        self._heads: list[Head] = []
        self._empty: set[TopicPartition] = set()
        self._first_time_ms = 0

    async def start(
        self, positions: dict[TopicPartition, Position], decoder: Decoder, now_ms: int
    ) -> None:
        """Learn the time of the record before, for each partition that was read already."""
        self._first_time_ms = now_ms
        for where, position in positions.items():
            if await self._log.first_offset(where) > position.last_offset:
                continue
            for record in (await self._log.read(where, position.last_offset, 1)).records:
                time_ms = decoder.decode(where.topic, record.value).event_time_ms
                if time_ms is not None and record.offset == position.last_offset:
                    self._times[where] = time_ms

    async def head(self) -> Head | None:
        """Return the next record, None where all partitions are read to their ends."""
        if self._empty or not self._heads:
            await self._refill()
        return self._heads[0] if self._heads else None

    def pop(self) -> None:
        """Take the head away; the next record of its partition becomes one."""
        where = heapq.heappop(self._heads).taken.where
        self._push_next(where)

    def _push_next(self, where: TopicPartition) -> None:
        buffer = self._buffers[where]
        if not buffer:
            self._empty.add(where)
            return
        taken = buffer.popleft()
        time_ms = taken.decoded.event_time_ms
        if time_ms is None:
            time_ms = self._times.get(where, self._first_time_ms)
        self._times[where] = time_ms
        order = topics.INPUT_TOPICS.index(where.topic)
        head = Head(time_ms, order, where.partition, taken.record.offset, taken)
        heapq.heappush(self._heads, head)

    async def _refill(self) -> None:
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
                # At its end for now; looked at again when no other partition has anything.
                self._empty.discard(where)
                del self._buffers[where]
                return
        self._empty.discard(where)
        self._push_next(where)
