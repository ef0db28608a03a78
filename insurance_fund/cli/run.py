"""The command `run`: the service."""

from __future__ import annotations

import asyncio
import enum
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.repeats import Repeats
from insurance_fund.cli.supervise import (
    end_with_supervisor,
    refuse_dangers,
    supervise,
    tell_supervisor,
)
from insurance_fund.cli.watch import metrics_socket, shards_watched
from insurance_fund.events.amounts import amount_text
from insurance_fund.events.errors import InsuranceFundError, SettingsError
from insurance_fund.events.fields import Clock
from insurance_fund.fund.policy import load_policy
from insurance_fund.logs import kafka_access, log_opener, log_url
from insurance_fund.projections.times import utc
from insurance_fund.settings import Settings
from insurance_fund.shard_metrics import ShardMetrics
from insurance_fund.streams.adapters import load_adapters
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.kafka_offsets import tell_offsets
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.renamed import renamed
from insurance_fund.streams.urls import KafkaUrl


class ClockName(enum.Enum):
    """By which time a ledger runs."""

    WALL = "wall"
    EVENT = "event"


ORDERS_SHOWN: Final = 10
Telling = Callable[[], Coroutine[Any, Any, None]]

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


def run(  # noqa: PLR0913, PLR0917 - each is an option of the command
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
        typer.Option(
            "--shard",
            metavar="NAME",
            help="Run only these shards of the settings, in this process; on Kafka this takes them "
            "from whoever has them.",
        ),
    ] = None,
    supervised: Annotated[bool, typer.Option(hidden=True)] = False,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Run the fund: read events, keep the ledger, send orders and ADL triggers.

    On Kafka it runs on any number of hosts, which share the shards out among themselves; each shard
    is a process of its own. SIGTERM or SIGINT finishes the transaction in hand and exits 0.
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
        adapters=load_adapters(settings.adapters),
    )
    shards, url = _shards(settings, shard), log_url(settings)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats())
    if isinstance(url, KafkaUrl) and not until_idle and not shard:
        given = {"--policy": path, "--clock": None if clock is None else clock.value, "--log": log}
        arguments = [word for name, value in given.items() if value for word in (name, value)]
        access = kafka_access(settings, url)
        if rules is not None:
            # Before shards are taken from hosts whose settings are right.
            for one in shards:
                one.routing(rules)
        asyncio.run(refuse_dangers(access, settings))
        rows = asyncio.run(supervise(access, settings, arguments))
    else:
        if isinstance(url, KafkaUrl):
            asyncio.run(refuse_dangers(kafka_access(settings, url), settings, warn=not supervised))
        endings = asyncio.run(_run(settings, options, shards, supervised=supervised))
        rows = [ending.rows() for ending in endings]
    if supervised:
        tell_supervisor(rows)
        return
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


async def _run(
    settings: Settings, options: Options, shards: list[Shard], *, supervised: bool
) -> list[_Ending]:
    # A port that cannot be had is told before a shard is taken from whoever runs it.
    listening = metrics_socket(settings, shards[0].index if supervised else None)
    opened, clock = log_opener(settings), SystemClock()
    logs = [opened() for _ in shards]
    processors = [
        Processor(renamed(log, settings.bus_topics), shard, options, clock, snapshots=log)
        for log, shard in zip(logs, shards, strict=True)
    ]
    metrics = [ShardMetrics(one, clock.wall_ms) for one in processors]

    def stop() -> None:
        for processor in processors:
            processor.stop()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    if supervised:
        end_with_supervisor(stop)
    try:
        # The first shard that fails ends them all: a restart reads what is true.
        async with (
            shards_watched(settings, listening, metrics),
            asyncio.TaskGroup() as group,
        ):
            for one in metrics:
                telling = None if options.until_idle else _offsets_told(settings, one.processor)
                group.create_task(_run_shard(one, telling, supervised=supervised))
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
        if isinstance(log_url(settings), KafkaUrl) and isinstance(error, InsuranceFundError):
            common.leave(error)
        raise error from failed
    finally:
        for log in logs:
            await log.close()
    return [_Ending(processor) for processor in processors if processor.started]


def _offsets_told(settings: Settings, processor: Processor) -> Telling | None:
    """Return what tells a cluster how far a shard has read, None for a file."""
    url = log_url(settings)
    if not isinstance(url, KafkaUrl):
        return None
    access, names = kafka_access(settings, url), settings.bus_topics

    def positions() -> dict[TopicPartition, int]:
        return {
            TopicPartition(names.get(where.topic, where.topic), where.partition): offset
            for where, offset in processor.inputs.next_offsets.items()
        }

    return lambda: tell_offsets(access, processor.shard.name, positions)


async def _run_shard(metrics: ShardMetrics, telling: Telling | None, *, supervised: bool) -> None:
    processor = metrics.processor
    with screen.progress_bar(f"recovering {processor.shard.name}") as shown:

        def moved(offset: int, end: int) -> None:
            shown(offset, end)
            metrics.moved(offset, end)

        await processor.start(moved)
    if not processor.started:
        screen.complain(f"ledger {processor.shard.name}: stopped while it was read")
        return
    screen.complain(
        f"ledger {processor.shard.name}: "
        f"{screen.counted(processor.state.sequence, 'entry', 'entries')}, "
        f"{processor.mode} clock, running"
    )
    metrics.recovered()
    if supervised:
        tell_supervisor({"ready": True})
    told = None if telling is None else asyncio.create_task(telling())
    try:
        await processor.run()
    finally:
        if told is not None:
            told.cancel()
            await asyncio.wait([told])


def _print(row: dict[str, Any]) -> None:
    say = screen.say
    say(
        f"ledger {row['ledger']}: "
        f"{screen.counted(row['entries_written'], 'entry', 'entries')} written, "
        f"{row['entries']} in all, head {row['head']}"
    )
    if row["unknown_fields"]:
        say(f"  unknown fields accepted: {row['unknown_fields']}")
    for order in row["open_orders"][:ORDERS_SHOWN]:
        say(
            f"  open order {order['order_id']}: {order['rest']} left, "
            f"ends {utc(order['expires_at_ms'])}"
        )
    more = len(row["open_orders"]) - ORDERS_SHOWN
    if more > 0:
        say(f"  and {screen.counted(more, 'open order')} more: `insurance-fund status`")
    if row["next_deadline"] is not None:
        deadline = row["next_deadline"]
        say(f"  next deadline {deadline['name']}, due {utc(deadline['due_ms'])}")
