"""A connection to the simulated broker: the log port, every call of which may go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from insurance_fund.events.errors import CommitUnknownError, LogUnavailableError
from insurance_fund.streams.log import Batch, NewRecord, Outbound, TopicPartition
from insurance_fund.streams.simulator.broker import Broker

T = TypeVar("T")


class Calls(Protocol):
    """What becomes of calls on their way to the broker and back.

    With `real_time` a wait for others ends when its time is over.
    """

    real_time: bool

    async def call(
        self, log: SimulatedLog, name: str, effect: Callable[[], T], half: Callable[[], object]
    ) -> T:
        """Bring about the effect of a call, or not; `half` is what an interrupted one leaves."""
        ...

    async def idle(self, log: SimulatedLog) -> bool:
        """Let the world go on while a connection waits; tell whether the wait is over."""
        ...


class Undisturbed:
    """Every call does what it says."""

    real_time = True

    async def call(
        self, _log: SimulatedLog, _name: str, effect: Callable[[], T], _half: Callable[[], object]
    ) -> T:
        """Give other tasks a turn, then do it."""
        await asyncio.sleep(0)
        return effect()

    async def idle(self, _log: SimulatedLog) -> bool:
        """Leave the wait to what others append."""
        return False


class SimulatedLog:
    """A reader, writer and publisher of one broker, as one process has it."""

    def __init__(self, broker: Broker, calls: Calls | None = None) -> None:
        self.broker = broker
        self.calls: Calls = calls or Undisturbed()
        self.shard = ""
        self.epoch = 0
        # Of the broker as the last wait saw it; the first wait ends at once, whatever came before.
        self._version = -1

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising; empty where the topic does not exist."""
        return await self._call("partitions", lambda: self.broker.partitions(topic))

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record that is retained."""
        return await self._call("first_offset", lambda: self.broker.first_offset(where))

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the offset that the next record will have at least."""
        return await self._call("end_offset", lambda: self.broker.end_offset(where))

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return up to `records_max` committed records from `offset` on, none at the end.

        Raises LogUnavailableError for an offset that is no longer, or not yet, in the log.
        """
        return await self._call("read", lambda: self.broker.read(where, offset, records_max))

    async def wait(self, timeout_s: float) -> None:
        """Return when something was appended since the last wait, at the latest in `timeout_s`."""
        await self._call("wait", _nothing)
        if self.broker.version == self._version and not await self.calls.idle(self):
            changed = asyncio.Event()
            self.broker.listeners.append(changed.set)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s if self.calls.real_time else None):
                        await changed.wait()
            finally:
                self.broker.listeners.remove(changed.set)
        self._version = self.broker.version

    async def close(self) -> None:
        """Let go of the broker, which keeps everything."""

    async def take(self, shard: str) -> None:
        """Become the writer of a shard: older writers of it can no longer commit."""
        self.shard = shard
        self.epoch = await self._call("take", lambda: self.broker.take(shard))

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        """Append entries and outgoing messages in one atomic transaction.

        Raises FencedError where a newer writer took the shard, CommitUnknownError where it cannot
        be told whether the transaction happened.
        """
        shard, epoch = self.shard, self.epoch
        records: dict[str, list[NewRecord]] = {ledger.topic: list(entries)}
        for message in messages:
            records.setdefault(message.topic, []).append(message.record)

        def commit() -> None:
            self.broker.end(shard, epoch, self.broker.begin(shard, epoch, records))

        def begin() -> None:
            self.broker.begin(shard, epoch, records)

        await self._call("commit", commit, begin)

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic, each seen at once."""
        await self._call("publish", lambda: self.broker.publish(topic, records))

    async def _call(
        self, name: str, effect: Callable[[], T], half: Callable[[], object] | None = None
    ) -> T:
        return await self.calls.call(self, name, effect, half or _nothing)


def unanswered(name: str) -> LogUnavailableError | CommitUnknownError:
    """Return what a call raises when nobody answers it in time."""
    if name == "commit":
        return CommitUnknownError("no answer to a commit: start again to see")
    return LogUnavailableError(f"no answer to {name}")


def _nothing() -> None:
    pass
