"""The SQLite log: the contract of the port, and what only a file can do to its owner."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import msgspec
import pytest

from insurance_fund.events.errors import CorruptionError, LogUnavailableError
from insurance_fund.streams import sqlite_file
from insurance_fund.streams.log import LogReader, NewRecord, TopicPartition
from insurance_fund.streams.sqlite import READ_BYTES_MAX, SqliteLog
from tests.embedded.appender import RECORDS_OF
from tests.embedded.log_contract import (
    FILLS,
    HANG_S,
    LEDGER,
    ORDERS,
    LogContract,
    Logs,
    new,
    offsets,
    outbound,
    records_to_end,
    values,
)

ROOT = Path(__file__).parents[2]
# Above any clock's resolution, below what a person notices in a test run.
QUIET_S = 0.1
KILLS = 10


def run_sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """Do to the file what another program would; return the rows of the last statement."""
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def run_sql_on(
    path: Path, where: TopicPartition, statement: str, *parameters: int
) -> list[tuple[object, ...]]:
    """Run a statement on the table of a partition, which it calls `records`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        sql = "SELECT id FROM partitions WHERE topic = ? AND partition = ?"
        (table_id,) = connection.execute(sql, where).fetchone()
        statement = statement.replace("records", f"records_{table_id}")
        return connection.execute(statement, parameters).fetchall()


def files_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return [found.name for found in directory.iterdir()]


def set_mode(path: Path, mode: int) -> None:
    """Change who may read and write a file or a directory."""
    path.chmod(mode)


async def start_appender(path: Path, *arguments: str) -> Process:
    """Start a writer in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.embedded.appender", str(path), *arguments),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )


async def run_appender(path: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run a writer to its end; return its exit code, what it confirmed, and what it said."""
    process = await start_appender(path, *arguments)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def whole_transactions(reader: LogReader) -> list[list[int]]:
    """Return the numbers of the transactions in each partition, each counted once."""
    found = []
    for where, each in RECORDS_OF.items():
        numbers = [int(value or b"-1") for value in await values(reader, where)]
        once = numbers[::each]
        assert numbers == [number for number in once for _ in range(each)]
        found.append(once)
    return found


class AbortedError(Exception):
    """Ends a transaction that shall not be committed."""


class SqliteLogs(Logs):
    """A log in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: list[LogReader] = []
        self.opened_log()

    def opened_log(self, clock_ms: Callable[[], int] | None = None) -> SqliteLog:
        """Return a new connection of which the test may use every side."""
        log = (
            SqliteLog.open(self.path, create=True, clock_ms=clock_ms)
            if clock_ms
            else SqliteLog.open(self.path, create=True)
        )
        self._opened.append(log)
        return log

    async def reader(self) -> LogReader:
        reader = SqliteLog.open_reader(self.path)
        self._opened.append(reader)
        return reader

    async def writer(self) -> SqliteLog:
        return self.opened_log()

    async def publisher(self) -> SqliteLog:
        return self.opened_log()

    async def make_topic(self, topic: str, partitions: int) -> None:
        """Appending makes partitions here."""

    async def make_hole(self, where: TopicPartition, offset: int) -> None:
        run_sql_on(self.path, where, "DELETE FROM records WHERE offset = ?", offset)

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        run_sql_on(self.path, where, "DELETE FROM records WHERE offset < ?", offset)

    @asynccontextmanager
    async def uncommitted(self, where: TopicPartition, value: bytes) -> AsyncIterator[None]:
        log = await self.writer()
        with suppress(AbortedError):
            async with log._transaction():
                log._append({where: new(value, partition=where.partition)})
                yield
                raise AbortedError

    @asynccontextmanager
    async def committing_elsewhere(self, transactions: int) -> AsyncIterator[None]:
        process = await start_appender(self.path, "--transactions", str(transactions))
        try:
            yield
            _, errors = await process.communicate()
            assert (process.returncode, errors) == (0, b"")
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Close every connection."""
        for log in self._opened:
            await log.close()


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[SqliteLogs]:
    opened = SqliteLogs(tmp_path / "log.db")
    yield opened
    await opened.close()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that users without rights can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S_MAX", 0.05)


class TestSqliteLogKeepsTheContract(LogContract):
    """The cases that hold for every adapter."""


