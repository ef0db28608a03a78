"""Matching by hand-worked cases: who gets how much of which trade, at which price, until when."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from insurance_fund.events import messages as msg
from insurance_fund.streams.paper.matching import Matching
from insurance_fund.streams.paper.tape import Trade
from tests.unit.life import START_MS as T

ONE = Decimal(1)
PERP = "BTCUSDT"


def order(name: str, price: str, quantity: str = "10", **changes: Any) -> msg.LiquidationOrder:
    """Return an order that sells until T + 30,000."""
    fields: dict[str, Any] = {
        "event_id": "e",
        "event_time_ms": T,
        "margin_currency": "USDT",
        "ledger": "main",
        "sequence": 1,
        "order_id": f"{name}:1",
        "liquidation_id": name,
        "account_id": "acc",
        "instrument_id": PERP,
        "position_side": "long",
        "order_side": "sell",
        "quantity": quantity,
        "price": price,
        "expires_at_ms": T + 30_000,
        "attempt": 1,
        "bankruptcy_price": price,
        "compensation": "0",
        "reserved": "0",
        "binding_cap": None,
        **changes,
    }
    return msg.LiquidationOrder(**fields)


def buying(name: str, price: str, quantity: str = "10") -> msg.LiquidationOrder:
    return order(name, price, quantity, position_side="short", order_side="buy")


def trade(price: str, quantity: str, instrument: str = PERP) -> Trade:
    return Trade(T + 1_000, instrument, Decimal(price), Decimal(quantity))


def matching(*orders: msg.LiquidationOrder, step: Decimal = ONE) -> Matching:
    made = Matching()
    for one in orders:
        made.add(one, step)
    return made


def told(made: Matching, one: Trade) -> list[tuple[str, str, str, str]]:
    """Match a trade; return who took how much at which price, and what each still wants."""
    return [
        (x.order.liquidation_id, str(x.quantity), str(x.price), str(x.rest))
        for x in made.match(one)
    ]


@pytest.mark.parametrize(
    ("limit", "price", "filled"),
    [("100", "100", True), ("100", "100.1", True), ("100", "99.9", False)],
)
def test_sell_order_takes_trades_at_its_limit_or_above_at_their_price(
    limit: str, price: str, filled: bool
) -> None:
    made = matching(order("a", limit))
    assert made.wants(trade(price, "4")) is filled
    assert told(made, trade(price, "4")) == ([("a", "4", price, "6")] if filled else [])


@pytest.mark.parametrize(
    ("limit", "price", "filled"),
    [("100", "100", True), ("100", "99.9", True), ("100", "100.1", False)],
)
def test_buy_order_takes_trades_at_its_limit_or_below_at_their_price(
    limit: str, price: str, filled: bool
) -> None:
    made = matching(buying("a", limit))
    assert made.wants(trade(price, "4")) is filled
    assert told(made, trade(price, "4")) == ([("a", "4", price, "6")] if filled else [])


def test_order_takes_no_more_than_it_wants_and_is_gone_when_it_is_full() -> None:
    made = matching(order("a", "100"))
    assert told(made, trade("100", "7")) == [("a", "7", "100", "3")]
    assert told(made, trade("101", "7")) == [("a", "3", "101", "0")]
    assert list(made.instruments()) == []
    assert told(made, trade("101", "7")) == []
    assert made.next_expiry_ms() is None


def test_sell_with_the_lowest_limit_is_first_and_of_equals_the_one_that_came_first() -> None:
    made = matching(order("a", "100"), order("b", "99"), order("c", "100"), order("d", "101"))
    assert told(made, trade("100.5", "25")) == [
        ("b", "10", "100.5", "0"),
        ("a", "10", "100.5", "0"),
        ("c", "5", "100.5", "5"),
    ]
    assert told(made, trade("101", "6")) == [("c", "5", "101", "0"), ("d", "1", "101", "9")]


def test_buy_with_the_highest_limit_is_first_and_of_equals_the_one_that_came_first() -> None:
    made = matching(buying("a", "100"), buying("b", "101"), buying("c", "100"))
    assert told(made, trade("99", "21")) == [
        ("b", "10", "99", "0"),
        ("a", "10", "99", "0"),
        ("c", "1", "99", "9"),
    ]


def test_sells_and_buys_share_one_trade_the_one_that_concedes_more_first() -> None:
    made = matching(order("sell", "98"), buying("buy", "103"))
    assert told(made, trade("100", "12")) == [
        ("buy", "10", "100", "0"),
        ("sell", "2", "100", "8"),
    ]


def test_orders_take_whole_steps_and_leave_what_is_less() -> None:
    made = matching(order("a", "100", "1"), order("b", "100", "1"), step=Decimal("0.25"))
    assert told(made, trade("100", "1.6")) == [
        ("a", "1.00", "100", "0.00"),
        ("b", "0.50", "100", "0.50"),
    ]
    assert told(made, trade("100", "0.2")) == []


def test_trade_of_one_instrument_is_not_for_orders_in_another() -> None:
    made = matching(order("a", "100"), order("b", "100", instrument_id="ETHUSDT"))
    assert told(made, trade("100", "50", "ETHUSDT")) == [("b", "10", "100", "0")]
    assert list(made.instruments()) == [PERP]


def ended(made: Matching, now_ms: int) -> list[tuple[str, str]]:
    """Return whose orders expire, and how much each has filled."""
    return [(one.order.liquidation_id, str(one.filled)) for one in made.expire(now_ms)]


def test_order_ends_at_its_expiry_with_what_it_has_filled_in_all() -> None:
    made = matching(order("a", "100"), order("b", "101", expires_at_ms=T + 20_000))
    made.match(trade("100", "3"))
    made.match(trade("100", "2"))
    assert made.next_expiry_ms() == T + 20_000
    assert ended(made, T + 19_999) == []
    assert ended(made, T + 20_000) == [("b", "0")]
    assert told(made, trade("101", "1")) == [("a", "1", "101", "4")]
    assert ended(made, T + 30_000) == [("a", "6")]
    assert told(made, trade("101", "1")) == []
    assert made.next_expiry_ms() is None
