"""Commands for auditors: `verify`, `replay` and `export`."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from insurance_fund.cli import common, screen, whatif
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.events.ledger import Head, sha256_hex
from insurance_fund.fund.decide import RULES
from insurance_fund.logs import open_reader
from insurance_fund.settings import Settings
from insurance_fund.streams.emitted import OutputTopics
from insurance_fund.streams.lines import ledger_lines
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.report import Report
from insurance_fund.streams.verify import Verifier

FINDINGS_SHOWN = 50
_HASH = re.compile(r"[0-9a-fA-F]{64}")

LedgerOption = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="An exported ledger instead of the log."),
]


def verify(
    ledger: LedgerOption = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="SHA-256 of the last entry that a witness outside knows. "
            "For an export, FILE.head.json is taken where it is there.",
        ),
    ] = None,
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Check the chain, the sequence, the postings, the balances and what was emitted."""
    settings = common.settings_for(log)
    verifier = Verifier(_witness(head, ledger))
    asyncio.run(_verify(settings, shard, ledger, verifier))
    report = verifier.finish()
    if not report.entries:
        raise SettingsError("the ledger is empty: there is nothing to verify")
    if not report.ledger:
        raise SettingsError("no line of this is a ledger entry: is it an exported ledger?")
    _end(report, "verified", output)


def _witness(head: str | None, ledger: Path | None) -> str | None:
    known = _head_of(ledger) if head is None else head
    if known is not None and not _HASH.fullmatch(known):
        raise SettingsError(f"--head must be 64 hex digits; got {known!r}")
    return None if known is None else known.lower()


async def _verify(
    settings: Settings, shard: str | None, ledger: Path | None, verifier: Verifier
) -> None:
    if ledger is not None:
        await common.take_lines(settings, shard, ledger, verifier.take)
        verifier.report.notes.append(
            "messages were not compared with the output topics: only the log has them"
        )
        return
    name, _ = common.shard_of(settings, shard)
    async with open_reader(settings) as log:
        outputs = OutputTopics(log, name)
        before = await outputs.read()
        await common.take_lines(settings, shard, None, verifier.take)
        outputs.compare(verifier.emitted, before, await outputs.read(), verifier.report)


def replay(
    ledger: LedgerOption = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What if this policy had held? Show what would have come out otherwise, to a "
            "first order; nothing is written.",
        ),
    ] = None,
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Decide every cause again: the bytes must be equal. With --policy, show what would differ."""
    settings = common.settings_for(log)
    if policy is not None:
        whatif.show_what_if(settings, shard, ledger, policy, output)
        return
    replayer = Replayer()
    asyncio.run(common.take_lines(settings, shard, ledger, replayer.take))
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
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Write the ledger's exact bytes, a line an entry, and FILE.head.json beside it."""
    settings = common.settings_for(log)
    if file.exists() and not file.is_file():
        raise SettingsError(f"{file} is no plain file: give the path of one to be made")
    entries, head = asyncio.run(_export(settings, shard, file))
    result = {"file": str(file), "entries": entries, "head": head}
    if output is screen.Format.JSON:
        screen.show_json(result)
    else:
        screen.say(f"{screen.counted(entries, 'entry', 'entries')} written to {file}, head {head}")


async def _export(settings: Settings, shard: str | None, file: Path) -> tuple[int, str]:
    name, where = common.shard_of(settings, shard)
    partial = file.with_name(f"{file.name}.partial")
    entries, head = 0, ""
    async with open_reader(settings) as log:
        try:
            with partial.open("wb") as stream, screen.progress_bar(f"exporting {name}") as moved:
                async for line in ledger_lines(log, where, name):
                    stream.write(line + b"\n")
                    head = sha256_hex(line)
                    entries += 1
                    if not entries % common.PROGRESS_EVERY:
                        moved(entries)
                stream.flush()
                os.fsync(stream.fileno())
            if not entries:
                partial.unlink()
                raise SettingsError(f"ledger {name} is empty: there is nothing to export")
            # First the ledger: the head of a shorter one is no false witness for it.
            partial.replace(file)
            witness = Head(name, entries - 1, head)
            partial.write_bytes(msgspec.json.encode(witness) + b"\n")
            partial.replace(_head_path(file))
        except OSError as error:
            raise LogUnavailableError(f"{file} cannot be written: {error.strerror}") from error
    return entries, head


def _head_path(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.head.json")


def _head_of(ledger: Path | None) -> str | None:
    if ledger is None or not _head_path(ledger).exists():
        return None
    try:
        return msgspec.json.decode(_head_path(ledger).read_bytes(), type=Head).sha256
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{_head_path(ledger)} cannot be read: {error}") from error


def _end(report: Report, done: str, output: screen.Format, *, could_not: bool = False) -> None:
    if output is screen.Format.JSON:
        screen.show_json(
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
        entries = screen.counted(report.entries, "entry", "entries")
        screen.say(f"ledger {report.ledger}: {entries} {done}, head {report.head}")
        for finding in report.findings[:FINDINGS_SHOWN]:
            where = "" if finding.sequence is None else f"sequence {finding.sequence}: "
            screen.say(f" {where}{finding.message}", head="finding", style="bold red")
        if len(report.findings) > FINDINGS_SHOWN:
            more = screen.counted(len(report.findings) - FINDINGS_SHOWN, "finding")
            screen.say(f"and {more} more (--format json has all)")
        for note in report.notes:
            screen.say(f"note: {note}")
        if report.findings:
            screen.say(screen.counted(len(report.findings), "finding"))
        else:
            screen.say("", head="clean", style="bold green")
    if could_not:
        raise typer.Exit(common.EXIT_COULD_NOT)
    if report.findings:
        raise typer.Exit(common.EXIT_FOUND)
