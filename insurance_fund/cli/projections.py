"""The command `projections`: building read models anew, checking them, how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import typer

from insurance_fund.cli import common, screen
from insurance_fund.events import topics
from insurance_fund.events.errors import ReadModelsError
from insurance_fund.logs import database_url, open_reader
from insurance_fund.projections.damage import set_aside_if_damaged
from insurance_fund.projections.database import REBUILD, Database, open_database
from insurance_fund.projections.projector import READ_MODELS, Position, read_positions
from insurance_fund.projections.rebuild import Checked, check, rebuild
from insurance_fund.projections.times import utc
from insurance_fund.settings import Settings
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogReader, TopicPartition

_Places = dict[str, TopicPartition]

projections_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Read models: what the API, the dashboard and the workers show. They are disposable.",
)

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Where the read models are: sqlite:PATH or postgresql://USER@HOST/NAME (setting "
        "INSURANCE_FUND_DATABASE, default sqlite:insurance-fund-views.db).",
        show_default=False,
    ),
]


@projections_app.command("rebuild", epilog=common.EXIT_CODES)
def rebuild_command(
    database: DatabaseOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Drop the read models and build them anew from the ledgers.

    Until it has ended nobody else can read or write them: `serve` waits, workers end and are to be
    started again. Webhooks go on where they were: nothing is sent again.
    """
    settings = common.settings_for(log, database=database)
    positions = asyncio.run(_rebuild(settings))
    rows = [{"ledger": name, **position._asdict()} for name, position in positions.items()]
    if output is screen.Format.JSON:
        screen.show_json(rows)
        return
    for row in rows:
        screen.say(
            f"ledger {row['ledger']}: {screen.counted(row['sequence'] + 1, 'entry', 'entries')}, "
            f"head {row['sha256']}"
        )


