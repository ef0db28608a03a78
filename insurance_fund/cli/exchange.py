"""The command `exchange`: a paper exchange beside the fund, by the wall clock."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.events.errors import SettingsError
from insurance_fund.fund.policy import Policy, load_policy
from insurance_fund.logs import open_log
from insurance_fund.settings import Settings
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.paper.crash import LIQUIDATIONS_MAX
from insurance_fund.streams.paper.live import LIQUIDATIONS_A_COURSE, LiveExchange, Plan
from insurance_fund.streams.paper.tally import Tally

SPEED_LEAST: Final = 0.01
SPEED_MOST: Final = 1_000.0
TELL_EVERY_S: Final = 10.0


def exchange(
    seed: Annotated[
        int, typer.Option(min=0, help="The crashes that are played: of this seed and the next.")
    ] = 1,
    liquidations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LIQUIDATIONS_MAX,
            help="End when so many, all in one crash, have ended. Without it crashes of "
            f"{LIQUIDATIONS_A_COURSE:,} follow one another.",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="How fast a crash of half an hour plays. Orders and ADL take the time they take.",
        ),
    ] = 1.0,
    seconds: Annotated[
        int | None, typer.Option("--for", metavar="SECONDS", min=1, help="End after so long.")
    ] = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Run a paper exchange beside `run`: takeovers, fills, reports, ADL and ordinary fills, live.

    It pays a first deposit into the fund, then plays crashes by the wall clock. One on a log; after
    a restart it goes on with new liquidations, and what was open is for the fund's deadlines.
    SIGTERM or SIGINT publishes what has happened and exits 0.
    """
    if not SPEED_LEAST <= speed <= SPEED_MOST:  # which a NaN is not either
        raise SettingsError(
            f"--speed must be from {SPEED_LEAST:g} to {SPEED_MOST:g}; got {speed:g}"
        )
    settings = common.settings_for(log)
    path = settings.text("policy")
    policy = Policy() if path is None else load_policy(Path(path))
    played = asyncio.run(_run(settings, Plan(seed, speed, liquidations, seconds), policy))
    row = _row(played)
    if output is screen.Format.JSON:
        screen.show_json(row)
        return
    screen.say(f": {_line(played.tally)}", head="The exchange has ended")


async def _run(settings: Settings, plan: Plan, policy: Policy) -> LiveExchange:
    async with open_log(settings) as log:
        played = LiveExchange(log, SystemClock(), plan, policy, _Teller())
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, played.stop)
        await played.run()
    return played


class _Teller:
    """Says now and then how far the exchange is, and at once that the fund refuses what it says."""

    def __init__(self) -> None:
        self._told = ""
        self._next_s: float | None = None
        self._refused = False

    def __call__(self, played: LiveExchange) -> None:
        tally, now_s = played.tally, time.monotonic()
        if self._next_s is None:
            screen.complain(f"exchange run {played.run_id}, running")
            self._next_s = now_s + TELL_EVERY_S
        if tally.first_refusal is not None and not self._refused:
            self._refused = True
            screen.complain(f": {tally.first_refusal}", head="the fund has refused a record")
        if now_s >= self._next_s:
            self._next_s = now_s + TELL_EVERY_S
            line = _line(tally)
            if line != self._told:
                self._told = line
                screen.complain(line)


def _line(tally: Tally) -> str:
    return (
        f"{screen.counted(tally.started, 'liquidation')} started, {tally.ended} ended "
        f"({tally.filled} filled, {tally.deleveraged} deleveraged); "
        f"{screen.counted(tally.ordinary_fills, 'ordinary fill')}"
    )


def _row(played: LiveExchange) -> dict[str, Any]:
    tally = played.tally
    return {
        "run": played.run_id,
        "courses": played.courses,
        "liquidations": {
            "started": tally.started,
            "ended": tally.ended,
            "filled": tally.filled,
            "deleveraged": tally.deleveraged,
        },
        "taken": {
            "orders": tally.orders,
            "adl_messages": tally.triggers,
            "foreign": tally.foreign,
        },
        "said": {
            "fills": tally.fills,
            "adl_executions": tally.executions,
            "ordinary_fills": tally.ordinary_fills,
        },
        "refused": tally.refused,
        "first_refusal": tally.first_refusal,
    }
