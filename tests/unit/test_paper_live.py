"""What the exchange by the wall clock is made of: markets moved in time, names, and the tally."""

from __future__ import annotations

from typing import Any

import pytest

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.streams.paper.adl import ADL_LATENCY_MS, AdlEngine
from insurance_fund.streams.paper.course import START_MS
from insurance_fund.streams.paper.crash import crash
from insurance_fund.streams.paper.market import CALM_SPEED, Market
from insurance_fund.streams.paper.messages import OrdinaryFill, Said, script_of
from insurance_fund.streams.paper.tally import Tally
from tests.unit.life import START_MS as T
from tests.unit.test_paper_adl import STEP, trigger


@pytest.fixture(scope="module")
def drawn() -> Market:
    return crash(2, 40)


@pytest.mark.parametrize("speed", [1.0, 0.5, 40.0])
def test_market_is_played_from_a_time_on_at_a_speed(drawn: Market, speed: float) -> None:
    played = drawn.played(5_000, speed)
    assert {one.event_time_ms for one in (*played.instruments, *played.deposits)} == {5_000}
    for before, after in zip(drawn.takeovers, played.takeovers, strict=True):
        expected = 5_000 + (before.event_time_ms - START_MS) / speed
        assert expected - 1 < after.event_time_ms <= expected
        assert after.liquidation_id == before.liquidation_id
    for trade, moved in zip(drawn.trades, played.trades, strict=True):
        assert moved[1:] == trade[1:]
        assert 0 <= 5_000 + (trade.time_ms - START_MS) / speed - moved.time_ms < 1
    assert played.adl_unfilled_one_in == drawn.adl_unfilled_one_in > 0


def test_calm_beginning_goes_by_faster_and_the_rest_at_its_own_speed(drawn: Market) -> None:
    calm_ms, moved = 480_000, drawn.played(5_000, 2.0, 480_000)
    assert any(one.time_ms < START_MS + calm_ms for one in drawn.trades)
    for before, after in zip(drawn.trades, moved.trades, strict=True):
        passed_ms = before.time_ms - START_MS
        expected = passed_ms / CALM_SPEED
        if passed_ms > calm_ms:
            expected = calm_ms / CALM_SPEED + passed_ms - calm_ms
        assert 0 <= 5_000 + expected / 2 - after.time_ms < 1
    assert len(moved.takeovers) == len(drawn.takeovers)


def test_run_stands_in_every_id_of_a_market_and_changes_nothing_else(drawn: Market) -> None:
    named = crash(2, 40, "r7-")
    ids = ("event_id", "liquidation_id", "account_id", "transfer_id")
    for (_, plain), (_, other) in zip(script_of(drawn), script_of(named), strict=True):
        for name in plain.__struct_fields__:
            before, after = getattr(plain, name), getattr(other, name)
            if name in ids:
                assert after == before.replace("-", "-r7-", 1)
            else:
                assert after == before
    assert named.trades == drawn.trades


def taken_over(name: str, quantity: str) -> Said:
    message = msg.PositionTakenOver(
        **common(name),
        account_id="acc",
        position_side="long",
        entry_price="1",
        margin="1",
        quantity=quantity,
        instrument_id="BTCUSDT",
    )
    return topics.LIQUIDATIONS, message


def common(name: str) -> dict[str, Any]:
    fields = {"event_id": "e", "event_time_ms": T, "margin_currency": "USDT"}
    return {**fields, "liquidation_id": name}


def filled(name: str, quantity: str) -> Said:
    message = msg.Fill(
        **common(name),
        fill_id="f",
        order_id=f"{name}:1",
        instrument_id="BTCUSDT",
        side="sell",
        price="1",
        quantity=quantity,
    )
    return topics.FILLS, message


def deleveraged(name: str, quantity: str) -> Said:
    message = msg.AdlExecuted(
        **common(name),
        execution_id="x",
        trigger_id=f"{name}:adl",
        trigger_revision=1,
        quantity=quantity,
        price="1",
    )
    return topics.LIQUIDATIONS, message


def test_liquidation_has_ended_when_all_of_it_was_filled_or_deleveraged() -> None:
    tally = Tally()
    tally.add([taken_over("a", "3"), taken_over("b", "2.5"), taken_over("c", "1")])
    tally.add([filled("a", "1"), filled("b", "0.5"), deleveraged("b", "1")])
    assert (tally.started, tally.ended) == (3, 0)
    tally.add([filled("a", "2"), filled("b", "1")])
    assert (tally.filled, tally.deleveraged, tally.ended) == (1, 1, 2)
    assert (tally.fills, tally.executions) == (4, 1)


def test_what_is_said_of_unknown_or_ended_liquidations_ends_nothing() -> None:
    tally = Tally()
    ordinary = OrdinaryFill(
        event_id="t",
        event_time_ms=T,
        margin_currency="USDT",
        fill_id="t",
        order_id="t",
        instrument_id="BTCUSDT",
        side="sell",
        price="1",
        quantity="5",
    )
    tally.add([filled("old", "1"), deleveraged("old", "1"), (topics.FILLS, ordinary)])
    tally.add([taken_over("a", "1"), filled("a", "1"), deleveraged("a", "1")])
    assert (tally.filled, tally.deleveraged, tally.started) == (1, 0, 1)
    assert (tally.fills, tally.executions, tally.ordinary_fills) == (2, 2, 1)


def test_engine_forgets_what_is_executed_and_old_and_keeps_the_rest() -> None:
    engine = AdlEngine()
    engine.receive(trigger("5", name="old"), STEP, T)
    engine.receive(trigger("5", name="new"), STEP, T + 1_000)
    engine.work(T + 1_000 + ADL_LATENCY_MS)
    engine.receive(trigger("5", name="due"), STEP, T)
    engine.forget(T + 1_000)
    # What is forgotten would be executed again, what is kept is not.
    for name in ("old", "new"):
        engine.receive(trigger("5", revision=2, name=name), STEP, T + 2_000)
    outcomes = engine.work(T + 10_000)
    assert [outcome.trigger.liquidation_id for outcome in outcomes] == ["due", "old"]
