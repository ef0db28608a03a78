"""Commands that look at a ledger: `status`, `explain` and `config show`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from insurance_fund.cli import common, screen
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.logs import open_reader
from insurance_fund.projections.status import Status
from insurance_fund.projections.story import Story
from insurance_fund.projections.times import utc
from insurance_fund.settings import Settings
from insurance_fund.streams.lines import READ_MAX, ledger_lines
from insurance_fund.streams.log import TopicPartition

TOPICS = (*topics.INPUT_TOPICS, *topics.OUTPUT_TOPICS, topics.FUND_LEDGER)
FOLLOW_WAIT_S = 0.5

config_app = typer.Typer(no_args_is_help=True, help="Effective settings.")


def status(
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Show the funds, open liquidations, ADL triggers and what was rejected."""
    settings = common.settings_for(log)
    rows = asyncio.run(_status(settings, shard))
    if output is screen.Format.JSON:
        screen.show_json(rows)
        return
    _print_status(rows)


async def _status(settings: Settings, shard: str | None) -> dict[str, Any]:
    name, where = common.shard_of(settings, shard)
    view = Status()
    async with open_reader(settings) as log:
        end = await log.end_offset(where) if await log.partitions(where.topic) else 0
        with screen.progress_bar(f"reading ledger {name}", end) as moved:
            async for line in ledger_lines(log, where, name):
                view.apply(decode_entry(line), sha256_hex(line))
                if not view.state.sequence % 1_000:
                    moved(view.state.sequence, end)
    if not view.state.sequence:
        raise SettingsError(f"ledger {name} is empty: `insurance-fund run` writes its first entry")
    return view.rows()


def _print_status(rows: dict[str, Any]) -> None:
    screen.say(
        f": {rows['entries']} entries, {rows['clock']} clock, last at {utc(rows['now_ms'])}",
        head=f"Ledger {rows['ledger']}",
    )
    screen.say(f"head {rows['head']}")
    screen.say("")
    funds = [fund for fund in rows["funds"] if fund["in_use"]]
    screen.show_rows(
        "Funds",
        funds,
        ("margin_currency",),
        ("available", "reserved", "total", "shortfall", "transfers", "gains", "draws", "lowest"),
    )
    screen.show_rows(
        "Liquidations closed; compensation so far",
        [{**fund, **fund["closed"]} for fund in funds],
        ("margin_currency",),
        ("better_than_bankruptcy", "compensated", "deleveraged", "granted", "used"),
    )
    screen.show_rows(
        "Open liquidations",
        rows["open_liquidations"],
        ("liquidation_id", "instrument_id", "margin_currency", "position_side"),
        ("quantity", "closed", "residual", "awaited", "order_price", "reserved", "delta"),
    )
    screen.show_rows(
        "ADL triggers of open liquidations",
        rows["triggers"],
        ("trigger_id", "reason"),
        ("revision", "price", "quantity", "executed", "open"),
    )
    screen.show_rows(
        "Rejected",
        [{"reason": reason, "records": count} for reason, count in rows["rejected"].items()],
        ("reason",),
        ("records",),
    )
    screen.say(
        f"said again or confirmed {rows['duplicates']}, parked {rows['parked']}, "
        f"parked and expired {rows['parked_expired']}"
    )
    if rows["flags"]:
        screen.say(
            "flags: " + ", ".join(f"{flag} {count}" for flag, count in rows["flags"].items())
        )
    if rows["next_deadline"] is not None:
        deadline = rows["next_deadline"]
        screen.say(f"next deadline {deadline['name']}, due {utc(deadline['due_ms'])}")


def explain(
    liquidation_id: Annotated[str, typer.Argument(help="The liquidation to tell about.")],
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Tell the story of a liquidation, entry by entry, with the numbers and the reasons."""
    settings = common.settings_for(log)
    story = asyncio.run(_explain(settings, shard, liquidation_id))
    if output is screen.Format.JSON:
        screen.show_json([line._asdict() for line in story.lines])
        return
    screen.say("", head=f"Liquidation {liquidation_id}")
    for line in story.lines:
        screen.say(f" {line.text}", head=f"#{line.sequence} {utc(line.now_ms)}", style="dim")


async def _explain(settings: Settings, shard: str | None, liquidation_id: str) -> Story:
    shards = (shard,) if shard is not None else settings.shards
    story, needle = Story(liquidation_id), liquidation_id.encode(errors="replace")
    async with open_reader(settings) as log:
        for name in shards:
            _, where = common.shard_of(settings, name)
            async for line in ledger_lines(log, where, name):
                if needle in line:
                    story.apply(decode_entry(line))
    if not story.lines:
        raise SettingsError(
            f"no entry is about a liquidation {liquidation_id!r}; `insurance-fund status` lists "
            "the open ones"
        )
    return story


def read(
    topic: Annotated[str, typer.Argument(help=f"One of: {', '.join(TOPICS)}.")],
    start: Annotated[int, typer.Option("--from", min=0, help="The first offset to print.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes.")] = False,
    partition: Annotated[int, typer.Option(min=0, help="The partition to read.")] = 0,
    log: common.LogOption = None,
) -> None:
    """Print the messages of a topic, each byte for byte on a line: orders, triggers, dead letters.

    A consumer that keeps the offset behind the last line it has taken misses none and sees each
    once.
    """
    if topic not in TOPICS:
        raise SettingsError(f"no topic {topic!r}; one of: {', '.join(TOPICS)}")
    settings = common.settings_for(log)
    where = TopicPartition(settings.bus_topics.get(topic, topic), partition)
    asyncio.run(_read(settings, where, start, follow=follow))


async def _read(settings: Settings, where: TopicPartition, offset: int, *, follow: bool) -> None:
    async with open_reader(settings) as log:
        offset = max(offset, await log.first_offset(where))
        while True:
            if offset < await log.end_offset(where):
                batch = await log.read(where, offset, READ_MAX)
                for record in batch.records:
                    sys.stdout.buffer.write((record.value or b"") + b"\n")
                sys.stdout.buffer.flush()
                offset = batch.next_offset
            elif not follow:
                return
            else:
                await log.wait(FOLLOW_WAIT_S)


@config_app.command("show", epilog=common.EXIT_CODES)
def config_show(
    log: common.LogOption = None, output: common.FormatOption = screen.Format.TABLE
) -> None:
    """Show the effective settings, passwords in URLs masked, and where each came from."""
    settings = common.settings_for(log)
    rows = [
        {"name": s.name, "value": s.shown, "source": s.source} for s in settings.values.values()
    ]
    for shard in settings.shards:
        shown, source = "all of the policy", "default"
        if settings.assigned is not None:
            shown = ", ".join(c for c, of in settings.assigned.items() if of == shard)
            source = "file"
        rows.append({"name": f"shards.{shard}", "value": shown, "source": source})
    if output is screen.Format.JSON:
        screen.show_json(rows)
        return
    screen.show_rows("Settings", rows, ("name", "value", "source"), ())
