"""The live demo: fund, paper exchange, read models, HTTP interface and dashboard in one process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from insurance_fund.api import api_app, project
from insurance_fund.cli import common, screen
from insurance_fund.cli.demo_tables import print_fund
from insurance_fund.cli.play import typed
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import decode_entry
from insurance_fund.fund.policy import InstrumentPolicy, Policy
from insurance_fund.projections.database import open_database
from insurance_fund.projections.http.server import bind, serving, url_of
from insurance_fund.projections.http.services import open_services
from insurance_fund.projections.outcomes import Outcomes
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.paper.crash import CURRENCY
from insurance_fund.streams.paper.live import LiveExchange, Plan
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.sqlite import SqliteLog

LEDGER: Final = TopicPartition(topics.FUND_LEDGER, 0)
HOST: Final = "127.0.0.1"
PORT: Final = 8321
PORTS_TRIED: Final = 50
# At three times the speed of a crash and 400 liquidations in it, a person can follow each.
SPEED: Final = 3.0
SPEED_LEAST: Final = 0.1
SPEED_MOST: Final = 100.0
LIQUIDATIONS_A_COURSE: Final = 400
# The first minutes of a course are calm; the first trigger comes soon after them.
CALM_MS: Final = 480_000
# Not shorter, however fast the crash is: an order needs the time to be matched and reported.
ORDER_LIFE_MS_LEAST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Show:
    """What is shown, and where: `path` is that of a new log, `port` None for the usual one.

    Without `liquidations` one crash follows the other.
    """

    path: Path
    ledger: str
    seed: int
    speed: float = SPEED
    liquidations: int | None = None
    port: int | None = None

    @property
    def database(self) -> str:
        """Return where the read models are: beside the log."""
        return f"sqlite:{self.path.with_name(f'{self.path.stem}-views.db')}"

    @property
    def plan(self) -> Plan:
        """Return what the exchange plays."""
        return Plan(
            seed=self.seed,
            speed=self.speed,
            liquidations=self.liquidations,
            a_course=LIQUIDATIONS_A_COURSE,
            calm_ms=CALM_MS,
        )

    @property
    def policy(self) -> Policy:
        """Return the default policy, with orders that live shorter as the crash is faster."""
        attempts = tuple(
            (concession, max(ORDER_LIFE_MS_LEAST, round(life_ms / self.speed)))
            for concession, life_ms in InstrumentPolicy().attempts
        )
        return Policy(default=InstrumentPolicy(attempts=attempts))


def check_speed(speed: float) -> None:
    """Raise SettingsError for a speed at which nothing could be seen."""
    if not SPEED_LEAST <= speed <= SPEED_MOST:  # which a NaN is not either
        raise SettingsError(
            f"--speed must be from {SPEED_LEAST:g} to {SPEED_MOST:g}; got {speed:g}"
        )


def show(wanted: Show) -> None:
    """Play, show and serve until SIGINT or SIGTERM, then tell how it went."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    listener = _listener(wanted.port)
    try:
        exchange = asyncio.run(_play(wanted, listener))
    finally:
        listener.close()
    _tell_end(wanted, exchange)


def _listener(port: int | None) -> socket.socket:
    if port is not None:
        return bind(HOST, port)
    for one in range(PORT, PORT + PORTS_TRIED):
        try:
            return bind(HOST, one)
        except SettingsError:
            continue
    return bind(HOST, 0)


async def _play(wanted: Show, listener: socket.socket) -> LiveExchange:
    policy, clock, stopped = wanted.policy, SystemClock(), asyncio.Event()
    reader = partial(SqliteLog.open_reader, wanted.path)
    async with AsyncExitStack() as stack:

        def opened() -> SqliteLog:
            # Each part has the log for itself, as it would in a process of its own.
            log = SqliteLog.open(wanted.path, create=True)
            stack.push_async_callback(log.close)
            return log

        options = Options(clock="wall", policy=policy)
        fund = Processor(opened(), Shard(wanted.ledger), options, clock)
        await fund.start()
        exchange = LiveExchange(opened(), clock, wanted.plan, policy)
        views = open_database(wanted.database)
        stack.callback(views.close)
        services = await stack.enter_async_context(
            open_services(open_database(wanted.database), [wanted.ledger], reader)
        )
        served = await stack.enter_async_context(
            serving(api_app(services), listener, services.let_go)
        )
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stopped.set)
        screen.say(f" {url_of(listener)}", head="Dashboard:")
        screen.say("Ctrl-C ends the demo.")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fund.run())
                group.create_task(project(views, wanted.ledger, LEDGER, reader, stopped))
                group.create_task(_play_out(exchange, stopped))
                group.create_task(_end_at(stopped, served, (fund.stop, exchange.stop)))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed
    return exchange


async def _play_out(exchange: LiveExchange, stopped: asyncio.Event) -> None:
    await exchange.run()
    if not stopped.is_set():
        screen.say("The crash is over; the dashboard is served until Ctrl-C.")


async def _end_at(
    stopped: asyncio.Event, served: asyncio.Task[None], stops: Sequence[Callable[[], None]]
) -> None:
    """Stop the parts when the demo is to end, which it is as well where serving has failed."""
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([waiting, served], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if served.done():
        served.result()
    stopped.set()
    for stop in stops:
        stop()


def _tell_end(wanted: Show, exchange: LiveExchange) -> None:
    tally = exchange.tally
    screen.say("")
    screen.say(
        f": {screen.counted(tally.started, 'liquidation')} started, {tally.ended} ended; "
        f"{screen.counted(tally.triggers, 'ADL message')} sent.",
        head="The demo has ended",
    )
    screen.say("")
    if tally.first_refusal is not None:
        screen.complain(f": {tally.first_refusal}", head="the fund has refused a record")
    outcomes = Outcomes()
    log, shards = f"sqlite:{wanted.path}", common.settings_for(None).shards
    asyncio.run(
        common.take_lines(
            common.settings_for(log),
            wanted.ledger,
            None,
            lambda line: outcomes.apply(decode_entry(line)),
        )
    )
    where = ["--log", log, *(("--shard", wanted.ledger) if len(shards) > 1 else ())]
    commands = [("status", *where), ("verify", *where), ("replay", *where)]
    if CURRENCY in outcomes.funds:
        fund = outcomes.funds[CURRENCY]
        print_fund(fund)
        if fund.costliest is not None:
            commands.insert(1, ("explain", fund.costliest[1], *where))
    commands.append(("serve", "--log", log, "--database", wanted.database))
    screen.say("The log is kept. Ask it more:")
    for command in commands:
        screen.say(f"  {typed(*command)}")
