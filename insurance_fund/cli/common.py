"""What the commands share: options, settings, opening a log, reading a ledger, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from insurance_fund.cli import screen
from insurance_fund.events import topics
from insurance_fund.events.errors import (
    FencedError,
    InsuranceFundError,
    LogUnavailableError,
    ReadModelsError,
    SettingsError,
)
from insurance_fund.logs import open_reader
from insurance_fund.settings import Settings, load_settings
from insurance_fund.streams.lines import ledger_lines
from insurance_fund.streams.log import TopicPartition

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
        help="Where the log is: sqlite:PATH or kafka://HOST:PORT (setting INSURANCE_FUND_LOG, "
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


def ending_of(error: InsuranceFundError) -> tuple[str, int]:
    """Return the word for how a command ends that failed, and its exit code."""
    if isinstance(error, FencedError):
        return "fenced", EXIT_FENCED
    if isinstance(error, SettingsError | LogUnavailableError | ReadModelsError):
        return "error", EXIT_COULD_NOT
    return "halted", EXIT_FOUND


def leave(error: InsuranceFundError) -> NoReturn:
    """End this process at once, saying why.

    For a writer whose brokers do not answer: its client would wait for them for ever, also to stop.
    """
    head, code = ending_of(error)
    screen.complain(f": {error}", head=head)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def settings_for(log: str | None, **options: Any) -> Settings:
    """Return the effective settings of a command."""
    return load_settings({"log": log, **options})


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