@projections_app.command("check", epilog=common.AUDIT_EXIT_CODES)
def check_command(
    database: DatabaseOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Compare the read models with a rebuild, row by row, up to where they have come."""
    settings = common.settings_for(log, database=database)
    checked = asyncio.run(_check(settings))
    if output is screen.Format.JSON:
        screen.show_json([_check_row(name, one) for name, one in checked.items()])
    else:
        _print_check(checked)
    if any(one.findings for one in checked.values()):
        raise typer.Exit(common.EXIT_FOUND)


@projections_app.command("status", epilog=common.EXIT_CODES)
def status_command(
    database: DatabaseOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Tell how far the read models and webhooks have come, and how far the ledgers are."""
    settings = common.settings_for(log, database=database)
    rows = asyncio.run(_status(settings))
    if output is screen.Format.JSON:
        screen.show_json(rows)
        return
    shown = [{**row, "time": "" if row["now_ms"] is None else utc(row["now_ms"])} for row in rows]
    screen.show_rows("Positions", shown, ("name", "ledger", "time"), ("sequence", "entries_behind"))


def _ledgers(settings: Settings) -> _Places:
    return {name: common.shard_of(settings, name)[1] for name in settings.shards}


async def _rebuild(settings: Settings) -> dict[str, Position]:
    aside = set_aside_if_damaged(database_url(settings))
    if aside is not None:
        screen.complain(f": the database was damaged and is kept as {aside.path}", head="warning")
        if not aside.positions_kept:
            screen.complain(
                ": how far webhooks had come could not be read of it: each begins at the end of "
                "the ledgers, as a new one does; what it has missed is on adl-triggers",
                head="warning",
            )
    with screen.progress_bar("building read models") as moved:
        async with open_reader(settings) as log:
            ledgers = _ledgers(settings)
            told = await _Told.of(log, ledgers, moved)
            return await rebuild(database_url(settings), log, ledgers, told)


async def _check(settings: Settings) -> dict[str, Checked]:
    database = open_database(database_url(settings), create=False)
    try:
        with screen.progress_bar("checking read models") as moved:
            async with open_reader(settings) as log:
                ledgers = _ledgers(settings)
                await _refuse_empty(database, log, ledgers)
                told = await _Told.of(log, ledgers, moved)
                return await check(database, log, ledgers, told)
    finally:
        database.close()


class _Told:
    """Adds up how far ledgers have come, for a progress bar."""

    def __init__(self, whole: int, moved: Callable[..., None]) -> None:
        self._whole, self._moved = whole, moved
        self._done: dict[str, int] = {}

    @classmethod
    async def of(cls, log: LogReader, ledgers: _Places, moved: Callable[..., None]) -> _Told:
        """Return one that knows how much there is in all, about."""
        ends = [await _end(log, where) for where in ledgers.values()]
        return cls(sum(ends), moved)

    def __call__(self, ledger: str, sequence: int) -> None:
        self._done[ledger] = sequence + 1
        self._moved(sum(self._done.values()), self._whole)


async def _end(log: LogReader, where: TopicPartition) -> int:
    there = where.partition in await log.partitions(topics.FUND_LEDGER)
    return await log.end_offset(where) if there else 0


async def _status(settings: Settings) -> list[dict[str, Any]]:
    database = open_database(database_url(settings), create=False)
    try:
        with database.connect() as connection:
            positions = read_positions(connection)
    finally:
        database.close()
    rows = []
    async with open_reader(settings) as log:
        for ledger, where in _ledgers(settings).items():
            here = {name: p for (name, of), p in positions.items() if of == ledger}
            for name, position in {READ_MODELS: Position(), **here}.items():
                rows.append(
                    {
                        "name": name,
                        "ledger": ledger,
                        "sequence": position.sequence,
                        "sha256": position.sha256,
                        "now_ms": position.now_ms if position.sequence >= 0 else None,
                        "next_offset": position.next_offset,
                        "entries_behind": await _behind(log, where, position.next_offset),
                    }
                )
    return rows


async def _behind(log: LogReader, where: TopicPartition, offset: int) -> int:
    """Count the entries from an offset on; offsets have holes."""
    if not await _end(log, where):
        return 0
    return len([0 async for _ in partition_records(log, where, offset)])


def _check_row(ledger: str, checked: Checked) -> dict[str, Any]:
    position = checked.position
    return {
        "ledger": ledger,
        "sequence": position.sequence,
        "sha256": position.sha256,
        "findings": [
            {
                "table": finding.table,
                "key": list(finding.key),
                "live": _texts(finding.live),
                "rebuilt": _texts(finding.rebuilt),
            }
            for finding in checked.findings
        ],
    }


def _texts(row: dict[str, Any] | None) -> dict[str, str] | None:
    return None if row is None else {str(name): str(value) for name, value in row.items()}


async def _refuse_empty(database: Database, log: LogReader, ledgers: _Places) -> None:
    """Raise ReadModelsError for a ledger with entries none of which the read models have."""
    with database.connect() as connection:
        positions = read_positions(connection)
    for ledger, where in ledgers.items():
        if (READ_MODELS, ledger) not in positions and await _behind(log, where, 0):
            raise ReadModelsError(
                f"the read models in {database} have nothing of ledger {ledger}: {REBUILD}"
            )


def _print_check(checked: dict[str, Checked]) -> None:
    for ledger, one in checked.items():
        screen.say(
            f"ledger {ledger}, up to entry {one.position.sequence}: "
            + ("the read models are those of a rebuild" if not one.findings else "they differ")
        )
        for finding in one.findings:
            row = _check_row(ledger, Checked(one.position, [finding]))["findings"][0]
            screen.say(
                f"  {finding.table} {'/'.join(map(str, finding.key))}: "
                f"{_told(row['live'])}, rebuilt {_told(row['rebuilt'])}"
            )
    if any(one.findings for one in checked.values()):
        screen.say("`insurance-fund projections rebuild` puts them right")


def _told(row: dict[str, str] | None) -> str:
    if row is None:
        return "missing"
    return ", ".join(f"{name} {value}" for name, value in row.items())
