"""The command `run`: the service."""

from __future__ import annotations

import asyncio
import enum
import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.events.amounts import amount_text
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import Clock
from insurance_fund.fund.policy import load_policy
from insurance_fund.projections.times import utc
from insurance_fund.settings import Settings
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.sqlite import SqliteLog


class ClockName(enum.Enum):
    """By which time a ledger runs."""

    WALL = "wall"
    EVENT = "event"


_CLOCKS: Final[dict[ClockName, Clock]] = {ClockName.WALL: "wall", ClockName.EVENT: "event"}


@dataclass(slots=True)
class _Ending:
    """What a run says of itself when it ends."""

    processor: Processor

    def rows(self) -> dict[str, Any]:
        state = self.processor.state
        first = state.schedule.first()
        return {
            "ledger": self.processor.shard.name,
            "entries_written": self.processor.entries_written,
            "entries": state.sequence,
            "head": state.head,
            "skipped": self.processor.inputs.skipped_total,
            "unknown_fields": dict(self.processor.decoder.unknown_fields),
            "open_orders": [
                {
                    "order_id": order.order_id,
                    "liquidation_id": liquidation.liquidation_id,
                    "rest": amount_text(order.rest),
                    "expires_at_ms": order.expires_at_ms,
                }
                for liquidation in state.liquidations.values()
                for order in liquidation.orders.values()
                if order.status == "open"
            ],
            "next_deadline": None if first is None else {"name": first[1], "due_ms": first[0]},
        }


def run(
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when there is nothing left to do.")
    ] = False,
    clock: Annotated[
        ClockName | None,
        typer.Option(help="By which time to run: live, or recordings. A ledger keeps its first."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Policy file, JSON or TOML; without one the ledger keeps the policy it has "
            "(setting INSURANCE_FUND_POLICY)."
        ),
    ] = None,
    shard: Annotated[
        list[str] | None,
        typer.Option("--shard", metavar="NAME", help="Run only these shards of the settings."),
    ] = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Run the fund: read events, keep the ledger, send orders and ADL triggers.

    SIGTERM or SIGINT finishes the transaction in hand and exits 0.
    """
    settings = common.settings_for(log, policy=None if policy is None else str(policy))
    path = settings.text("policy")
    rules = None if path is None else load_policy(Path(path))
    options = Options(
        clock=None if clock is None else _CLOCKS[clock],
        policy=rules,
        batch_max=settings.number("batch_max"),
        record_bytes_max=settings.number("record_bytes_max"),
        deadline_wait_ms_max=settings.number("deadline_wait_ms_max"),
        snapshot_entries=settings.number("snapshot_entries"),
        until_idle=until_idle,
    )
    shards = _shards(settings, shard)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    endings = asyncio.run(_run(settings, options, shards))
    rows = [ending.rows() for ending in endings]
    if output is screen.Format.JSON:
        screen.show_json(rows)
        return
    for row in rows:
        _print(row)


def _shards(settings: Settings, wanted: list[str] | None) -> list[Shard]:
    names = settings.shards
    for name in wanted or ():
        if name not in names:
            raise SettingsError(f"no shard {name!r} in the settings; there are: {', '.join(names)}")
    return [
        Shard(name, index, settings.assigned)
        for index, name in enumerate(names)
        if not wanted or name in wanted
    ]


async def _run(settings: Settings, options: Options, shards: list[Shard]) -> list[_Ending]:
    path = common.log_path(settings)
    logs = [SqliteLog.open(path, create=True) for _ in shards]
    processors = [
        Processor(log, shard, options, SystemClock(), snapshots=log)
        for log, shard in zip(logs, shards, strict=True)
    ]

    def stop() -> None:
        for processor in processors:
            processor.stop()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    try:
        # The first shard that fails ends them all: a restart reads what is true.
        async with asyncio.TaskGroup() as group:
            for processor in processors:
                group.create_task(_run_shard(processor))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    finally:
        for log in logs:
            await log.close()
    return [_Ending(processor) for processor in processors if processor.started]


async def _run_shard(processor: Processor) -> None:
    with screen.progress_bar(f"recovering {processor.shard.name}") as moved:
        await processor.start(moved)
    if not processor.started:
        screen.complain(f"ledger {processor.shard.name}: stopped while it was read")
        return
    screen.complain(
        f"ledger {processor.shard.name}: "
        f"{screen.counted(processor.state.sequence, 'entry', 'entries')}, "
        f"{processor.mode} clock, running"
    )
    await processor.run()


def _print(row: dict[str, Any]) -> None:
    say = screen.say
    say(
        f"ledger {row['ledger']}: "
        f"{screen.counted(row['entries_written'], 'entry', 'entries')} written, "
        f"{row['entries']} in all, head {row['head']}"
    )
    if row["unknown_fields"]:
        say(f"  unknown fields accepted: {row['unknown_fields']}")
    for order in row["open_orders"]:
        say(
            f"  open order {order['order_id']}: {order['rest']} left, "
            f"ends {utc(order['expires_at_ms'])}"
        )
    if row["next_deadline"] is not None:
        deadline = row["next_deadline"]
        say(f"  next deadline {deadline['name']}, due {utc(deadline['due_ms'])}")
