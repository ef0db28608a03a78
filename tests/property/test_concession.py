"""What a concession is for: of one liquidation alone, with an ample fund, more of it never means
that more is deleveraged, whatever the position and the tape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from insurance_fund.events import messages as msg
from insurance_fund.events.ledger import decode_entry
from insurance_fund.fund.policy import parse_policy
from insurance_fund.projections.outcomes import FundOutcome, Outcomes
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.paper.game import play_game
from insurance_fund.streams.paper.market import Market, deposit
from insurance_fund.streams.paper.tape import Trade
from tests.property.scale import EXAMPLES, STEADY
from tests.unit.life import BTCUSDT, ETHUSD, XBTUSD
from tests.unit.life import START_MS as T

some = settings(max_examples=250 * EXAMPLES, deadline=None, derandomize=STEADY, print_blob=True)
AMPLE = "1000000000000"
LIFETIMES_MS = (1_000, 10_000, 30_000)
# How far the tape and the concessions reach from the bankruptcy price, in thousandths.
REACH = 50
Attempts = list[tuple[str, int]]


class Case(NamedTuple):
    """A market of one liquidation, and two lists of attempts, the second of which concedes more."""

    market: Market
    less: Attempts
    more: Attempts


def taken_over(
    terms: dict[str, str], side: str, quantity: int, entry: Decimal, margin: int
) -> msg.PositionTakenOver:
    """Take over a position at T; `margin` is in thousandths of what it was worth at entry."""
    size = quantity * Decimal(terms["contract_size"])
    worth = size / entry if terms["contract_type"] == "inverse" else size * entry
    return msg.PositionTakenOver(
        event_id="t",
        event_time_ms=T,
        margin_currency=terms.get("margin_currency", "USDT"),
        liquidation_id="liq-7",
        account_id="acc",
        instrument_id=terms["instrument_id"],
        position_side=side,  # type: ignore[arg-type]
        quantity=str(quantity),
        entry_price=str(entry),
        margin=f"{worth * margin / 1000:.8f}",
    )


@st.composite
def tapes(draw: st.DrawFn, terms: dict[str, str], centre: Decimal) -> list[Trade]:
    """Draw trades of the time in which orders live, at prices on both sides of the centre."""
    moment = st.integers(0, sum(LIFETIMES_MS))
    prices = st.integers(-REACH, REACH)
    drawn = draw(st.lists(st.tuples(moment, prices, st.integers(1, 20)), min_size=3, max_size=25))
    tick = Decimal(terms["tick_size"])
    return [
        Trade(
            T + at_ms,
            terms["instrument_id"],
            centre * (1000 + off) / 1000 // tick * tick,
            Decimal(size),
        )
        for at_ms, off, size in sorted(drawn)
    ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    terms = draw(st.sampled_from((BTCUSDT, XBTUSD, ETHUSD)))
    entry = Decimal(draw(st.integers(1_000, 100_000)))
    side = draw(st.sampled_from(("long", "short")))
    margin = draw(st.integers(0, 200))
    takeover = taken_over(terms, side, draw(st.integers(1, 100)), entry, margin)
    currency = takeover.margin_currency
    fields: dict[str, Any] = {"margin_currency": currency, **terms}
    instrument = msg.InstrumentDefined(event_id="i", event_time_ms=T, **fields)
    # Near the bankruptcy price it is decided whether a concession reaches a trade.
    bankruptcy = entry * (1000 - margin if side == "long" else 1000 + margin) / 1000
    concession = st.integers(0, REACH)
    pair = st.tuples(concession, concession, st.sampled_from(LIFETIMES_MS))
    pairs = draw(st.lists(pair, min_size=1, max_size=2))
    return Case(
        Market(
            [instrument],
            [deposit(currency, AMPLE, T)],
            [takeover],
            draw(tapes(terms, bankruptcy)),
        ),
        [(str(Decimal(min(a, b)) / 1000), lifetime_ms) for a, b, lifetime_ms in pairs],
        [(str(Decimal(max(a, b)) / 1000), lifetime_ms) for a, b, lifetime_ms in pairs],
    )


def outcome(market: Market, attempts: Sequence[tuple[str, int]]) -> FundOutcome:
    """Play a market under attempts; all of its liquidations end."""
    policy = parse_policy({"default": {"attempts": [list(one) for one in attempts]}})
    game = asyncio.run(play_game(market, policy, Shard("main")))
    outcomes = Outcomes()
    for line in game.lines:
        outcomes.apply(decode_entry(line))
    (found,) = outcomes.funds.values()
    assert sum(group.liquidations for group in found.ended.values()) == len(market.takeovers)
    return found


@some
@given(cases())
def test_more_concession_never_means_that_more_of_one_liquidation_is_deleveraged(
    case: Case,
) -> None:
    less, more = outcome(case.market, case.less), outcome(case.market, case.more)
    assert more.deleveraged.notional <= less.deleveraged.notional
    fewer = more.deleveraged.notional < less.deleveraged.notional
    event("less is deleveraged" if fewer else "as much is deleveraged")


def test_concession_that_reaches_the_tape_deleverages_less() -> None:
    takeover = taken_over(BTCUSDT, "long", 10, Decimal(50_000), 100)
    instrument = msg.InstrumentDefined(
        event_id="i",
        event_time_ms=T,
        margin_currency="USDT",
        **BTCUSDT,  # type: ignore[arg-type]
    )
    tape = [
        Trade(T + 1_000 * at, "BTCUSDT", Decimal(price), Decimal(3))
        for at, price in enumerate((45_100, 44_700, 44_100), start=1)
    ]
    market = Market([instrument], [deposit("USDT", AMPLE, T)], [takeover], tape)
    deleveraged = [
        outcome(market, [(concession, 30_000)]).deleveraged.notional
        for concession in ("0", "0.01", "0.03")
    ]
    # 10, 7, 4 and 1 contracts of 0.01 at the bankruptcy price.
    assert deleveraged == [7 * 450, 4 * 450, 450]
