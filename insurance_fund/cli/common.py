"""What the commands share: options, settings, opening a log, reading a ledger, exit codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from insurance_fund.cli import screen
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.settings import Settings, load_settings
from insurance_fund.streams.lines import ledger_lines
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import parse_log_url

PROGRESS_EVERY: Final = 1_000
EXIT_FOUND: Final = 1
EXIT_COULD_NOT: Final = 2
EXIT_FENCED: Final = 75
EXIT_CODES: Final = "Exit codes: 0 done, 1 failed or halted, 2 could not run, 75 fenced."
AUDIT_EXIT_CODES: Final = "Exit codes: 0 clean, 1 findings, 2 could not run."


LogOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="URL",
        help="Where the log is: sqlite:PATH (setting INSURANCE_FUND_LOG, "
        "default sqlite:insurance-fund.db).",
        show_default=False,
    ),
]
FormatOption = Annotated[
    screen.Format, typer.Option("--format", help="Print a table for people or JSON for programs.")
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="NAME", help="The ledger; needed where there are several."),
]


def settings_for(log: str | None, **options: Any) -> Settings:
    """Return the effective settings of a command."""
    return load_settings({"log": log, **options})


def log_path(settings: Settings) -> Path:
    """Return the SQLite file that the settings name."""
    return parse_log_url(str(settings.text("log")))


@asynccontextmanager
async def open_reader(settings: Settings) -> AsyncIterator[LogReader]:
    """Open the log for reading."""
    log = SqliteLog.open_reader(log_path(settings))
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def open_publisher(settings: Settings) -> AsyncIterator[SqliteLog]:
    """Open the log for appending to input topics; the file is made where it is not there."""
    log = SqliteLog.open(log_path(settings), create=True)
    try:
        yield log
    finally:
        await log.close()


def shard_of(settings: Settings, name: str | None) -> tuple[str, TopicPartition]:
    """Return a shard's ledger name and where it stands in the log."""
    names = settings.shards
    if name is None:
        if len(names) > 1:
            raise SettingsError(f"name a shard with --shard: {', '.join(names)}")
        name = names[0]
    if name not in names:
        raise SettingsError(f"no shard {name!r} in the settings; there are: {', '.join(names)}")
    return name, TopicPartition(topics.FUND_LEDGER, names.index(name))


async def take_lines(
    settings: Settings, shard: str | None, ledger: Path | None, take: Callable[[bytes], None]
) -> None:
    """Hand over the lines of an exported file, or of a ledger in the log, one by one."""
    async with AsyncExitStack() as stack:
        if ledger is not None:
            name, lines = str(ledger), _file_lines(ledger)
        else:
            name, where = shard_of(settings, shard)
            log = await stack.enter_async_context(open_reader(settings))
            lines = ledger_lines(log, where, name)
        moved = stack.enter_context(screen.progress_bar(f"reading ledger {name}"))
        taken = 0
        async for line in lines:
            take(line)
            taken += 1
            if not taken % PROGRESS_EVERY:
                moved(taken)


async def _file_lines(ledger: Path) -> AsyncIterator[bytes]:
    try:
        with ledger.open("rb") as stream:
            for line in stream:
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise SettingsError(f"{ledger}: {error.strerror}") from error
