"""How the demo tells what came of a crash: to the market, to the fund, and without compensation."""

from __future__ import annotations

from insurance_fund.cli import screen
from insurance_fund.cli.play import money
from insurance_fund.events.amounts import ZERO
from insurance_fund.projections.outcomes import FundOutcome, Group
from insurance_fund.streams.paper.crash import CURRENCY
from insurance_fund.streams.paper.market import Market


def print_market(seed: int, market: Market) -> None:
    """Print what happened on the market, whatever the fund did."""
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


def print_fund(fund: FundOutcome) -> None:
    """Print how liquidations ended, and what that was to the fund."""
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


def print_difference(compensated: FundOutcome, bare: FundOutcome) -> None:
    """Print what compensation was good for, and what it cost."""
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
