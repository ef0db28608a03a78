"""The projector: entries of one ledger into rows, with the position in the same transaction.

The position moves by compare-and-set, so rows of a worker that has been overtaken roll back. What
was applied already is passed by: applying an entry twice equals once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, and_, select, update

from insurance_fund.events.errors import CorruptionError, ReadModelsError
from insurance_fund.events.ledger import GENESIS, Entry, decode_entry, sha256_hex
from insurance_fund.projections import tables
from insurance_fund.projections.database import BUILDING, READY, REBUILD, Database
from insurance_fund.projections.fold import apply
from insurance_fund.projections.known import Known
from insurance_fund.projections.loading import insert_missing, load_known, write_changes
from insurance_fund.streams.log import Record

READ_MODELS: Final = "read_models"
# A worker that was overtaken reads where the other is and goes on from there; more often in a row
# than this nobody gets further.
OVERTAKEN_MAX: Final = 3


class Position(NamedTuple):
    """How far something has come: the last entry applied, and where the log goes on behind it.

    `sequence` is -1 and `sha256` 64 zeros where nothing was applied.
    """

    sequence: int = -1
    sha256: str = GENESIS
    next_offset: int = 0
    now_ms: int = 0


class OvertakenError(Exception):
    """Another worker has moved the position."""


class Projector:
    """Applies a ledger's entries to its read models. For one thread at a time."""

    def __init__(self, database: Database, ledger: str, *, building: bool = False) -> None:
        """`building` is for who builds the read models anew: no other writes what is not whole."""
        self._database = database
        self.ledger = ledger
        self._wanted = BUILDING if building else READY
        self._known: Known | None = None
        self._position = Position()

    def position(self) -> Position:
        """Return how far the read models have come, as the database has it.

        Raises ReadModelsError where they cannot be used.
        """
        with self._database.connect() as connection:
            return read_position(connection, READ_MODELS, self.ledger)

    def apply(self, records: Sequence[Record]) -> Position:
        """Apply records of the ledger in one transaction, and return the new position.

        Raises CorruptionError with the sequence where an entry is missing or the chain is broken,
        ReadModelsError where the database cannot be used. Nothing is written then.
        """
        for _ in range(OVERTAKEN_MAX):
            try:
                return self._apply(records)
            except OvertakenError:
                self._known = None
            except BaseException:
                # Rows that were not written must not be taken for written.
                self._known = None
                raise
        raise ReadModelsError(
            f"the read models of ledger {self.ledger} in {self._database} are moved by another "
            "worker at the same time: let one worker at a time carry a ledger"
        )

    def _apply(self, records: Sequence[Record]) -> Position:
        if self._known is None:
            self._load()
        assert self._known is not None
        known, before, after = self._known, self._position, self._position
        for record in records:
            if record.offset < after.next_offset:
                continue
            entry, sha256 = check_follows(record.value or b"", after, self.ledger)
            if entry is not None:
                apply(entry, record.offset, known)
                after = Position(entry.sequence, sha256, record.offset + 1, entry.now_ms)
        if after == before:
            return after
        with self._database.begin() as connection:
            move_position(connection, READ_MODELS, self.ledger, before, after)
            write_changes(connection, known.take_changes())
        self._position = after
        return after

    def _load(self) -> None:
        if self._database.state() != self._wanted:
            raise ReadModelsError(f"the read models in {self._database} are not whole: {REBUILD}")
        with self._database.connect() as connection:
            self._position = read_position(connection, READ_MODELS, self.ledger)
            self._known = load_known(connection, self.ledger)


def check_follows(line: bytes, before: Position, ledger: str) -> tuple[Entry | None, str]:
    """Return an entry and its SHA-256; None for one that was applied before.

    Raises CorruptionError for an entry that is not the next one of this ledger and its chain.
    """
    expected = before.sequence + 1
    try:
        entry = decode_entry(line)
    except CorruptionError as error:
        raise CorruptionError(f"ledger {ledger}, entry {expected}: {error}", expected) from error
    if entry.ledger != ledger:
        raise CorruptionError(
            f"ledger {ledger}, entry {expected}: an entry of ledger {entry.ledger!r} stands there",
            expected,
        )
    if entry.sequence < expected:
        return None, ""
    if entry.sequence > expected:
        raise CorruptionError(
            f"ledger {ledger}: entry {expected} is missing, {entry.sequence} follows "
            f"{before.sequence}: `insurance-fund verify` says more; if the ledger is whole, "
            f"{REBUILD}",
            expected,
        )
    if entry.previous != before.sha256:
        raise CorruptionError(
            f"ledger {ledger}: the chain is broken at entry {expected}: it follows "
            f"{entry.previous}, the entry before is {before.sha256}; `insurance-fund verify` says "
            f"more; if the ledger is whole, {REBUILD}",
            expected,
        )
    return entry, sha256_hex(line)


def read_position(connection: Connection, name: str, ledger: str) -> Position:
    """Return how far `name` has come in a ledger."""
    table = tables.positions
    columns = (table.c[column] for column in Position._fields)
    query = select(*columns).where(and_(table.c.name == name, table.c.ledger == ledger))
    row = connection.execute(query).one_or_none()
    return Position() if row is None else Position(*row)


def read_positions(connection: Connection) -> dict[tuple[str, str], Position]:
    """Return how far everything has come, by its name and the ledger."""
    table = tables.positions
    columns = (table.c[column] for column in Position._fields)
    rows = connection.execute(select(table.c.name, table.c.ledger, *columns))
    return {(row[0], row[1]): Position(*row[2:]) for row in rows}


def move_position(
    connection: Connection, name: str, ledger: str, before: Position, after: Position
) -> None:
    """Move a position, if it still is where it was.

    Raises OvertakenError where it is not.
    """
    table = tables.positions
    if before == Position():
        row = {"name": name, "ledger": ledger, **before._asdict()}
        connection.execute(insert_missing(table, connection.dialect.name), row)
    same = and_(
        table.c.name == name,
        table.c.ledger == ledger,
        table.c.sequence == before.sequence,
        # Another ledger of the same name may have come as far: models of a log that was replaced.
        table.c.sha256 == before.sha256,
    )
    if connection.execute(update(table).where(same).values(**after._asdict())).rowcount != 1:
        raise OvertakenError
