"""The log in one SQLite file: for one machine, without a broker.

A topic-partition is a table `records_<id>`; `partitions` says which id is whose, and the offset
that its next record gets, so that an offset is never used twice even if records are deleted. A
compacted topic is compacted as it is appended to. Every call gives other tasks a turn before it
touches the file, and none between begin and commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

import msgspec

from insurance_fund.events import topics
from insurance_fund.events.errors import CommitUnknownError, FencedError, LogUnavailableError
from insurance_fund.streams import sqlite_file
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.log import (
    Batch,
    LogReader,
    NewRecord,
    Outbound,
    Record,
    TopicPartition,
    by_partition,
)

# Below what a person or an order's deadline notices, above what would keep a core busy.
POLL_S: Final = 0.015
# A transaction of ours takes some milliseconds: often enough to catch the gap between two of them.
BUSY_RETRY_S: Final = 0.002

# A read ends behind the record that passes this: thousands of ordinary records, few large ones.
READ_BYTES_MAX: Final = 16 * 1024 * 1024

# What keys and values are.
_KEPT: Final = (bytes, type(None))
_WALL_MS: Final = SystemClock().wall_ms
_T = TypeVar("_T")


class _Partition(NamedTuple):
    """A row of the registry."""

    id: int
    next_offset: int


class SqliteLog:
    """A log file, opened for writing or for reading only."""

    __slots__ = (
        "_appended",
        "_clock_ms",
        "_connection",
        "_identity",
        "_path",
        "_shard",
        "_version",
    )

    def __init__(
        self, path: Path, connection: sqlite3.Connection, clock_ms: Callable[[], int]
    ) -> None:
        self._path = path
        self._connection = connection
        self._clock_ms = clock_ms
        self._shard: tuple[str, int] | None = None
        self._identity = sqlite_file.identity(path)
        # Of the file as the last wait saw it; the first wait ends at once, whatever came before.
        self._version: int | None = None
        self._appended = False

    @classmethod
    def open(cls, path: Path, *, create: bool, clock_ms: Callable[[], int] = _WALL_MS) -> Self:
        """Open a log to write and publish; with `create` the file is made where none is.

        `clock_ms` gives the timestamps of appended records. Raises LogUnavailableError with what
        to do, CorruptionError for a damaged file.
        """
        return cls(path, sqlite_file.connect_writer(path, create=create), clock_ms)

    @classmethod
    def open_reader(cls, path: Path) -> LogReader:
        """Open a log that exists for reading only; raises as `open` does."""
        return cls(path, sqlite_file.connect_reader(path), _WALL_MS)

    async def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions of a topic, rising; empty where nothing was ever appended."""
        sql = "SELECT partition FROM partitions WHERE topic = ? ORDER BY partition"
        rows = await self._patiently(lambda: self._connection.execute(sql, (topic,)).fetchall())
        return [row[0] for row in rows]

    async def first_offset(self, where: TopicPartition) -> int:
        """Return the offset of the first record that is retained, the end where none is."""
        return await self._patiently(lambda: self._snapshot(lambda: self._first_offset(where)))

    async def end_offset(self, where: TopicPartition) -> int:
        """Return the offset that the next record will have."""
        return (await self._patiently(lambda: self._find(where))).next_offset

    async def read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        """Return up to `records_max` records from `offset` on, none at the end.

        Raises LogUnavailableError for an offset that is no longer, or not yet, in the log.
        """
        if records_max < 1:
            raise ValueError(records_max)
        return await self._patiently(
            lambda: self._snapshot(lambda: self._read(where, offset, records_max))
        )

    async def wait(self, timeout_s: float) -> None:
        """Return when something was appended since the last wait, at the latest in `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            self._check_file()
            version = await self._patiently(self._data_version)
            if self._appended or version != self._version:
                # Noted on the way out: what is appended between two waits ends the second.
                self._appended, self._version = False, version
                return
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(POLL_S, left_s))

    async def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    async def take(self, shard: str) -> None:
        """Become the writer of a shard: older writers of it can no longer commit."""
        async with self._transaction():
            self._connection.execute(
                "INSERT INTO writers (shard, epoch) VALUES (?, 1)"
                " ON CONFLICT (shard) DO UPDATE SET epoch = epoch + 1",
                (shard,),
            )
            epoch = self._epoch(shard)
        self._shard = (shard, epoch)

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        """Append entries and outgoing messages in one atomic transaction.

        Raises FencedError where a newer writer took the shard, LogUnavailableError where nothing
        was written, CommitUnknownError where it cannot be told whether the transaction happened.
        """
        if any(entry.partition != ledger.partition for entry in entries):
            raise ValueError(f"an entry of another partition than {ledger}")
        if self._shard is None:
            raise RuntimeError("take a shard before the first commit")
        shard, epoch = self._shard
        grouped = by_partition((message.topic, message.record) for message in messages)
        async with self._transaction():
            if self._epoch(shard) != epoch:
                raise FencedError(f"a newer writer took shard {shard} of {self._path}")
            self._append({ledger: entries}, grouped)

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append records to a topic in one transaction; partitions are made as needed."""
        grouped = by_partition((topic, record) for record in records)
        async with self._transaction():
            self._append(grouped)

    async def _patiently(self, action: Callable[[], _T]) -> _T:
        """Give other tasks a turn, then do what takes a lock, again while another holds it."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + sqlite_file.BUSY_S_MAX
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            try:
                return action()
            except sqlite3.Error as error:
                if not sqlite_file.is_busy(error) or loop.time() >= deadline_s:
                    raise sqlite_file.failure(self._path, error) from error
            pause_s = BUSY_RETRY_S

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """Commit what is done inside; nothing inside may await."""
        self._check_file()
        await self._patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))
        try:
            yield
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise sqlite_file.failure(self._path, error) from error
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            # The commit may stand in the write-ahead file without having been confirmed.
            raise CommitUnknownError(f"{self._path}: {error}: start again to see") from error
        self._appended = True

    def _check_file(self) -> None:
        # Whoever took the file away may have put another one there, with another writer.
        try:
            found = sqlite_file.identity(self._path)
        except OSError:
            found = None
        if found != self._identity:
            raise LogUnavailableError(
                f"{self._path} was deleted or replaced while it was in use: what was written since "
                "then is not in it; see which file is the right one, then start again"
            )

    def _snapshot(self, action: Callable[[], _T]) -> _T:
        """Let several statements see the same state of the file."""
        self._connection.execute("BEGIN")
        try:
            return action()
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _epoch(self, shard: str) -> int:
        sql = "SELECT epoch FROM writers WHERE shard = ?"
        row = self._connection.execute(sql, (shard,)).fetchone()
        return row[0] if row else 0

    def _find(self, where: TopicPartition) -> _Partition:
        """Return what the registry says of a partition; id 0 where it was never written to."""
        row = self._connection.execute(
            "SELECT id, next_offset FROM partitions WHERE topic = ? AND partition = ?", where
        ).fetchone()
        return _Partition(*row) if row else _Partition(0, 0)

    def _first_offset(self, where: TopicPartition) -> int:
        found = self._find(where)
        if not found.id:
            return 0
        sql = f"SELECT min(offset) FROM records_{found.id}"  # noqa: S608 - an integer
        (first,) = self._connection.execute(sql).fetchone()
        return found.next_offset if first is None else first

    def _read(self, where: TopicPartition, offset: int, records_max: int) -> Batch:
        found = self._find(where)
        if offset > found.next_offset:
            raise LogUnavailableError(
                f"{where} of {self._path} ends at offset {found.next_offset}, there is no offset "
                f"{offset} yet: is this an older copy of the file?"
            )
        records: list[Record] = []
        size = 0
        if found.id:
            sql = (
                f"SELECT offset, timestamp_ms, key, value FROM records_{found.id}"  # noqa: S608
                " WHERE offset >= ? ORDER BY offset LIMIT ?"
            )
            for row in self._connection.execute(sql, (offset, records_max)):
                record = Record._make(row)
                if type(record.value) not in _KEPT or type(record.key) not in _KEPT:
                    raise LogUnavailableError(
                        f"{where} offset {record.offset} of {self._path} holds what no writer of "
                        "ours puts there: restore a copy of the file"
                    )
                records.append(record)
                size += len(record.value or b"")
                if size >= READ_BYTES_MAX:
                    break
        if not records or records[0].offset != offset:
            first = self._first_offset(where)
            if offset < first:
                raise LogUnavailableError(
                    f"{where} of {self._path} begins at offset {first}, offset {offset} was "
                    "deleted: restore a copy of the file that has it"
                )
        if len(records) < records_max and size < READ_BYTES_MAX:
            return Batch(records, found.next_offset)
        return Batch(records, records[-1].offset + 1)

    def _append(self, *groups: Mapping[TopicPartition, Sequence[NewRecord]]) -> None:
        timestamp_ms = self._clock_ms()
        for group in groups:
            for where, records in group.items():
                partition = self._find_or_make(where)
                self._connection.executemany(
                    f"INSERT INTO records_{partition.id} VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                    [
                        (
                            offset,
                            timestamp_ms if record.timestamp_ms is None else record.timestamp_ms,
                            record.key,
                            record.value,
                            msgspec.json.encode(record.headers) if record.headers else None,
                        )
                        for offset, record in enumerate(records, partition.next_offset)
                    ],
                )
                self._connection.execute(
                    "UPDATE partitions SET next_offset = ? WHERE id = ?",
                    (partition.next_offset + len(records), partition.id),
                )
                if where.topic in topics.COMPACTED_TOPICS:
                    self._compact(partition, records)

    def _compact(self, partition: _Partition, records: Sequence[NewRecord]) -> None:
        """Delete what the appended records of a compacted topic stand in place of."""
        self._connection.executemany(
            f"DELETE FROM records_{partition.id} WHERE key = ? AND offset < ?",  # noqa: S608
            [(record.key, offset) for offset, record in enumerate(records, partition.next_offset)],
        )

    def _find_or_make(self, where: TopicPartition) -> _Partition:
        found = self._find(where)
        if found.id:
            return found
        sql = "INSERT INTO partitions (topic, partition) VALUES (?, ?)"
        self._connection.execute(sql, where)
        made = self._find(where)
        self._connection.execute(
            f"CREATE TABLE records_{made.id} (offset INTEGER PRIMARY KEY,"
            " timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB)"
        )
        return made
