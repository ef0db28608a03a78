"""The command `demo`: an invented crash through the whole fund, live or all at once."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from insurance_fund.cli import common, live, screen
from insurance_fund.cli.demo_tables import print_difference, print_fund, print_market
from insurance_fund.cli.play import NO_COMPENSATION, keep_log, outcomes_of, play, typed
from insurance_fund.events import topics
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.fund.policy import Policy
from insurance_fund.logs import log_opener, log_url, open_reader
from insurance_fund.settings import Settings
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.paper.crash import CURRENCY, LIQUIDATIONS_MAX, crash
from insurance_fund.streams.urls import SqliteUrl

LIQUIDATIONS: Final = 1_000


def demo(  # noqa: PLR0913, PLR0917 - each is an option of the command
    headless: Annotated[
        bool,
        typer.Option(
            "--headless",
            help="Play it all at once instead, with and without compensation, and print what came "
            "of it.",
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Which crash; headless the same seed gives the same bytes."),
    ] = 1,
    liquidations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LIQUIDATIONS_MAX,
            help="How many accounts are liquidated; the more, the smaller each is.",
            show_default=f"live crash after crash, headless {LIQUIDATIONS:,}",
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Live: how many times as fast the crash of half an hour plays; orders end as much "
            "sooner.",
            show_default=f"{live.SPEED:g}",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Live: where to serve the dashboard, 0 for any port that is free.",
            show_default=f"{live.PORT}, or the next that is free",
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="URL",
            help="Where to keep it: sqlite:PATH of a new log; headless also "
            "kafka://HOST:PORT/PREFIX with empty topics.",
            show_default="a file in a new temporary folder",
        ),
    ] = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Show the fund in an invented crash, live on a dashboard, until Ctrl-C.

    Fund, paper exchange, read models, HTTP interface and dashboard run in this one process, with
    the default policy. With --headless the crash is played as fast as it goes, and again without
    any compensation, to show what the compensation was good for.
    """
    shards = common.settings_for(None).shards
    _check_options(headless=headless, speed=speed, port=port, output=output)
    path = None if log is None or headless else _file_of(log)
    if log is not None:
        _check_new(common.settings_for(log))
    if headless:
        _play_at_once(seed, liquidations or LIQUIDATIONS, shards, log, output)
        return
    wanted = live.Show(
        path=path or _new_file(),
        ledger=shards[0],
        seed=seed,
        speed=live.SPEED if speed is None else speed,
        liquidations=liquidations,
        port=port,
    )
    live.show(wanted)


def _check_options(
    *, headless: bool, speed: float | None, port: int | None, output: screen.Format
) -> None:
    if headless and (speed is not None or port is not None):
        raise SettingsError("--speed and --port are of the live demo; leave out --headless")
    if not headless and output is screen.Format.JSON:
        raise SettingsError("--format json needs --headless: the live demo shows a dashboard")
    if speed is not None:
        live.check_speed(speed)


def _new_file() -> Path:
    return Path(tempfile.mkdtemp(prefix="insurance-fund-demo-")) / "demo.db"


def _file_of(log: str) -> Path:
    url = log_url(common.settings_for(log))
    if not isinstance(url, SqliteUrl):
        raise SettingsError("the live demo keeps its log in a file, sqlite:PATH; or add --headless")
    return url.path


def _play_at_once(
    seed: int, liquidations: int, shards: tuple[str, ...], log: str | None, output: screen.Format
) -> None:
    market = crash(seed, liquidations)
    game = play(market, Policy(), Shard(shards[0]), "with the default policy")
    bare_game = play(market, NO_COMPENSATION, game.shard, "without compensation")
    if log is None:
        log = f"sqlite:{_new_file()}"
    keep_log(game, log_opener(common.settings_for(log)))
    compensated, bare = (outcomes_of(one).funds[CURRENCY] for one in (game, bare_game))
    shown = compensated.costliest
    liquidation = market.takeovers[0].liquidation_id if shown is None else shown[1]
    where = ["--log", log, *(("--shard", shards[0]) if len(shards) > 1 else ())]
    commands = (("status",), ("explain", liquidation), ("verify",), ("replay",))
    further = [typed(*command, *where) for command in commands]
    if output is screen.Format.JSON:
        screen.show_json(
            {
                "seed": seed,
                "liquidations": liquidations,
                "log": log,
                "margin_currency": CURRENCY,
                "with_compensation": compensated.rows(),
                "without_compensation": bare.rows(),
                "next": further,
            }
        )
        return
    print_market(seed, market)
    print_fund(compensated)
    print_difference(compensated, bare)
    screen.say("The log is kept. Ask it more:")
    for line in further:
        screen.say(f"  {line}")


def _check_new(settings: Settings) -> None:
    """Raise SettingsError for a log that has records already."""
    url = log_url(settings)
    if isinstance(url, SqliteUrl) and not url.path.exists():
        if not url.path.parent.is_dir():
            raise LogUnavailableError(f"no directory {url.path.parent}: make it before the log")
        return
    asyncio.run(_check_empty(settings))


async def _check_empty(settings: Settings) -> None:
    async with open_reader(settings) as log:
        for topic in (topics.FUND_LEDGER, *topics.INPUT_TOPICS):
            for partition in await log.partitions(topic):
                if await log.end_offset(TopicPartition(topic, partition)):
                    raise SettingsError(
                        f"{settings.text('log')} has records on {topic} already: name a log that "
                        "is new"
                    )
