"""Ledgers to be projected, and what their read models must say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import select

from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.projections import tables
from insurance_fund.projections.database import Database
from insurance_fund.projections.outcomes import Outcomes
from insurance_fund.projections.projector import Projector
from insurance_fund.streams.log import Record
from tests.property.choices import Chooser, Seeded
from tests.property.lives import Lives

ACTIONS_A_LIFE: Final = 60
LEDGER: Final = "main"

Rows = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


def random_ledger(seed: int, actions: int = ACTIONS_A_LIFE) -> list[bytes]:
    """Return the lines of a ledger of many liquidations on shared funds."""
    lives = Lives(Seeded(seed))
    for _ in range(actions):
        lives.act_by_weight()
    return lives.world.lines


def records_of(lines: Sequence[bytes], draw: Chooser | None = None) -> list[Record]:
    """Return lines as records of a log; given `draw`, offsets have holes as a cluster's have."""
    records, offset = [], 0
    for line in lines:
        offset += 1 if draw is None else draw.pick((1, 1, 2, 5))
        records.append(Record(offset - 1, 0, None, line))
    return records


def in_batches(records: Sequence[Record], draw: Chooser) -> Iterator[Sequence[Record]]:
    """Cut records into batches of all sizes; some of what was there comes again."""
    done = 0
    while done < len(records):
        size = draw.pick((1, 1, 2, 5, 20))
        again = draw.pick((0, 0, 1, 7))
        yield records[max(0, done - again) : done + size]
        done += size


def project(database: Database, records: Sequence[Record], ledger: str = LEDGER) -> None:
    """Apply records at once."""
    Projector(database, ledger).apply(records)


def rows_of(database: Database) -> Rows:
    """Return all rows of the read models, by table and key."""
    found: Rows = {}
    with database.connect() as connection:
        for table in tables.READ_MODELS:
            keys = [column.name for column in table.primary_key]
            rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            found[table.name] = {tuple(row[key] for key in keys): row for row in rows}
    return found


def fold(lines: Sequence[bytes]) -> tuple[State, Outcomes]:
    """Return what the fund itself, and the outcomes that the commands show, come to."""
    state, outcomes = State(), Outcomes()
    for line in lines:
        entry = decode_entry(line)
        apply_entry(state, entry, sha256_hex(line))
        outcomes.apply(entry)
    return state, outcomes
