"""What the commands share: options, settings, opening a log, output, exit codes."""

from __future__ import annotations

import enum
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.settings import Settings, load_settings
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import parse_log_url

EXIT_OK: Final = 0
EXIT_FOUND: Final = 1
EXIT_COULD_NOT: Final = 2
EXIT_FENCED: Final = 75
EXIT_CODES: Final = "Exit codes: 0 done, 1 failed or halted, 2 could not run, 75 fenced."
AUDIT_EXIT_CODES: Final = "Exit codes: 0 clean, 1 findings, 2 could not run."

# Where nobody looks at a terminal, tables are as wide as they need to be.
PIPE_WIDTH: Final = 200
console = Console(
    soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH
)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


class Format(enum.StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


LogOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="URL",
        help="Where the log is: sqlite:PATH. [setting INSURANCE_FUND_LOG; "
        "default sqlite:insurance-fund.db]",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="Print a table for people or JSON for programs.")
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


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Any]:
    """Show a progress bar on standard error while something long runs.

    Gives a function that takes (done, total).
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def moved(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield moved
