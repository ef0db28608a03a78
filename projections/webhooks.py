"""Webhooks: a target hears of each ADL trigger of the ledgers, and of what becomes of it.

The position of a target is a row of its own, and moves only after the target has taken what an
entry tells. A message can come again where a worker died between the two: the target knows it by
its key. Building the read models anew leaves positions alone, so it sends nothing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import select

from insurance_fund.events import topics
from insurance_fund.events.errors import ReadModelsError
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.projections import tables
from insurance_fund.projections.database import Database
from insurance_fund.projections.loading import insert_missing
from insurance_fund.projections.projector import (
    OVERTAKEN_MAX,
    OvertakenError,
    Position,
    check_follows,
    move_position,
    read_position,
)
from insurance_fund.projections.webhook import Webhook
from insurance_fund.projections.webhook_messages import messages_of
from insurance_fund.projections.webhook_target import Target
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogReader, Record, TopicPartition


class Subscription:
    """Takes the entries of one ledger for one target."""

    def __init__(self, database: Database, webhook: Webhook, target: Target, ledger: str) -> None:
        self._database = database
        self._name = webhook.position
        self._target = target
        self._ledger = ledger
        # As stored; None where the database has to be asked.
        self._at: Position | None = None

    @property
    def ledger(self) -> str:
        """The ledger's name."""
        return self._ledger

    async def position(self) -> Position:
        """Return how far the target has been told, as the database has it."""
        return await asyncio.to_thread(self._read)

    async def take(self, records: Sequence[Record], halted: asyncio.Event) -> None:
        """Tell the target what the records say, until `halted`.

        Raises CorruptionError for a record that does not follow, ReadModelsError.
        """
        for _ in range(OVERTAKEN_MAX):
            try:
                return await self._take(records, halted)
            except OvertakenError:
                # Another worker told it meanwhile: what that has told is passed by from here on.
                self._at = None
            except BaseException:
                self._at = None
                raise
        raise ReadModelsError(
            f"the position of {self._name} in ledger {self._ledger} is moved by another worker at "
            "the same time"
        )

    async def _take(self, records: Sequence[Record], halted: asyncio.Event) -> None:
        if self._at is None:
            self._at = await self.position()
        at = self._at
        for record in records:
            if record.offset < at.next_offset:
                continue
            entry, sha256 = check_follows(record.value or b"", at, self._ledger)
            if entry is None:
                continue
            messages = messages_of(entry)
            if messages:
                # A worker that woke up late finds here that others have gone on.
                await self._move(at)
                for message in messages:
                    if not await self._target.deliver(message, halted):
                        return
            at = Position(entry.sequence, sha256, record.offset + 1, entry.now_ms)
            if messages:
                await self._move(at)
        if at != self._at:
            await self._move(at)

    async def _move(self, to: Position) -> None:
        await asyncio.to_thread(self._write, to)
        self._at = to

    def _read(self) -> Position:
        with self._database.connect() as connection:
            return read_position(connection, self._name, self._ledger)

    def _write(self, to: Position) -> None:
        assert self._at is not None
        with self._database.begin() as connection:
            move_position(connection, self._name, self._ledger, self._at, to)


async def begin_at_end(
    log: LogReader, database: Database, webhook: Webhook, ledgers: Sequence[str]
) -> None:
    """Let a target that is new begin at the ends of all ledgers as they are now.

    To one that is known, a ledger that is new is told from its first entry on.
    """
    if not await asyncio.to_thread(_is_known, database, webhook):
        ends = {
            ledger: await _end(log, TopicPartition(topics.FUND_LEDGER, partition))
            for partition, ledger in enumerate(ledgers)
        }
        await asyncio.to_thread(_begin, database, webhook, ends)


def _is_known(database: Database, webhook: Webhook) -> bool:
    table = tables.positions
    query = select(table.c.ledger).where(table.c.name == webhook.position).limit(1)
    with database.connect() as connection:
        return connection.execute(query).first() is not None


def _begin(database: Database, webhook: Webhook, ends: dict[str, Position]) -> None:
    with database.begin() as connection:
        statement = insert_missing(tables.positions, connection.dialect.name)
        for ledger, end in ends.items():
            row = {"name": webhook.position, "ledger": ledger, **end._asdict()}
            connection.execute(statement, row)


async def _end(log: LogReader, where: TopicPartition) -> Position:
    """Return the position behind the last entry of a ledger that is committed."""
    if where.partition not in await log.partitions(where.topic):
        return Position()
    first, end = await log.first_offset(where), await log.end_offset(where)
    back = 1
    while True:
        # Behind the last entry may stand marks of transactions, and ones that are open or aborted.
        offset = max(first, end - back)
        found = [record async for record in partition_records(log, where, offset)]
        if found:
            line = found[-1].value or b""
            entry = decode_entry(line)
            return Position(entry.sequence, sha256_hex(line), found[-1].offset + 1, entry.now_ms)
        if offset == first:
            return Position()
        back *= 4
