"""To which partition a record goes: one place, so that all who write to a topic agree."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from insurance_fund.streams.log import LogReader


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key among so many; the same key always goes to the same one."""
    return zlib.crc32(key) % partitions


async def count_partitions(log: LogReader, topics: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each topic has; one that is not there yet gets one."""
    return {topic: len(await log.partitions(topic)) or 1 for topic in topics}
