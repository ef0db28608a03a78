"""The paper exchange and a fund, turn by turn, on markets small enough to be worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import PositionSide
from insurance_fund.events.ledger import InputCause, PolicyCause, decode_entry
from insurance_fund.events.terms import Terms
from insurance_fund.fund.contracts import contract_of
from insurance_fund.fund.policy import parse_policy
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.paper.adl import ADL_LATENCY_MS, ADL_RETRY_MS
from insurance_fund.streams.paper.crash import crash
from insurance_fund.streams.paper.exchange import ORDER_LATENCY_MS
from insurance_fund.streams.paper.game import Game, play_game
from insurance_fund.streams.paper.market import Market, deposit
from insurance_fund.streams.paper.messages import fee_of
from insurance_fund.streams.paper.tape import Trade
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.simulator.client import SimulatedLog
from tests.unit.life import BTCUSDT, XBTUSD
from tests.unit.life import START_MS as T

MAIN = Shard("main")
BTC = msg.InstrumentDefined(
    event_id="i",
    event_time_ms=T,
    margin_currency="USDT",
    **BTCUSDT,  # type: ignore[arg-type]
)
XBT = msg.InstrumentDefined(
    event_id="i",
    event_time_ms=T,
    **XBTUSD,  # type: ignore[arg-type]
)
# One order that stands at T + 100 and expires at T + 30,000.
EXPIRES_MS = 30_000
BETTER = "45100"  # than the bankruptcy price, 45022.5…
LIMIT = "44572.3"


def takeover(name: str = "liq-7", at_ms: int = 0, **changes: Any) -> msg.PositionTakenOver:
    """Take over, at T + `at_ms`, a long whose order at 1 % stands at 44572.3, at 0 % at 45022.6."""
    fields: dict[str, Any] = {
        "event_id": name,
        "event_time_ms": T + at_ms,
        "margin_currency": "USDT",
        "liquidation_id": name,
        "account_id": "acc",
        "instrument_id": "BTCUSDT",
        "position_side": "long",
        "quantity": "10",
        "entry_price": "50000",
        "margin": "500",
        **changes,
    }
    return msg.PositionTakenOver(**fields)


def trade(at_ms: int, price: str, quantity: str = "100", instrument: str = "BTCUSDT") -> Trade:
    return Trade(T + at_ms, instrument, Decimal(price), Decimal(quantity))


def market(*trades: Trade, takeovers: tuple[msg.PositionTakenOver, ...] = (takeover(),)) -> Market:
    return Market([BTC], [deposit("USDT", "1000", T)], takeovers, trades)


async def play(played: Market, policy: dict[str, Any] | None = None) -> Game:
    return await play_game(played, parse_policy(policy or {}), MAIN)


def said(game: Game, topic: str) -> list[dict[str, Any]]:
    """Return what stands on a topic; event times count from T."""
    values = [a.record.value for a in game.broker.appended_to(TopicPartition(topic, 0))]
    messages = [json.loads(value or b"") for value in values]
    return [{**m, "event_time_ms": m["event_time_ms"] - T} for m in messages]


def fills(game: Game) -> list[tuple[int, str, str, str]]:
    return [
        (m["event_time_ms"], m["order_id"], m["quantity"], m["price"])
        for m in said(game, topics.FILLS)
    ]


def ends(game: Game) -> list[tuple[int, str, str, str]]:
    return [
        (m["event_time_ms"], m["order_id"], m["reason"], m["filled_quantity"])
        for m in said(game, topics.LIQUIDATIONS)
        if m["type"] == "liquidation_order_closed"
    ]


def deleveragings(game: Game) -> list[tuple[int, str, Decimal]]:
    """Return when which kind of message came about ADL, and for how much in all."""
    found: dict[tuple[int, str], Decimal] = {}
    for m in said(game, topics.LIQUIDATIONS):
        if m["type"].startswith("adl"):
            key = (m["event_time_ms"], m["type"])
            found[key] = found.get(key, Decimal(0)) + Decimal(m["quantity"])
    return [(*key, quantity) for key, quantity in found.items()]


async def test_order_is_filled_from_its_arrival_on_and_reported_behind_its_last_fill() -> None:
    tape = (trade(99, BETTER, "1"), trade(100, BETTER, "3"), trade(5_000, LIMIT))
    game = await play(market(*tape))
    assert fills(game) == [
        (ORDER_LATENCY_MS, "liq-7:1", "3", BETTER),
        (5_000, "liq-7:1", "7", LIMIT),
    ]
    assert ends(game) == [(5_001, "liq-7:1", "filled", "10")]
    assert deleveragings(game) == []


async def test_fee_is_the_rate_of_the_instrument_times_notional() -> None:
    game = await play(market(trade(100, BETTER, "3"), trade(200, LIMIT)))
    # 0.0005 x 0.01 x 3 x 45100 and 0.0005 x 0.01 x 7 x 44572.3
    assert [m["fee"] for m in said(game, topics.FILLS)] == ["0.6765", "1.5600305"]


def inverse_market(*trades: Trade) -> Market:
    """Take over a long of 1,000 USD at 50,000, the margin of which is worth a tenth of it."""
    taken = takeover(margin_currency="XBT", instrument_id="XBTUSD", quantity="1000", margin="0.002")
    return Market([XBT], [deposit("XBT", "1", T)], [taken], trades)


def floored(value: Fraction) -> Decimal:
    """Return a value to the 18 decimals that an amount may have."""
    return Decimal(floor(value * 10**18)).scaleb(-18)


async def test_fee_of_an_inverse_contract_is_in_coins_to_the_last_digit_of_an_amount() -> None:
    tape = (trade(100, "47001.5", "300", "XBTUSD"), trade(200, "46999", "700", "XBTUSD"))
    game = await play(inverse_market(*tape))
    rate = Fraction("0.00075")
    assert [Decimal(m["fee"]) for m in said(game, topics.FILLS)] == [
        floored(rate * 300 / Fraction("47001.5")),
        floored(rate * 700 / 46999),
    ]


@pytest.mark.parametrize("side", ["long", "short"])
def test_fee_of_a_value_without_an_end_is_floored_once_for_either_side(side: PositionSide) -> None:
    contract = contract_of(Terms(**{name: getattr(XBT, name) for name in Terms.__struct_fields__}))
    fee = fee_of(Decimal("0.5"), contract, Decimal(1), Decimal(3), side)
    assert fee == Decimal("0.166666666666666666")


def executions(game: Game) -> Sequence[dict[str, Any]]:
    return [m for m in said(game, topics.LIQUIDATIONS) if m["type"] == "adl_executed"]


def delta_of_adl(game: Game) -> Decimal:
    """Return what the fund got of executions, all of them at the price of one trigger."""
    effects = [e for line in game.lines for e in decode_entry(line).effects]
    return sum((Decimal(e.delta) for e in effects if isinstance(e, fx.AdlExecuted)), Decimal(0))


@pytest.mark.parametrize("rate", ["0", "0.0005", "0.01", "0.2", "0.999"])
@pytest.mark.parametrize(("side", "sign"), [("long", 1), ("short", -1)])
async def test_what_adl_brings_is_less_than_a_tick_whatever_its_fee_rate(
    rate: str, side: str, sign: int
) -> None:
    played = Market([BTC], [], [takeover(position_side=side)], [])
    game = await play(played, {"default": {"adl_fee_rate": rate}})
    executed = executions(game)
    for one in executed:
        worth = Fraction("0.01") * Fraction(one["quantity"]) * Fraction(one["price"])
        assert Decimal(one["fee"]) == floored(Fraction(rate) * worth)
    # Of 10 contracts of 0.01; the fee is paid on the tick too, and each is rounded up once.
    tick = 10 * Decimal("0.01") * Decimal("0.1") * (1 - sign * Decimal(rate))
    assert -len(executed) * Decimal("0.000001") <= delta_of_adl(game) < tick


async def test_adl_fee_rate_of_the_instrument_holds_and_inverse_contracts_pay_in_coins() -> None:
    policy = {
        "default": {"adl_fee_rate": "0.5"},
        "instruments": {"XBTUSD": {"adl_fee_rate": "0.003"}},
    }
    game = await play(inverse_market(), policy)
    for executed in executions(game):
        worth = Fraction(executed["quantity"]) / Fraction(executed["price"])
        assert Decimal(executed["fee"]) == floored(Fraction("0.003") * worth)
    assert sum(Decimal(executed["quantity"]) for executed in executions(game)) == 1_000


async def test_trade_below_the_limit_or_at_the_expiry_fills_nothing_and_the_rest_goes_to_adl() -> (
    None
):
    tape = (trade(100, BETTER, "4"), trade(29_998, "44572.2"), trade(EXPIRES_MS, "50000"))
    game = await play(market(*tape))
    assert fills(game) == [(100, "liq-7:1", "4", BETTER)]
    assert ends(game) == [(EXPIRES_MS, "liq-7:1", "expired", "4")]
    due_ms = EXPIRES_MS + ORDER_LATENCY_MS + ADL_LATENCY_MS
    assert deleveragings(game) == [(due_ms, "adl_executed", Decimal(6))]


async def test_trade_in_the_last_millisecond_fills() -> None:
    game = await play(market(trade(EXPIRES_MS - 1, LIMIT)))
    assert fills(game) == [(EXPIRES_MS - 1, "liq-7:1", "10", LIMIT)]
    assert ends(game) == [(EXPIRES_MS, "liq-7:1", "filled", "10")]


async def test_executions_are_at_the_price_and_the_revision_of_the_trigger() -> None:
    game = await play(market())
    (trigger,) = said(game, topics.ADL_TRIGGERS)
    executed = [m for m in said(game, topics.LIQUIDATIONS) if m["type"] == "adl_executed"]
    assert {(m["price"], m["trigger_revision"], m["trigger_id"]) for m in executed} == {
        (trigger["price"], 1, "liq-7:adl")
    }
    assert trigger["price"] == "45000"
    assert len({m["execution_id"] for m in executed}) == len(executed)


async def test_order_that_expires_before_it_arrives_is_reported_expired_with_nothing_filled() -> (
    None
):
    policy = {"default": {"attempts": [["0.01", ORDER_LATENCY_MS], ["0.01", 5_000]]}}
    game = await play(market(trade(100, BETTER), trade(150, BETTER), trade(200, BETTER)), policy)
    assert ends(game) == [(100, "liq-7:1", "expired", "0"), (201, "liq-7:2", "filled", "10")]
    assert fills(game) == [(200, "liq-7:2", "10", BETTER)]


async def test_each_attempt_is_an_order_of_its_own_for_what_is_left() -> None:
    policy = {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}}
    # At 45022.5 only the second order sells; it arrives at 5,100.
    tape = (trade(1_000, BETTER, "2"), trade(5_099, "45022.5"), trade(5_100, "45022.5", "5"))
    game = await play(market(*tape), policy)
    assert fills(game) == [
        (1_000, "liq-7:1", "2", BETTER),
        (5_100, "liq-7:2", "5", "45022.5"),
    ]
    assert ends(game) == [(5_000, "liq-7:1", "expired", "2"), (30_000, "liq-7:2", "expired", "5")]
    assert deleveragings(game) == [(30_600, "adl_executed", Decimal(3))]


async def test_one_trade_is_shared_by_the_orders_of_several_liquidations_and_used_once() -> None:
    takeovers = (takeover("a"), takeover("b", margin="600"))
    game = await play(market(trade(1_000, BETTER, "14"), takeovers=takeovers))
    # With more margin left the bankruptcy price of `b` is lower, and so is its limit.
    assert fills(game) == [(1_000, "b:1", "10", BETTER), (1_000, "a:1", "4", BETTER)]


async def test_order_that_arrives_at_the_very_time_of_a_trade_has_its_share_of_it() -> None:
    takeovers = (takeover("a"), takeover("b", 1_000, margin="600"))
    game = await play(market(trade(1_100, BETTER, "14"), takeovers=takeovers))
    assert fills(game) == [(1_100, "b:1", "10", BETTER), (1_100, "a:1", "4", BETTER)]


async def test_trade_that_no_order_wanted_when_it_was_passed_is_there_for_one_that_comes() -> None:
    low = takeover("low", 2_000, margin="4000")
    tape = (trade(1_000, "10000"), trade(2_100, "44000", "3"), trade(2_200, "10000"))
    game = await play(market(*tape, takeovers=(takeover(), low)))
    assert fills(game) == [(2_100, "low:1", "3", "44000"), (2_200, "low:1", "7", "10000")]


async def test_short_is_bought_back_at_its_limit_or_below() -> None:
    short = takeover(position_side="short")
    # Its bankruptcy price is 54972.5…, one percent beyond it is 55522.2.
    tape = (trade(500, "55522.3", "9"), trade(600, "55522.2", "4"), trade(700, "50000"))
    game = await play(market(*tape, takeovers=(short,)))
    assert fills(game) == [(600, "liq-7:1", "4", "55522.2"), (700, "liq-7:1", "6", "50000")]
    assert {m["side"] for m in said(game, topics.FILLS)} == {"buy"}


async def test_trigger_that_finds_nobody_is_said_to_be_unfilled_and_executed_later() -> None:
    played = Market([BTC], [], [takeover()], [], adl_unfilled_one_in=1)
    game = await play(played)
    first_ms = EXPIRES_MS + ORDER_LATENCY_MS + ADL_LATENCY_MS
    assert deleveragings(game) == [
        (first_ms, "adl_unfilled", Decimal(10)),
        (first_ms + ADL_RETRY_MS, "adl_executed", Decimal(10)),
    ]


async def test_trades_of_an_instrument_that_is_not_defined_are_passed_by() -> None:
    game = await play(market(trade(500, BETTER, "9", "ETHUSDT"), trade(500, BETTER)))
    assert fills(game) == [(500, "liq-7:1", "10", BETTER)]


async def test_market_without_takeovers_ends_at_once() -> None:
    game = await play(market(trade(500, BETTER), takeovers=()))
    assert [decode_entry(line).sequence for line in game.lines] == [0, 1, 2]


async def test_keys_and_timestamps_are_those_of_the_contract() -> None:
    game = await play(market(trade(100, BETTER)))
    keys = {
        topics.INSTRUMENTS: {b"BTCUSDT"},
        topics.FUND_TRANSFERS: {b"USDT"},
        topics.LIQUIDATIONS: {b"liq-7"},
        topics.FILLS: {b"liq-7"},
    }
    for topic, due in keys.items():
        records = [a.record for a in game.broker.appended_to(TopicPartition(topic, 0))]
        assert {record.key for record in records} == due
        for record, message in zip(records, said(game, topic), strict=True):
            assert record.timestamp_ms == T + message["event_time_ms"]


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("the tape", {"trades": [trade(5, BETTER), trade(4, BETTER)]}),
        ("the takeovers", {"takeovers": [takeover("a", 5), takeover("b", 4)]}),
    ],
)
def test_what_goes_back_in_time_is_refused_with_both_times(
    what: str, parts: dict[str, Any]
) -> None:
    rest: dict[str, Any] = {"instruments": [BTC], "deposits": [], "takeovers": [], "trades": []}
    with pytest.raises(ValueError, match=rf"{what} go .*: {T + 4} stands behind {T + 5}"):
        Market(**{**rest, **parts})


async def test_policy_under_which_the_fund_refuses_the_market_is_named_as_what_does_not_fit() -> (
    None
):
    with pytest.raises(SettingsError, match=r"does not fit this market: .*unknown_currency"):
        await play(market(), {"currencies": {"USDC": {"scale": 6}}})


async def test_market_is_played_until_the_last_deadline_of_the_fund() -> None:
    # A takeover whose instrument is never defined waits in the park for an hour.
    played = Market([], [], [takeover()], [])
    with pytest.raises(SettingsError, match=r"liquidations:0 was refused \(parked_expired: "):
        await play(played)


async def test_same_market_gives_the_same_records_and_the_same_ledger() -> None:
    played = market(*(trade(100 * n, BETTER, "1") for n in range(1, 9)))
    one, other = await play(played), await play(played)
    assert one.lines == other.lines
    for topic in (*topics.INPUT_TOPICS, *topics.OUTPUT_TOPICS, topics.FUND_LEDGER):
        where = TopicPartition(topic, 0)
        assert one.broker.appended_to(where) == other.broker.appended_to(where)


@pytest.mark.parametrize(
    "policy",
    [
        {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}},
        {"default": {"attempts": [["0.01", 50], ["0.02", 150], ["0.05", 1_000]]}},
        {"grace_ms": 0},
    ],
)
async def test_fund_that_reads_the_same_records_afterwards_decides_the_same(
    policy: dict[str, Any],
) -> None:
    game = await play(crash(3, 60), policy)
    broker = Broker()
    for topic in topics.INPUT_TOPICS:
        for record, _ in game.broker.appended_to(TopicPartition(topic, 0)):
            new = NewRecord(0, record.key, record.value, timestamp_ms=record.timestamp_ms)
            broker.publish(topic, [new])
    options = Options(clock="event", policy=parse_policy(policy), until_idle=True)
    processor = Processor(SimulatedLog(broker), MAIN, options, broker.clock)
    await processor.start()
    await processor.run()
    for topic in (*topics.OUTPUT_TOPICS, topics.FUND_LEDGER):
        where = TopicPartition(topic, 0)
        played, read = (
            [a.record.value for a in b.appended_to(where)] for b in (game.broker, broker)
        )
        assert played == read
    assert len(game.lines) > 400


async def test_fund_advances_with_the_exchange_so_that_no_deadline_comes_in_front_of_a_report() -> (
    None
):
    game = await play(market(trade(100, BETTER, "4")), {"grace_ms": 1})
    causes = {type(decode_entry(line).cause) for line in game.lines}
    assert causes == {PolicyCause, InputCause}
