"""Commands that look at a ledger: `status`, `explain` and `config show`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from insurance_fund.cli import common
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.projections.status import Status
from insurance_fund.projections.story import Story
from insurance_fund.projections.times import utc
from insurance_fund.settings import Settings
from insurance_fund.streams.lines import partition_values

config_app = typer.Typer(no_args_is_help=True, help="Effective settings.")


def status(
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Show the funds, open liquidations, ADL triggers and what was rejected."""
    settings = common.settings_for(log)
    rows = asyncio.run(_status(settings, shard))
    if output is common.Format.JSON:
        common.print_json(rows)
        return
    _print_status(rows)


async def _status(settings: Settings, shard: str | None) -> dict[str, Any]:
    name, where = common.shard_of(settings, shard)
    view = Status()
    async with common.open_reader(settings) as log:
        end = await log.end_offset(where) if await log.partitions(where.topic) else 0
        with common.progress_bar(f"reading ledger {name}", end) as moved:
            async for line in partition_values(log, where):
                view.apply(decode_entry(line), sha256_hex(line))
                if not view.state.sequence % 1_000:
                    moved(view.state.sequence, end)
    if not view.state.sequence:
        raise SettingsError(f"ledger {name} is empty: `insurance-fund run` writes its first entry")
    return view.rows()


def _print_status(rows: dict[str, Any]) -> None:
    say = common.console.print
    say(
        f"[bold]Ledger {rows['ledger']}[/]: {rows['entries']} entries, {rows['clock']} clock, "
        f"last at {utc(rows['now_ms'])}"
    )
    say(f"head {rows['head']}\n")
    funds = [fund for fund in rows["funds"] if fund["used"]]
    _print_rows(
        "Funds",
        funds,
        ("margin_currency",),
        ("available", "reserved", "shortfall", "transfers", "gains", "draws", "lowest_total"),
    )
    _print_rows(
        "Liquidations closed",
        [{**fund, **fund["closed"]} for fund in funds],
        ("margin_currency",),
        ("better_than_bankruptcy", "compensated", "deleveraged", "granted", "used_of_granted"),
    )
    _print_rows(
        "Open liquidations",
        rows["open_liquidations"],
        ("liquidation_id", "instrument_id", "position_side"),
        ("quantity", "closed", "residual", "awaited", "order_price", "reserved", "delta"),
    )
    _print_rows(
        "ADL triggers of open liquidations",
        rows["triggers"],
        ("trigger_id", "reason"),
        ("revision", "quantity", "executed", "open"),
    )
    _print_rows(
        "Rejected",
        [{"reason": reason, "records": count} for reason, count in rows["rejected"].items()],
        ("reason",),
        ("records",),
    )
    say(
        f"duplicates ignored {rows['duplicates']}, parked {rows['parked']}, "
        f"parked and expired {rows['parked_expired']}"
    )
    if rows["flags"]:
        say("flags: " + ", ".join(f"{flag} {count}" for flag, count in rows["flags"].items()))
    if rows["next_deadline"] is not None:
        deadline = rows["next_deadline"]
        say(f"next deadline {deadline['name']}, due {utc(deadline['due_ms'])}")


def _print_rows(
    title: str, rows: list[dict[str, Any]], texts: tuple[str, ...], numbers: tuple[str, ...]
) -> None:
    if not rows:
        common.console.print(f"{title}: none")
        return
    # Amounts are folded where a terminal is narrow, never cut.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in texts:
        table.add_column(column.replace("_", " "), overflow="fold")
    for column in numbers:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        cells = [row[column] for column in (*texts, *numbers)]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    common.console.print(table)


def explain(
    liquidation_id: Annotated[str, typer.Argument(help="The liquidation to tell about.")],
    shard: common.ShardOption = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Tell the story of a liquidation, entry by entry, with the numbers and the reasons."""
    settings = common.settings_for(log)
    story = asyncio.run(_explain(settings, shard, liquidation_id))
    if output is common.Format.JSON:
        common.print_json([line._asdict() for line in story.lines])
        return
    common.console.print(f"[bold]Liquidation {liquidation_id}[/]")
    for line in story.lines:
        common.console.print(f"[dim]#{line.sequence} {utc(line.now_ms)}[/] {line.text}")


async def _explain(settings: Settings, shard: str | None, liquidation_id: str) -> Story:
    shards = (shard,) if shard is not None else settings.shards
    story, needle = Story(liquidation_id), liquidation_id.encode()
    async with common.open_reader(settings) as log:
        for name in shards:
            _, where = common.shard_of(settings, name)
            async for line in partition_values(log, where):
                if needle in line:
                    story.apply(decode_entry(line))
    if not story.lines:
        raise SettingsError(
            f"no entry is about a liquidation {liquidation_id!r}; `insurance-fund status` lists "
            "the open ones"
        )
    return story


@config_app.command("show", epilog=common.EXIT_CODES)
def config_show(
    log: common.LogOption = None, output: common.FormatOption = common.Format.TABLE
) -> None:
    """Show the effective settings, secrets masked, and where each came from."""
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
    if output is common.Format.JSON:
        common.print_json(rows)
        return
    _print_rows("Settings", rows, ("name", "value", "source"), ())
