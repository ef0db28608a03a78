"""Inputs: where each input partition was read to, and which records concern this shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.adapted import Adapted
from insurance_fund.events.codec import Decoder, Refusal
from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.events.messages import Input
from insurance_fund.events.terms import Position
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.adapters import Adapter
from insurance_fund.streams.log import LogReader, Record, TopicPartition
from insurance_fund.streams.recovery import position_after


@dataclass(frozen=True, slots=True)
class Shard:
    """One writer's share: a ledger, its partition, and the currencies that belong to it.

    `assigned` says which shard each margin currency belongs to, None where this shard takes all.
    What cannot be decoded, or names no assigned currency, belongs to the first shard.
    """

    name: str
    index: int = 0
    assigned: Mapping[str, str] | None = None

    def routing(self, policy: Policy) -> dict[str, str]:
        """Return which shard each margin currency belongs to, as the ledger keeps it.

        Raises SettingsError for a currency that the policy does not name.
        """
        if self.assigned is None:
            return dict.fromkeys(sorted(policy.currencies), self.name)
        for currency, shard in self.assigned.items():
            if currency not in policy.currencies:
                raise SettingsError(
                    f"shards.{shard}: the policy names no currency {currency}; add it under "
                    "currencies there, or take it out here"
                )
        return dict(sorted(self.assigned.items()))

    def owns(self, decoded: Input | Refusal) -> bool:
        """Tell whether a record is this shard's to decide."""
        if self.assigned is None:
            return True
        shard = None
        if not isinstance(decoded, Refusal):
            shard = self.assigned.get(decoded.margin_currency)
        return self.index == 0 if shard is None else shard == self.name


class Taken(NamedTuple):
    """A record that this shard must decide, decoded; `made` is what its adapter made of it."""

    where: TopicPartition
    record: Record
    decoded: Input | Refusal
    made: Adapted | None = None


class Inputs:
    """Reads the input topics from the ledger's positions on, skipping what makes no entry."""

    def __init__(
        self,
        log: LogReader,
        shard: Shard,
        decoder: Decoder,
        positions: dict[TopicPartition, Position],
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        """`adapters` are those of the input topics that have one."""
        self._log = log
        self._shard = shard
        self._decoder = decoder
        self._adapters = adapters or {}
        self.record_bytes_max = decoder.record_bytes_max
        self.next_offsets = {where: p.next_offset for where, p in positions.items()}
        self._last_skipped: dict[TopicPartition, Record] = {}
        self._sought: set[TopicPartition] = set()
        self.skipped = 0
        self.skipped_total = 0

    async def partitions(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of an input topic, rising."""
        return [TopicPartition(topic, p) for p in await self._log.partitions(topic)]

    async def read(self, where: TopicPartition, records_max: int) -> tuple[list[Taken], int]:
        """Read on in a partition.

        Returns the records to decide, and how many records were read in all.
        """
        offset = self.next_offsets.get(where)
        if where not in self._sought:
            self._sought.add(where)
            offset = max(offset or 0, await self._log.first_offset(where))
        assert offset is not None, "a partition is sought before it is read"
        batch = await self._log.read(where, offset, records_max)
        self.next_offsets[where] = batch.next_offset
        return list(self._select(where, batch.records)), len(batch.records)

    def _select(self, where: TopicPartition, records: Iterable[Record]) -> Iterable[Taken]:
        topic, skipped, reached = where.topic, 0, -1
        decode, owns, last = self._decoder.decode, self._shard.owns, None
        adapter, made = self._adapters.get(topic), None
        filtered = topic == topics.FILLS and adapter is None
        for record in records:
            if record.offset <= reached:
                raise CorruptionError(f"{where}: the log gave offset {record.offset} twice")
            reached, value = record.offset, record.value
            if filtered and (value is None or topics.FILLS_FILTER not in value):
                last = record
                skipped += 1
                continue
            if adapter is None:
                decoded: Input | Refusal | None = decode(topic, value)
            else:
                decoded, made = self.adapted(adapter, topic, value, self._decoder)
            if decoded is not None and owns(decoded):
                yield Taken(where, record, decoded, made)
            else:
                last = record
                skipped += 1
        if last is not None:
            self.skipped += skipped
            self.skipped_total += skipped
            self._last_skipped[where] = last

    def event_time_ms(self, topic: str, value: bytes | None, decoder: Decoder) -> int | None:
        """Return the time that a record of an input says, None where it says none."""
        adapter = self._adapters.get(topic)
        if adapter is None:
            return decoder.decode(topic, value).event_time_ms
        decoded, _ = self.adapted(adapter, topic, value, decoder)
        return None if decoded is None else decoded.event_time_ms

    def adapted(
        self, adapter: Adapter, topic: str, value: bytes | None, decoder: Decoder
    ) -> tuple[Input | Refusal | None, Adapted | None]:
        """Decode a record by way of an adapter; None where it says that it is not for the fund.

        One without a value, or too large, is refused as it is.
        """
        if value is None or len(value) > self.record_bytes_max:
            return decoder.decode(topic, value), None
        made = adapter.adapt(value, self.record_bytes_max)
        return None if made is None else decoder.decode_adapted(topic, made), made

    async def at_ends(self) -> bool:
        """Tell whether every input was read to its end."""
        for topic in topics.INPUT_TOPICS:
            for where in await self.partitions(topic):
                end = await self._log.end_offset(where)
                if end > self.next_offsets.get(where, 0):
                    return False
        return True

    def moved_over(self, positions: dict[TopicPartition, Position]) -> dict[str, Position]:
        """Return the positions that skipped records have moved beyond the ledger's own."""
        moved = {}
        for where, record in sorted(self._last_skipped.items()):
            known = positions.get(where)
            if known is None or known.last_offset < record.offset:
                moved[str(where)] = position_after(record)
        return moved
