"""The command `demo`: an invented crash through the whole fund."""

from __future__ import annotations

import asyncio
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.play import keep_log, money, outcomes_of, play, typed, without_compensation
from insurance_fund.events import topics
from insurance_fund.events.amounts import ZERO
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.fund.policy import Policy
from insurance_fund.projections.outcomes import FundOutcome, Group
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.paper.crash import CURRENCY, crash
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import parse_log_url

LIQUIDATIONS_MAX: Final = 100_000


def demo(
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    liquidations: Annotated[
        int,
        typer.Option(
            min=1, max=LIQUIDATIONS_MAX, help="Over how many accounts the same losses are spread."
        ),
    ] = 1_000,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="URL",
            help="Where to keep it: sqlite:PATH of a new log.",
            show_default="a file in a new temporary folder",
        ),
    ] = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Play an invented crash through the whole fund, with its default policy.

    It is played again without any compensation, to show what the compensation was good for.
    """
    shards = common.settings_for(None).shards
    path = None if log is None else _new_log(log)
    market = crash(seed, liquidations)
    game = play(market, Policy(), Shard(shards[0]), "with the default policy")
    other = play(market, without_compensation(Policy()), game.shard, "without compensation")
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="insurance-fund-demo-")) / "demo.db"
    keep_log(game, path)
    told, untold = outcomes_of(game), outcomes_of(other)
    (fund,), (bare,) = told.funds.values(), untold.funds.values()
    assert fund.costliest is not None, "every liquidation of the market was closed"
    where = ["--log", f"sqlite:{path}", *(("--shard", shards[0]) if len(shards) > 1 else ())]
    commands = (("status",), ("explain", fund.costliest[1]), ("verify",), ("replay",))
    further = [typed(*command, *where) for command in commands]
    if output is screen.Format.JSON:
        screen.show_json(
            {
                "seed": seed,
                "liquidations": liquidations,
                "log": f"sqlite:{path}",
                "margin_currency": CURRENCY,
                "with_compensation": fund.rows(),
                "without_compensation": bare.rows(),
                "next": further,
            }
        )
        return
    _print_market(seed, market)
    _print_demo(CURRENCY, fund, bare)
    screen.say("The log is kept. Ask it more:")
    for line in further:
        screen.say(f"  {line}")


def _new_log(url: str) -> Path:
    path = parse_log_url(url)
    if path.exists():
        asyncio.run(_check_empty(path))
    elif not path.parent.is_dir():
        raise LogUnavailableError(f"no directory {path.parent}: make it before the log")
    return path


async def _check_empty(path: Path) -> None:
    log = SqliteLog.open_reader(path)
    try:
        for topic in (topics.FUND_LEDGER, *topics.INPUT_TOPICS):
            if await log.partitions(topic):
                raise SettingsError(
                    f"{path} has records on {topic} already: give the path of a file to be made"
                )
    finally:
        await log.close()


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


def _print_demo(currency: str, fund: FundOutcome, bare: FundOutcome) -> None:
    whole = Group(
        sum(group.liquidations for group in fund.ended.values()),
        sum((group.notional for group in fund.ended.values()), ZERO),
    )
    screen.show_rows(
        f"How liquidations ended ({currency})",
        [
            _group(name, group, of_it=deleveraged)
            for name, group, deleveraged in (
                ("better than bankruptcy", fund.ended["better_than_bankruptcy"], ZERO),
                ("with compensation", fund.ended["compensated"], ZERO),
                ("by ADL", fund.ended["deleveraged"], fund.deleveraged.notional),
                ("in all", whole, fund.deleveraged.notional),
            )
        ],
        ("ended",),
        ("liquidations", "notional", "of_it_deleveraged"),
    )
    names = ("before", "lowest", "after", "gains", "draws")
    screen.show_rows(
        f"The fund ({currency})",
        [{name: money(getattr(fund, name)) for name in names}],
        (),
        names,
    )
    screen.show_rows(
        f"Compensation ({currency})",
        [{"granted": money(fund.granted), "used": money(fund.used)}],
        (),
        ("granted", "used"),
    )
    screen.show_rows(
        f"Deleveraged on the same market ({currency})",
        [
            {
                "policy": name,
                "liquidations": f"{outcome.deleveraged.liquidations:,}",
                "notional": money(outcome.deleveraged.notional),
                "fund_after": money(outcome.after),
            }
            for name, outcome in (("default", fund), ("no compensation", bare))
        ],
        ("policy",),
        ("liquidations", "notional", "fund_after"),
    )
    kept = bare.deleveraged.notional - fund.deleveraged.notional
    spent = bare.after - fund.after
    screen.say(
        f"With compensation {money(abs(kept))} {currency} {'less' if kept >= ZERO else 'more'} was "
        f"deleveraged, and the fund ended {money(abs(spent))} {currency} "
        f"{'lower' if spent >= ZERO else 'higher'}."
    )
    screen.say("")


def _group(name: str, group: Group, *, of_it: Decimal) -> dict[str, str]:
    return {
        "ended": name,
        "liquidations": f"{group.liquidations:,}",
        "notional": money(group.notional),
        "of_it_deleveraged": money(of_it),
    }
