"""Emitted: what the ledger lists as sent, against the output topics, in both directions.

The log may be live: what is on the topics before the ledger is read must be listed by it, and what
it lists must be there when the topics are read on afterwards.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import orjson

from insurance_fund.events import topics
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.streams.lines import OPEN_S_MAX, partition_records
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.report import Report


class Listed(NamedTuple):
    """A message that an entry lists as committed with it."""

    sequence: int
    topic: str
    id: str
    sha256: str


class OutputTopics:
    """The messages of one ledger on the output topics, by topic and SHA-256."""

    def __init__(self, log: LogReader, ledger: str) -> None:
        self._log = log
        self._ledger = ledger
        self._offsets: dict[TopicPartition, int] = {}
        self._cut: set[str] = set()
        self._found: Counter[tuple[str, str]] = Counter()

    async def read(self) -> Counter[tuple[str, str]]:
        """Read on to the ends as they are now and return all that has been found so far."""
        for topic in topics.OUTPUT_TOPICS:
            for partition in await self._log.partitions(topic):
                await self._read(TopicPartition(topic, partition))
        return self._found.copy()

    async def _read(self, where: TopicPartition) -> None:
        offset = self._offsets.get(where)
        if offset is None:
            offset = await self._log.first_offset(where)
            if offset:
                self._cut.add(where.topic)
        async for record in partition_records(self._log, where, offset, wait_s=OPEN_S_MAX):
            value = record.value or b""
            if _ledger_of(value) in (self._ledger, None):
                self._found[where.topic, sha256_hex(value)] += 1
            offset = record.offset + 1
        self._offsets[where] = offset

    def compare(
        self,
        listed: list[Listed],
        before: Counter[tuple[str, str]],
        after: Counter[tuple[str, str]],
        report: Report,
    ) -> None:
        """Report what is listed and missing, and what was there before and is not listed."""
        retained: set[str] = set()
        old: Counter[str] = Counter()
        for one in listed:
            key = (one.topic, one.sha256)
            before[key] -= 1
            if after[key] > 0:
                after[key] -= 1
                retained.add(one.topic)
            elif one.topic in self._cut and one.topic not in retained:
                old[one.topic] += 1
            else:
                report.find(
                    one.sequence, f"{one.id} is listed as emitted but is not on {one.topic}"
                )
        for topic, count in old.items():
            report.notes.append(
                f"{count} messages are older than the first retained offset of {topic}: "
                "not checkable"
            )
        unlisted: Counter[str] = Counter()
        for (topic, _), count in before.items():
            unlisted[topic] += max(0, count)
        for topic, count in unlisted.items():
            if count:
                report.find(None, f"{count} messages on {topic} are listed by no entry")


def _ledger_of(value: bytes) -> str | None:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    name = fields.get("ledger") if isinstance(fields, dict) else None
    return name if isinstance(name, str) else None