class TestRecords:
    async def test_offsets_begin_at_zero_and_rise_by_one(self, logs: SqliteLogs) -> None:
        log = await logs.publisher()
        await log.publish("fills", new(b"a", b"b"))
        await log.publish("fills", new(b"c"))
        assert await offsets(log, FILLS) == [0, 1, 2]

    async def test_an_offset_is_not_used_again_after_the_newest_record_was_deleted(
        self, logs: SqliteLogs
    ) -> None:
        log = await logs.publisher()
        await log.publish("fills", new(b"a", b"b"))
        await logs.make_hole(FILLS, 1)
        await log.publish("fills", new(b"c"))
        assert await offsets(log, FILLS) == [0, 2]

    async def test_records_of_one_transaction_carry_one_reading_of_the_given_clock(
        self, logs: SqliteLogs
    ) -> None:
        times = iter([1_767_312_000_000, 1_767_312_000_007])
        log = logs.opened_log(lambda: next(times))
        await log.take("main")
        await log.commit(LEDGER, new(b"e1", b"e2"), outbound(ORDERS, b"o1"))
        await log.publish("fills", new(b"f1"))
        stamps = [
            [record.timestamp_ms for record in (await log.read(where, 0, 10)).records]
            for where in (LEDGER, ORDERS, FILLS)
        ]
        assert stamps == [[1_767_312_000_000] * 2, [1_767_312_000_000], [1_767_312_000_007]]

    async def test_headers_are_kept_beside_the_record(self, logs: SqliteLogs) -> None:
        log = await logs.publisher()
        headers = (("source", b"\xff\x00"), ("source", b"again"))
        await log.publish("fills", [NewRecord(0, None, b"a", headers), NewRecord(0, None, b"b")])
        sql = "SELECT headers FROM records ORDER BY offset"
        (first,), (second,) = run_sql_on(logs.path, FILLS, sql)
        assert isinstance(first, bytes)
        assert tuple(msgspec.json.decode(first, type=list[tuple[str, bytes]])) == headers
        assert second is None

    async def test_topics_whose_names_differ_by_case_are_different(self, logs: SqliteLogs) -> None:
        log = await logs.publisher()
        await log.publish("fills", new(b"a"))
        await log.publish("Fills", new(b"b"))
        assert await values(log, FILLS) == [b"a"]

    async def test_records_outlive_their_connections(self, logs: SqliteLogs) -> None:
        await (await logs.publisher()).publish("fills", new(b"a"))
        await logs.close()
        assert await values(await logs.reader(), FILLS) == [b"a"]
        assert await values(await logs.publisher(), FILLS) == [b"a"]

    async def test_a_name_with_the_marks_of_a_uri_is_a_plain_file_name(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a b?mode=memory#%41.db"
        log = SqliteLog.open(path, create=True)
        await log.publish("fills", new(b"a"))
        await log.close()
        assert files_in(tmp_path) == [path.name]

    async def test_an_entry_for_another_partition_than_its_ledger_is_a_defect_of_the_caller(
        self, logs: SqliteLogs
    ) -> None:
        log = await logs.writer()
        await log.take("main")
        with pytest.raises(ValueError, match="another partition"):
            await log.commit(LEDGER, new(b"e1", partition=1), [])

    async def test_a_commit_without_a_shard_is_a_defect_of_the_caller(
        self, logs: SqliteLogs
    ) -> None:
        with pytest.raises(RuntimeError, match="take a shard"):
            await (await logs.writer()).commit(LEDGER, new(b"e1"), [])

    async def test_a_read_of_no_records_is_a_defect_of_the_caller(self, logs: SqliteLogs) -> None:
        with pytest.raises(ValueError, match="0"):
            await (await logs.reader()).read(FILLS, 0, 0)


class TestTransactions:
    async def test_a_commit_is_on_the_disk_before_it_returns(self, logs: SqliteLogs) -> None:
        connection = (await logs.writer())._connection
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        assert (synchronous, journal) == (2, "wal")

    async def test_a_writer_killed_at_any_moment_leaves_whole_transactions(
        self, logs: SqliteLogs
    ) -> None:
        chance = random.Random(20_260_102)  # noqa: S311 - moments, no secrets
        reader = await logs.reader()
        stored = 0
        for _ in range(KILLS):
            # Values above a page, so that a transaction is written in several steps.
            process = await start_appender(
                logs.path, "--first", str(stored), "--padding", str(chance.randrange(8_000))
            )
            assert process.stdout
            async with asyncio.timeout(HANG_S):
                assert await process.stdout.readline() == b"ready\n"
                confirmed = stored - 1
                for _ in range(chance.randrange(12)):
                    confirmed = int(await process.stdout.readline())
                # The writer goes on meanwhile: these reads move the kill to any place of its loop.
                for _ in range(chance.randrange(400)):
                    await reader.end_offset(LEDGER)
                process.send_signal(signal.SIGKILL)
                rest, errors = await process.communicate()
            assert (process.returncode, errors) == (-signal.SIGKILL, b"")
            confirmed = max([confirmed, *map(int, rest.split())])

            await (await logs.writer()).take("after-the-kill")
            fresh = await logs.reader()
            ledger, *others = await whole_transactions(fresh)
            assert all(numbers == ledger for numbers in others)
            assert ledger == list(range(len(ledger)))
            # The last one may have been committed without the time to say so.
            assert len(ledger) - 1 in (confirmed, confirmed + 1)
            stored = len(ledger)
        assert run_sql(logs.path, "PRAGMA integrity_check") == [("ok",)]
        assert stored > KILLS

    async def test_processes_that_make_the_file_at_once_share_it(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        ends = await asyncio.gather(
            *(
                run_appender(path, "--shard", str(shard), "--transactions", "10")
                for shard in range(4)
            )
        )
        assert [(code, errors) for code, _, errors in ends] == [(0, "")] * 4
        log = SqliteLog.open_reader(path)
        ledger, *others = await whole_transactions(log)
        await log.close()
        assert all(numbers == ledger for numbers in others)
        assert sorted(ledger) == sorted([*range(10)] * 4)

    async def test_a_file_that_was_made_while_this_process_waited_for_its_lock_is_left_as_it_is(
        self, logs: SqliteLogs
    ) -> None:
        await (await logs.publisher()).publish("fills", new(b"a"))
        with closing(sqlite3.connect(logs.path, isolation_level=None)) as late:
            sqlite_file._make(late)
        assert await values(await logs.reader(), FILLS) == [b"a"]

    async def test_a_commit_waits_for_a_lock_while_other_tasks_go_on(
        self, logs: SqliteLogs
    ) -> None:
        log = await logs.writer()
        await log.take("main")
        with closing(sqlite3.connect(logs.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            committing = asyncio.create_task(log.commit(LEDGER, new(b"e1"), []))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not committing.done()
            assert await values(await logs.reader(), LEDGER) == []
            other.execute("ROLLBACK")
        async with asyncio.timeout(HANG_S):
            await committing
        assert await values(log, LEDGER) == [b"e1"]

    @pytest.mark.usefixtures("no_patience")
    async def test_a_lock_that_is_never_released_names_the_file(self, logs: SqliteLogs) -> None:
        log = await logs.writer()
        await log.take("main")
        with closing(sqlite3.connect(logs.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for attempt in (
                log.take("main"),
                log.commit(LEDGER, new(b"e1"), []),
                log.publish("fills", new(b"f1")),
            ):
                with pytest.raises(LogUnavailableError, match=r"log\.db is locked: end the"):
                    await attempt
        await log.commit(LEDGER, new(b"e2"), [])
        assert await values(log, LEDGER) == [b"e2"]

    async def test_a_full_database_refuses_the_whole_transaction_and_says_so(
        self, logs: SqliteLogs
    ) -> None:
        log = await logs.writer()
        await log.take("main")
        await log.commit(LEDGER, new(b"e1"), [])
        pages = log._connection.execute("PRAGMA page_count").fetchone()[0]
        log._connection.execute(f"PRAGMA max_page_count = {pages + 8}")
        with pytest.raises(LogUnavailableError, match=r"no room for .*log\.db .*free space"):
            await log.commit(LEDGER, new(b"e2", b"x" * 100_000), outbound(ORDERS, b"o2"))
        await log.commit(LEDGER, new(b"e3"), outbound(ORDERS, b"o3"))
        assert await values(log, LEDGER) == [b"e1", b"e3"]
        assert await values(log, ORDERS) == [b"o3"]

    async def test_no_room_at_the_commit_itself_leaves_its_end_unknown(
        self, logs: SqliteLogs
    ) -> None:
        # Small transactions stay in memory until they are committed.
        code, output, errors = await run_appender(
            logs.path, "--padding", "10000", "--file-bytes-max", "1000000"
        )
        assert code == 1
        assert errors.startswith("CommitUnknownError: ")
        assert "log.db: " in errors
        confirmed = output.split()[1:]
        ledger, *others = await whole_transactions(await logs.reader())
        assert all(numbers == ledger for numbers in others)
        assert len(ledger) - len(confirmed) in (0, 1)
        assert len(confirmed) > 0

    async def test_no_room_in_front_of_the_commit_is_known_to_have_left_nothing(
        self, logs: SqliteLogs
    ) -> None:
        # A transaction above the cache of 2 MB is written to the file while it goes on.
        code, output, errors = await run_appender(
            logs.path, "--padding", "2000000", "--file-bytes-max", "1000000"
        )
        assert (code, output) == (1, "ready\n")
        assert errors.startswith("LogUnavailableError: ")
        assert "its free space and the limit on the size of files" in errors
        assert await whole_transactions(await logs.reader()) == [[], [], []]


class TestReaders:
    async def test_a_reader_cannot_write(self, logs: SqliteLogs) -> None:
        reader = await logs.reader()
        assert isinstance(reader, SqliteLog)
        for attempt in (reader.publish("fills", new(b"a")), reader.take("main")):
            with pytest.raises(LogUnavailableError, match=r"log\.db cannot be opened or written"):
                await attempt

    async def test_a_reader_holds_nothing_between_two_reads(self, logs: SqliteLogs) -> None:
        reader = await logs.reader()
        await (await logs.publisher()).publish("fills", new(b"a"))
        await records_to_end(reader, FILLS, 0)
        with pytest.raises(LogUnavailableError):
            await reader.read(FILLS, 99, 1)
        (busy, *_), *_ = run_sql(logs.path, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert busy == 0

    async def test_a_wait_after_a_reported_append_lasts_its_time(self, logs: SqliteLogs) -> None:
        log, reader = await logs.publisher(), await logs.reader()
        await log.publish("fills", new(b"a"))
        loop = asyncio.get_running_loop()
        for side in (log, reader):
            await side.wait(0)
            started_s = loop.time()
            await side.wait(QUIET_S)
            assert loop.time() - started_s >= QUIET_S

    async def test_a_wait_ends_with_an_append_through_the_same_connection(
        self, logs: SqliteLogs
    ) -> None:
        log = await logs.publisher()
        await log.publish("fills", new(b"a"))
        async with asyncio.timeout(HANG_S):
            await log.wait(10 * HANG_S)


class TestFilesThatAreRefused:
    async def test_a_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "none.db"
        with pytest.raises(LogUnavailableError, match=r"no log at .*none\.db: check the path"):
            SqliteLog.open_reader(path)
        with pytest.raises(LogUnavailableError, match=r"no log at .*none\.db: check the path"):
            SqliteLog.open(path, create=False)
        assert files_in(tmp_path) == []

    async def test_a_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(LogUnavailableError, match=r"no directory .*nowhere: make it"):
            SqliteLog.open(tmp_path / "nowhere" / "log.db", create=True)
        assert files_in(tmp_path) == []

    async def test_a_directory(self, tmp_path: Path) -> None:
        for attempt in (SqliteLog.open_reader, create, use):
            with pytest.raises(LogUnavailableError, match="is a directory: name a file in it"):
                attempt(tmp_path)

    async def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        content = b"Buy milk, sell bitcoin.\n" * 100
        path.write_bytes(content)
        for attempt in (SqliteLog.open_reader, create, use):
            with pytest.raises(LogUnavailableError, match=r"notes\.txt is not a log of ours"):
                attempt(path)
        assert path.read_bytes() == content

    @pytest.mark.parametrize(
        "statement", ["CREATE TABLE cookies (id INTEGER)", "PRAGMA application_id = 77"]
    )
    async def test_a_database_of_another_program(self, tmp_path: Path, statement: str) -> None:
        path = tmp_path / "browser.db"
        run_sql(path, statement)
        content = path.read_bytes()
        for attempt in (SqliteLog.open_reader, create, use):
            with pytest.raises(LogUnavailableError, match="a database of another program"):
                attempt(path)
        assert path.read_bytes() == content

    async def test_a_log_of_a_newer_release(self, tmp_path: Path) -> None:
        path = tmp_path / "log.db"
        await SqliteLog.open(path, create=True).close()
        run_sql(path, f"PRAGMA user_version = {sqlite_file.SCHEMA_VERSION + 1}")
        for attempt in (SqliteLog.open_reader, create, use):
            with pytest.raises(LogUnavailableError, match="a log of version 2, this release reads"):
                attempt(path)

    async def test_an_empty_file_is_only_made_a_log_where_that_was_asked_for(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "empty.db"
        path.touch()
        for attempt in (SqliteLog.open_reader, use):
            with pytest.raises(LogUnavailableError, match=r"empty\.db holds no log yet"):
                attempt(path)
        await SqliteLog.open(path, create=True).close()
        await SqliteLog.open_reader(path).close()

    async def test_a_damaged_file_halts_the_reader(self, tmp_path: Path) -> None:
        path = tmp_path / "log.db"
        log = SqliteLog.open(path, create=True)
        await log.publish("fills", new(*[b"x" * 500] * 200))
        await log.close()
        content = path.read_bytes()
        # The pages behind the schema: the file still opens, its records are gone.
        healthy, page = 6 * 4_096, b"\xff" * 4_096
        path.write_bytes(content[:healthy] + page * ((len(content) - healthy) // 4_096))
        reader = SqliteLog.open_reader(path)
        # At once: damage is no lock that could be waited for.
        async with asyncio.timeout(sqlite_file.BUSY_S_MAX / 2):
            with pytest.raises(CorruptionError, match=r"log\.db is damaged .*restore a backup"):
                await values(reader, FILLS)
        await reader.close()

    @pytest.mark.usefixtures("no_patience")
    async def test_a_file_that_another_process_locked(self, tmp_path: Path) -> None:
        path = tmp_path / "log.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for attempt in (SqliteLog.open_reader, create, use):
                with pytest.raises(LogUnavailableError, match=r"log\.db is locked: end the"):
                    attempt(path)

    async def test_a_file_that_this_user_may_not_read(self, open_directory: Path) -> None:
        path = open_directory / "log.db"
        await SqliteLog.open(path, create=True).close()
        set_mode(path, 0)
        code, _, errors = await run_appender(path, "--unprivileged", "--only-read")
        assert code == 1
        assert errors.startswith(f"LogUnavailableError: {path} cannot be opened or written")

    async def test_a_file_that_this_user_may_not_write(self, open_directory: Path) -> None:
        path = open_directory / "log.db"
        await SqliteLog.open(path, create=True).close()
        set_mode(path, 0o444)
        code, _, errors = await run_appender(path, "--unprivileged", "--transactions", "1")
        assert code == 1
        assert errors.startswith(f"LogUnavailableError: {path} is write-protected: let this user")

    async def test_a_directory_that_this_user_may_not_write(self, open_directory: Path) -> None:
        path = open_directory / "log.db"
        set_mode(open_directory, 0o555)
        code, _, errors = await run_appender(path, "--unprivileged", "--transactions", "1")
        assert code == 1
        assert errors.startswith(f"LogUnavailableError: {path} cannot be opened or written")
        assert "write its directory" in errors

    async def test_a_reader_needs_the_files_beside_the_log(self, open_directory: Path) -> None:
        path = open_directory / "log.db"
        await SqliteLog.open(path, create=True).close()
        set_mode(path, 0o444)
        set_mode(open_directory, 0o555)
        code, _, errors = await run_appender(path, "--unprivileged", "--only-read")
        assert code == 1
        assert "where SQLite keeps log.db-wal and log.db-shm" in errors


def create(path: Path) -> SqliteLog:
    """Open a log as a writer that may make it."""
    return SqliteLog.open(path, create=True)


def use(path: Path) -> SqliteLog:
    """Open a log as a writer that may not make it."""
    return SqliteLog.open(path, create=False)


async def test_a_read_of_large_records_ends_early_and_goes_on(tmp_path: Path) -> None:
    log = SqliteLog.open(tmp_path / "log.db", create=True)
    where = TopicPartition("fills", 0)
    for number in range(5):
        await log.publish("fills", [NewRecord(0, None, bytes([number]) * (READ_BYTES_MAX // 2))])
    sizes, offset = [], 0
    while offset < await log.end_offset(where):
        batch = await log.read(where, offset, 1_000)
        sizes.append(len(batch.records))
        offset = batch.next_offset
    await log.close()
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_is_taken_away_under_a_writer_ends_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog.open(path, create=True)
    await log.take("main")
    path.rename(tmp_path / "away.db")
    if how == "replaced":
        await SqliteLog.open(path, create=True).close()
    ledger = TopicPartition("fund-ledger", 0)
    with pytest.raises(LogUnavailableError, match="deleted or replaced"):
        await log.commit(ledger, [NewRecord(0, None, b"entry")], [])
    with pytest.raises(LogUnavailableError, match="deleted or replaced"):
        await log.wait(0)
    await log.close()
