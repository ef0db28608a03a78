"""The deadline gate: no deadline is taken before the backlog as of its being due was read.

An outage of an hour must not fire auto-deleveraging for orders whose fills are waiting to be read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from insurance_fund.events import topics
from insurance_fund.streams.log import LogReader, TopicPartition

GATED_KINDS: Final = ("order", "replacement", "first_order")
GATED_TOPICS: Final = (topics.FILLS, topics.LIQUIDATIONS)
# Longer than a healthy producer's transaction takes.
HELD_WARN_MS: Final = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Passage:
    """A deadline may be taken: what was read before it, and whether waiting was cut short."""

    read_to: dict[str, int]
    capped: bool


@dataclass(slots=True)
class _Noted:
    ends: dict[TopicPartition, int]
    at_ms: int
    told: bool = False


class DeadlineGate:
    """Notes the ends of fills and liquidations when a deadline is first seen due in this run."""

    def __init__(self, log: LogReader, wait_ms_max: int) -> None:
        self._log = log
        self._wait_ms_max = wait_ms_max
        self._noted: dict[tuple[int, str], _Noted] = {}

    async def note(self, due: list[tuple[int, str]], monotonic_ms: int) -> None:
        """Note the ends for deadlines that are seen due for the first time."""
        # A deadline that was moved is another one: it is known by its time and its name.
        self._noted = {one: n for one in due if (n := self._noted.get(one)) is not None}
        new = [one for one in due if one not in self._noted and _is_gated(one[1])]
        if not new:
            return
        noted = _Noted(await self._ends(), monotonic_ms)
        for one in new:
            self._noted[one] = noted

    async def _ends(self) -> dict[TopicPartition, int]:
        ends = {}
        for topic in GATED_TOPICS:
            for partition in await self._log.partitions(topic):
                where = TopicPartition(topic, partition)
                ends[where] = await self._log.end_offset(where)
        return ends

    def knows(self, deadline: tuple[int, str]) -> bool:
        """Tell whether a deadline (due_ms, name) was noted, or need not be."""
        return deadline in self._noted or not _is_gated(deadline[1])

    def passage(
        self,
        deadline: tuple[int, str],
        next_offsets: dict[TopicPartition, int],
        monotonic_ms: int,
    ) -> Passage | None:
        """Return how a deadline (due_ms, name) may be taken, None while it must wait."""
        if not _is_gated(deadline[1]):
            return Passage({}, capped=False)
        noted, waited_ms = self._noted[deadline], monotonic_ms - self._noted[deadline].at_ms
        unread = [where for where, end in noted.ends.items() if next_offsets.get(where, 0) < end]
        if unread and waited_ms < self._wait_ms_max:
            if waited_ms >= HELD_WARN_MS and not noted.told:
                noted.told = True
                _log.warning(
                    "deadlines wait since %d ms for %s to be read: is it a large backlog, or is a "
                    "producer's transaction open there?",
                    waited_ms,
                    ", ".join(map(str, unread)),
                )
            return None
        read = not unread
        if unread:
            _log.warning(
                "deadline %s is taken after %d ms without having read %s to where it ended",
                deadline[1],
                waited_ms,
                ", ".join(map(str, unread)),
            )
        ends = {str(where): end for where, end in sorted(noted.ends.items())}
        return Passage(ends, capped=not read)


def _is_gated(name: str) -> bool:
    return name.partition(":")[0] in GATED_KINDS
