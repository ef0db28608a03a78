"""Building read models anew from the ledgers, and checking them against such a rebuild."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from sqlalchemy import delete

from insurance_fund.projections import tables
from insurance_fund.projections.compare import Finding, differences
from insurance_fund.projections.database import (
    BUILDING,
    READY,
    Database,
    open_database,
)
from insurance_fund.projections.engines import parse_database_url
from insurance_fund.projections.follower import catch_up
from insurance_fund.projections.projector import (
    READ_MODELS,
    Position,
    Projector,
    read_position,
)
from insurance_fund.streams.log import LogReader, TopicPartition

Progress = Callable[[str, int], None]
Ledgers = Mapping[str, TopicPartition]


async def rebuild(
    url: str, log: LogReader, ledgers: Ledgers, progress: Progress = lambda ledger, sequence: None
) -> dict[str, Position]:
    """Drop the read models and build them anew; return how far each ledger has come.

    Positions of webhooks stay, so nothing is sent again. Until the end the read models are marked
    as being built, and whoever else would read or write them is refused.
    """
    database = Database(parse_database_url(url))
    try:
        await asyncio.to_thread(_clear, database)
        positions = {}
        for ledger, where in ledgers.items():
            projector = Projector(database, ledger, building=True)
            positions[ledger] = await catch_up(log, where, projector, partial(progress, ledger))
        await asyncio.to_thread(database.set_state, READY)
        return positions
    finally:
        database.close()


def _clear(database: Database) -> None:
    with database.begin() as connection:
        tables.metadata.create_all(connection)
    database.set_state(BUILDING)
    with database.begin() as connection:
        tables.metadata.drop_all(connection, tables=tables.READ_MODELS)
        tables.metadata.create_all(connection, tables=tables.READ_MODELS)
        connection.execute(delete(tables.positions).where(tables.positions.c.name == READ_MODELS))


class Checked(NamedTuple):
    """What a check of a ledger's read models came to: up to where, and what differs."""

    position: Position
    findings: list[Finding]


async def check(
    database: Database,
    log: LogReader,
    ledgers: Ledgers,
    progress: Progress = lambda ledger, sequence: None,
) -> dict[str, Checked]:
    """Compare read models with a rebuild, each ledger up to where it has come.

    Raises CorruptionError where the ledger's chain is broken.
    """
    checked = {}
    with tempfile.TemporaryDirectory(prefix="insurance-fund-check-") as folder:
        for number, (ledger, where) in enumerate(ledgers.items()):
            rebuilt = open_database(f"sqlite:{folder}/{number}.db")
            try:
                projector = Projector(rebuilt, ledger)

                build = partial(catch_up, log, where, projector, partial(progress, ledger))
                # Most of it first: what is read of the live ones in the end is of one moment.
                await build(Projector(database, ledger).position().next_offset)
                with database.connect() as live:
                    position = read_position(live, READ_MODELS, ledger)
                    await build(position.next_offset)
                    with rebuilt.connect() as other:
                        found = differences(live, other, ledger)
                checked[ledger] = Checked(position, found)
            finally:
                rebuilt.close()
    return checked
