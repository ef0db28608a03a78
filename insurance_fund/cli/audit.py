"""Commands for auditors: `verify`, `replay` and `export`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import orjson
import typer

from insurance_fund.cli import common
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.fund.decide import RULES
from insurance_fund.settings import Settings
from insurance_fund.streams.lines import partition_values
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.report import Report
from insurance_fund.streams.verify import Verifier, check_emitted

FINDINGS_SHOWN = 50
PROGRESS_EVERY = 1_000

LedgerOption = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="An exported ledger instead of the log."),
]


def verify(
    ledger: LedgerOption = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="SHA-256 of the last entry, as a witness outside knows it. "
            "For an export, FILE.head.json is taken where it is there."
        ),
    ] = None,
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Check the chain, the sequence, the postings, the balances and what was emitted."""
    settings = common.settings_for(log)
    verifier = Verifier()
    asyncio.run(_verify(settings, shard, ledger, verifier))
    if not verifier.report.entries:
        raise SettingsError("the ledger is empty: there is nothing to verify")
    witness = head if head is not None else _head_of(ledger)
    _end(verifier.finish(witness), "verified", output)


async def _verify(
    settings: Settings, shard: str | None, ledger: Path | None, verifier: Verifier
) -> None:
    await _take_lines(settings, shard, ledger, verifier.take)
    if ledger is not None:
        verifier.report.notes.append(
            "messages were not compared with the output topics: only the log has them"
        )
        return
    async with common.open_reader(settings) as log:
        await check_emitted(log, verifier)


async def _take_lines(
    settings: Settings, shard: str | None, ledger: Path | None, take: Callable[[bytes], None]
) -> None:
    # The lines of an exported file, or of a ledger in the log.
    async with AsyncExitStack() as stack:
        if ledger is not None:
            name, lines = str(ledger), _file_lines(ledger)
        else:
            name, where = common.shard_of(settings, shard)
            log = await stack.enter_async_context(common.open_reader(settings))
            lines = partition_values(log, where)
        moved = stack.enter_context(common.progress_bar(f"reading ledger {name}"))
        taken = 0
        async for line in lines:
            take(line)
            taken += 1
            if not taken % PROGRESS_EVERY:
                moved(taken)


def replay(
    ledger: LedgerOption = None,
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Decide every cause again; the bytes must be equal."""
    settings = common.settings_for(log)
    replayer = Replayer()
    asyncio.run(_take_lines(settings, shard, ledger, replayer.take))
    report = replayer.finish()
    if not report.entries:
        raise SettingsError("the ledger is empty: there is nothing to replay")
    if replayer.other_rules:
        report.notes.append(
            f"parts of this ledger were decided by rules {sorted(replayer.other_rules)}, this "
            f"software has rules {RULES}: differences are expected there; use `verify`"
        )
    _end(report, "replayed", output, could_not=bool(replayer.other_rules and report.findings))


def export(
    file: Annotated[Path, typer.Argument(help="Where to write the ledger.")],
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Write the ledger's exact bytes, a line an entry, and FILE.head.json beside it."""
    settings = common.settings_for(log)
    entries, head = asyncio.run(_export(settings, shard, file))
    result = {"file": str(file), "entries": entries, "head": head}
    if output is common.Format.JSON:
        common.print_json(result)
    else:
        common.console.print(f"{entries} entries written to {file}, head {head}")


async def _export(settings: Settings, shard: str | None, file: Path) -> tuple[int, str]:
    name, where = common.shard_of(settings, shard)
    partial = file.with_name(f"{file.name}.partial")
    entries, head = 0, ""
    async with common.open_reader(settings) as log:
        try:
            with partial.open("wb") as stream, common.progress_bar(f"exporting {name}") as moved:
                async for line in partition_values(log, where):
                    stream.write(line + b"\n")
                    head = sha256_hex(line)
                    entries += 1
                    if not entries % PROGRESS_EVERY:
                        moved(entries)
                stream.flush()
                os.fsync(stream.fileno())
            if not entries:
                partial.unlink()
                raise SettingsError(f"ledger {name} is empty: there is nothing to export")
            witness = {"ledger": name, "sequence": entries - 1, "sha256": head}
            _head_path(file).write_bytes(orjson.dumps(witness) + b"\n")
            partial.replace(file)
        except OSError as error:
            raise LogUnavailableError(f"{file} cannot be written: {error.strerror}") from error
    return entries, head


def _head_path(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.head.json")


def _head_of(ledger: Path | None) -> str | None:
    if ledger is None or not _head_path(ledger).exists():
        return None
    try:
        head = orjson.loads(_head_path(ledger).read_bytes())
        return str(head["sha256"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SettingsError(f"{_head_path(ledger)} cannot be read: {error}") from error


async def _file_lines(ledger: Path) -> AsyncIterator[bytes]:
    try:
        with ledger.open("rb") as stream:
            for line in stream:
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise SettingsError(f"{ledger}: {error.strerror}") from error


def _end(report: Report, done: str, output: common.Format, *, could_not: bool = False) -> None:
    if output is common.Format.JSON:
        common.print_json(
            {
                "ledger": report.ledger,
                "entries": report.entries,
                "head": report.head,
                "findings": [
                    {"sequence": f.sequence, "message": f.message} for f in report.findings
                ],
                "notes": report.notes,
            }
        )
    else:
        say = common.console.print
        say(f"ledger {report.ledger}: {report.entries} entries {done}, head {report.head}")
        for finding in report.findings[:FINDINGS_SHOWN]:
            where = "" if finding.sequence is None else f"sequence {finding.sequence}: "
            say(f"[bold red]finding[/] {where}{finding.message}", markup=True)
        if len(report.findings) > FINDINGS_SHOWN:
            say(
                f"and {len(report.findings) - FINDINGS_SHOWN} findings more (--format json has all)"
            )
        for note in report.notes:
            say(f"note: {note}")
        say("[bold green]clean[/]" if not report.findings else f"{len(report.findings)} findings")
    if could_not:
        raise typer.Exit(common.EXIT_COULD_NOT)
    if report.findings:
        raise typer.Exit(common.EXIT_FOUND)
