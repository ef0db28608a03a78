"""The synthetic crash: what every seed makes of it, and that a seed makes it the same again."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from insurance_fund.events import messages as msg
from insurance_fund.streams.paper.course import Instrument
from insurance_fund.streams.paper.crash import INSTRUMENTS, crash
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.tape import Trade

SEEDS = (1, 2, 77)
BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}
UNIT = Decimal("0.000001")


@pytest.fixture(scope="module", params=SEEDS)
def market(request: pytest.FixtureRequest) -> Market:
    return crash(request.param, 400)


def equity(takeover: msg.PositionTakenOver, instrument: Instrument) -> Decimal:
    """Return what the account has left at the mark price of its takeover."""
    sign = 1 if takeover.position_side == "long" else -1
    size = Decimal(takeover.quantity) * Decimal(instrument.contract_size)
    move = Decimal(takeover.mark_price or "") - Decimal(takeover.entry_price)
    return Decimal(takeover.margin) + sign * size * move


def test_seed_gives_the_same_market_again_and_another_seed_another() -> None:
    assert crash(5, 30) == crash(5, 30)
    assert crash(5, 30) != crash(6, 30)


def test_draws_are_the_same_on_every_machine_and_version_of_python() -> None:
    made = crash(1, 3)
    assert [(t.event_time_ms, t.instrument_id, t.margin) for t in made.takeovers] == [
        (1767312562818, "SOLUSDT", "526177.84"),
        (1767312684225, "BTCUSDT", "5355856.241534"),
        (1767313263460, "SOLUSDT", "320225.44118"),
    ]
    assert made.trades[1_000] == Trade(1767312098462, "ETHUSDT", Decimal("3416.63"), Decimal(556))


@pytest.mark.parametrize("count", [1, 2, 999])
def test_there_are_as_many_liquidations_as_asked_for_each_of_its_own(count: int) -> None:
    takeovers = crash(1, count).takeovers
    assert len({takeover.liquidation_id for takeover in takeovers}) == count
    assert len({takeover.account_id for takeover in takeovers}) == count


def test_account_has_exactly_its_maintenance_margin_left_at_the_mark_price(market: Market) -> None:
    for takeover in market.takeovers:
        instrument = BY_NAME[takeover.instrument_id]
        notional = (
            Decimal(takeover.quantity)
            * Decimal(instrument.contract_size)
            * Decimal(takeover.mark_price or "")
        )
        due = notional * instrument.maintenance / 1_000_000
        assert due - UNIT < equity(takeover, instrument) <= due
        assert Decimal(takeover.margin) > 0


def test_prices_are_on_the_tick_and_quantities_whole_contracts(market: Market) -> None:
    for trade in market.trades:
        assert trade.price % Decimal(BY_NAME[trade.instrument_id].tick_size) == 0
        assert trade.price > 0
        assert trade.quantity >= 1
        assert trade.quantity % 1 == 0
    for takeover in market.takeovers:
        assert Decimal(takeover.quantity) % 1 == 0


def test_market_falls_by_a_fifth_or_more_and_comes_back_a_part_of_the_way(market: Market) -> None:
    for name in BY_NAME:
        prices = [trade.price for trade in market.trades if trade.instrument_id == name]
        first, least, last = prices[0], min(prices), prices[-1]
        assert least < first * Decimal("0.8")
        assert least < last < first


def test_trades_are_smallest_where_the_market_is_lowest(market: Market) -> None:
    trades = [trade for trade in market.trades if trade.instrument_id == "BTCUSDT"]
    lowest = min(range(len(trades)), key=lambda index: trades[index].price)
    around = [trade.quantity for trade in trades[lowest - 100 : lowest + 100]]
    before = [trade.quantity for trade in trades[:200]]
    assert sum(around) * 3 < sum(before)


def test_most_liquidations_are_of_longs_and_come_while_the_market_falls(market: Market) -> None:
    tape = [trade for trade in market.trades if trade.instrument_id == "BTCUSDT"]
    lowest_ms = min((trade.price, trade.time_ms) for trade in tape)[1]
    sides = Counter(takeover.position_side for takeover in market.takeovers)
    assert sides["long"] > 3 * sides["short"] > 0
    falling = [takeover for takeover in market.takeovers if takeover.event_time_ms <= lowest_ms]
    assert len(falling) > len(market.takeovers) * 6 // 10


def test_orders_come_after_the_first_trade_and_have_time_to_be_filled(market: Market) -> None:
    times_ms = [takeover.event_time_ms for takeover in market.takeovers]
    assert market.trades[0].time_ms < times_ms[0]
    assert times_ms[-1] + 30_000 < market.trades[-1].time_ms
