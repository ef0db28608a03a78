"""The command `demo`: an invented crash through the whole fund."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Annotated, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.play import NO_COMPENSATION, keep_log, money, outcomes_of, play, typed
from insurance_fund.events import topics
from insurance_fund.events.amounts import ZERO
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.fund.policy import Policy
from insurance_fund.logs import log_opener, log_url, open_reader
from insurance_fund.projections.outcomes import FundOutcome, Group
from insurance_fund.settings import Settings
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.paper.crash import CURRENCY, crash
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.urls import SqliteUrl

LIQUIDATIONS_MAX: Final = 100_000


def demo(
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    liquidations: Annotated[
        int,
        typer.Option(
            min=1,
            max=LIQUIDATIONS_MAX,
            help="How many accounts are liquidated; together they are about as large.",
        ),
    ] = 1_000,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="URL",
            help="Where to keep it: sqlite:PATH of a new log, or kafka://HOST:PORT/PREFIX with "
            "empty topics.",
            show_default="a file in a new temporary folder",
        ),
    ] = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Play an invented crash through the whole fund, with its default policy.

    It is played again without any compensation, to show what the compensation was good for.
    """
    shards = common.settings_for(None).shards
    if log is not None:
        _check_new(common.settings_for(log))
    market = crash(seed, liquidations)
    game = play(market, Policy(), Shard(shards[0]), "with the default policy")
    bare_game = play(market, NO_COMPENSATION, game.shard, "without compensation")
    if log is None:
        log = f"sqlite:{tempfile.mkdtemp(prefix='insurance-fund-demo-')}/demo.db"
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
    _print_market(seed, market)
    _print_fund(compensated)
    _print_difference(compensated, bare)
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


def _print_market(seed: int, market: Market) -> None:
    falls = []
    for instrument in market.instruments:
        name = instrument.instrument_id
        prices = [trade.price for trade in market.trades if trade.instrument_id == name]
        falls.append(f"{name} falls by {100 - 100 * min(prices) / prices[0]:.0f} %")
    minutes = (market.trades[-1].time_ms - market.trades[0].time_ms) // 60_000
    screen.say(
        f": {minutes} minutes, {len(market.trades):,} trades, "
        f"{len(market.takeovers):,} liquidations. {', '.join(falls)}.",
        head=f"The crash of seed {seed}",
    )
    screen.say("")


def _print_fund(fund: FundOutcome) -> None:
    whole = Group(
        sum(group.liquidations for group in fund.ended.values()),
        sum((group.notional for group in fund.ended.values()), ZERO),
    )
    deleveraged = fund.deleveraged.notional
    screen.show_rows(
        f"How liquidations ended ({CURRENCY})",
        [
            {
                "ended": name,
                "liquidations": f"{group.liquidations:,}",
                "notional": money(group.notional, fund.scale),
                "of_it_deleveraged": money(of_it, fund.scale),
            }
            for name, group, of_it in (
                ("better than bankruptcy", fund.ended["better_than_bankruptcy"], ZERO),
                ("with compensation", fund.ended["compensated"], ZERO),
                ("by ADL", fund.ended["deleveraged"], deleveraged),
                ("in all", whole, deleveraged),
            )
        ],
        ("ended",),
        ("liquidations", "notional", "of_it_deleveraged"),
    )
    _print_amounts("The fund", fund, "before", "lowest", "after", "gains", "draws")
    _print_amounts("Compensation", fund, "granted", "used")


def _print_amounts(title: str, fund: FundOutcome, *names: str) -> None:
    row = {name: money(getattr(fund, name), fund.scale) for name in names}
    screen.show_rows(f"{title} ({CURRENCY})", [row], (), names)


def _print_difference(compensated: FundOutcome, bare: FundOutcome) -> None:
    scale = compensated.scale
    screen.show_rows(
        f"Deleveraged on the same market ({CURRENCY})",
        [
            {
                "policy": name,
                "liquidations": f"{fund.deleveraged.liquidations:,}",
                "notional": money(fund.deleveraged.notional, scale),
                "fund_after": money(fund.after, scale),
            }
            for name, fund in (("default", compensated), ("no compensation", bare))
        ],
        ("policy",),
        ("liquidations", "notional", "fund_after"),
    )
    kept = bare.deleveraged.notional - compensated.deleveraged.notional
    spent = bare.after - compensated.after
    screen.say(
        f"With compensation {money(abs(kept), scale)} {CURRENCY} "
        f"{'less' if kept >= ZERO else 'more'} was deleveraged, and the fund ended "
        f"{money(abs(spent), scale)} {CURRENCY} {'lower' if spent >= ZERO else 'higher'}."
    )
    screen.say("")
