"""A run: what came of a scenario, with or without faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from insurance_fund.events import topics
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import Record, TopicPartition
from insurance_fund.streams.simulator.broker import Broker

SHARD: Final = Shard("main")
LEDGER: Final = TopicPartition(topics.FUND_LEDGER, SHARD.index)
_READ_MAX: Final = 1_000_000


class _Listing(msgspec.Struct):
    emitted: list[msgspec.Raw]


_listing = msgspec.json.Decoder(_Listing)


@dataclass(slots=True)
class Run:
    """What came of a scenario.

    `calls` is how many calls were made, `names` which, `last_fault` the number of the last one that
    went wrong; `observed` the ledger's lines as a read-committed reader saw them appear; `endings`
    how processes ended, by the name of their error; `from_snapshots` how many of them began from a
    snapshot. `damaged_length` is how many entries there were when one was damaged, None where none
    was. `expired` are input records that retention has deleted.
    """

    broker: Broker
    calls: int = 0
    names: list[str] = field(default_factory=list)
    last_fault: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    observed: list[bytes] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    from_snapshots: int = 0
    damaged_length: int | None = None
    expired: list[tuple[TopicPartition, Record]] = field(default_factory=list)
    _observed_to: int = 0
    _observed_version: int = -1
    _listed: int = 0

    @property
    def lines(self) -> list[bytes]:
        """Return the ledger as it stands now."""
        return [one.record.value or b"" for one in self.broker.appended_to(LEDGER)]

    def observe(self) -> None:
        """Let the reader beside it read on."""
        if self._observed_version != self.broker.version:
            self._observed_version = self.broker.version
            batch = self.broker.read(LEDGER, self._observed_to, _READ_MAX)
            self._observed_to = batch.next_offset
            lines = [record.value or b"" for record in batch.records]
            self.observed += lines
            self._listed += sum(len(_listing.decode(line).emitted) for line in lines)
            if self.sent != self._listed and not self.troubles:
                self.troubles.append(
                    f"call {self.calls}: {self._listed} messages are listed by the entries that "
                    f"can be read, {self.sent} can be read"
                )

    @property
    def sent(self) -> int:
        """Return how many messages can be read on the output topics."""
        return sum(
            len(self.broker.appended_to(TopicPartition(topic, partition)))
            for topic in topics.OUTPUT_TOPICS
            for partition in self.broker.partitions(topic)
        )
