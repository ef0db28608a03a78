"""A log on which some topics have other names than ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from insurance_fund.streams.log import Batch, LogWriter, NewRecord, Outbound, TopicPartition


class RenamedLog:
    """Reads a log whose input topics are called otherwise there; all else is the log's own.

    Whoever reads it, and the ledger, know each input by our name alone.
    """

    def __init__(self, log: LogWriter, names: Mapping[str, str]) -> None:
        """`names` are the bus's by ours; a topic that is not among them keeps its name."""
        self._log = log
        self._names = names

    def _where(self, where: TopicPartition) -> TopicPartition:
        return TopicPartition(self._names.get(where.topic, where.topic), where.partition)

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising; empty where the topic does not exist."""
        return await self._log.partitions(self._names.get(topic, topic))

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record that is retained."""
        return await self._log.first_offset(self._where(where))

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the offset that the next record will have at least."""
        return await self._log.end_offset(self._where(where))

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return up to `records_max` committed records from `offset` on."""
        return await self._log.read(self._where(where), offset, records_max)

    async def wait(self, timeout_s: float) -> None:
        """Return when something may have been appended, at the latest after `timeout_s`."""
        await self._log.wait(timeout_s)

    async def close(self) -> None:
        """Let go of the log."""
        await self._log.close()

    async def take(self, shard: str) -> None:
        """Become the writer of a shard."""
        await self._log.take(shard)

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        """Append entries and outgoing messages, whose topics have our names everywhere."""
        await self._log.commit(ledger, entries, messages)


def renamed(log: LogWriter, names: Mapping[str, str]) -> LogWriter:
    """Return the log as one whose inputs have our names; itself where they have them already."""
    return RenamedLog(log, names) if names else log
