"""The link of an exchange to the topics: what the fund sends, and the records of what is said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self, TypeVar

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError
from insurance_fund.streams.lines import READ_MAX
from insurance_fund.streams.log import LogPublisher, LogReader, NewRecord, TopicPartition
from insurance_fund.streams.paper.adl import AdlMessage
from insurance_fund.streams.paper.messages import OrdinaryFill, Said
from insurance_fund.streams.partitions import count_partitions, partition_of

# A fill stands in the log before the report on the order that it filled.
_ORDER: Final = (topics.INSTRUMENTS, topics.FUND_TRANSFERS, topics.FILLS, topics.LIQUIDATIONS)
# Of the topics whose records are not keyed by liquidation.
_KEYS: Final = {topics.INSTRUMENTS: "instrument_id", topics.FUND_TRANSFERS: "margin_currency"}
_encoder = msgspec.json.Encoder()
_orders = msgspec.json.Decoder(msg.LiquidationOrder)
_triggers = msgspec.json.Decoder(AdlMessage)
_letters = msgspec.json.Decoder(msg.DeadLetter)
SentT = TypeVar("SentT", bound=msg.Output)


class Bus(LogReader, LogPublisher, Protocol):
    """The two sides of a log that an exchange needs."""


class Sent(NamedTuple):
    """What the fund has sent, each in order of the ledger's entries."""

    orders: list[msg.LiquidationOrder]
    triggers: list[AdlMessage]
    letters: list[msg.DeadLetter]


@dataclass(slots=True)
class Link:
    """Reads the fund's topics on from where they were read to, and publishes to the exchange's."""

    log: Bus
    _partitions: dict[str, int]
    _offsets: dict[TopicPartition, int] = field(default_factory=dict)

    @classmethod
    async def of(cls, log: Bus) -> Self:
        """Look up how many partitions there are; the fund's topics are read from the beginning."""
        return cls(log, await count_partitions(log, topics.INPUT_TOPICS))

    async def seek_ends(self) -> None:
        """Pass by what the fund has sent up to now."""
        for topic in topics.OUTPUT_TOPICS:
            for partition in await self.log.partitions(topic):
                where = TopicPartition(topic, partition)
                self._offsets[where] = await self.log.end_offset(where)

    async def listen(self) -> Sent:
        """Take what the fund has sent since the last time.

        Raises CorruptionError for a record that no fund has sent.
        """
        return Sent(
            await self._new(topics.LIQUIDATION_ORDERS, _orders),
            await self._new(topics.ADL_TRIGGERS, _triggers),
            await self._new(topics.DEAD_LETTERS, _letters),
        )

    async def publish(self, said: Iterable[Said]) -> None:
        """Publish what was said, topic by topic, each in its order."""
        records: dict[str, list[NewRecord]] = defaultdict(list)
        for topic, message in said:
            records[topic].append(self._record_of(topic, message))
        for topic in _ORDER:
            if records[topic]:
                await self.log.publish(topic, records[topic])

    def _record_of(self, topic: str, message: msg.Message) -> NewRecord:
        # Under the key of its topic and at the time it names.
        name = _KEYS.get(topic, "liquidation_id")
        if isinstance(message, OrdinaryFill):
            name = "order_id"
        key = getattr(message, name).encode()
        partition = partition_of(key, self._partitions[topic])
        value = _encoder.encode(message)
        return NewRecord(partition, key, value, timestamp_ms=message.event_time_ms)

    async def _new(self, topic: str, decoder: msgspec.json.Decoder[SentT]) -> list[SentT]:
        messages: list[SentT] = []
        for partition in await self.log.partitions(topic):
            where = TopicPartition(topic, partition)
            if where not in self._offsets:
                self._offsets[where] = await self.log.first_offset(where)
            offset, read_on = self._offsets[where], True
            while read_on:
                batch = await self.log.read(where, offset, READ_MAX)
                for record in batch.records:
                    messages.append(_decoded(where, record.offset, record.value, decoder))
                offset, read_on = batch.next_offset, bool(batch.records)
            self._offsets[where] = offset
        return sorted(messages, key=lambda message: message.sequence)


def _decoded(
    where: TopicPartition, offset: int, value: bytes | None, decoder: msgspec.json.Decoder[SentT]
) -> SentT:
    try:
        return decoder.decode(value or b"")
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"{where} offset {offset} is no message of a fund ({error}): only the fund may write "
            "there; start again to go on behind it"
        ) from error
