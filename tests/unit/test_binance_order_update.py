"""The adapter of Binance's user data stream, on events of the form that Binance documents."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder
from insurance_fund.events.messages import Fill
from insurance_fund.streams.sources.binance_order_update import order_update


def event(**changes: Any) -> bytes:
    """Return an execution of an order of the fund's."""
    order = {
        "s": "BTCUSDT",
        "c": "liq-7:1",
        "S": "SELL",
        "o": "LIMIT",
        "f": "GTD",
        "q": "0.100",
        "p": "44572.30",
        "ap": "44700.00",
        "sp": "0",
        "x": "TRADE",
        "X": "PARTIALLY_FILLED",
        "i": 8886774,
        "l": "0.040",
        "z": "0.040",
        "L": "44700.00",
        "N": "USDT",
        "n": "0.89400000",
        "T": 1767312061000,
        "t": 109100866,
        "b": "0",
        "a": "4457.23",
        "m": False,
        "R": True,
        "wt": "CONTRACT_PRICE",
        "ot": "LIMIT",
        "ps": "BOTH",
        "cp": False,
        "rp": "-212.00000000",
        "pP": False,
        "V": "NONE",
        "pm": "NONE",
        "gtd": 1767312690000,
        **changes,
    }
    order = {name: value for name, value in order.items() if value is not None}
    return orjson.dumps(
        {"e": "ORDER_TRADE_UPDATE", "E": 1767312061005, "T": 1767312061000, "o": order}
    )


def fill_of(value: bytes) -> Fill:
    fields = order_update(value)
    decoded = Decoder().decode(topics.FILLS, orjson.dumps(fields))
    assert isinstance(decoded, Fill), decoded
    return decoded


def test_execution_of_an_order_of_ours_is_a_fill_of_it() -> None:
    assert fill_of(event()) == Fill(
        event_id="BTCUSDT-109100866",
        event_time_ms=1767312061000,
        margin_currency="USDT",
        fill_id="109100866",
        liquidation_id="liq-7",
        order_id="liq-7:1",
        instrument_id="BTCUSDT",
        side="sell",
        price="44700.00",
        quantity="0.040",
        fee="0.89400000",
    )


def test_execution_without_a_commission_has_a_fee_of_zero() -> None:
    assert fill_of(event(n=None, N=None)).fee == "0"


def test_rebate_is_a_fee_below_zero() -> None:
    assert fill_of(event(n="-0.10")).fee == "-0.10"


@pytest.mark.parametrize(
    ("symbol", "currency"), [("ETHUSDC", "USDC"), ("BTCUSDT_260327", "USDT"), ("XBUSD", "BUSD")]
)
def test_margin_currency_is_the_quote_asset(symbol: str, currency: str) -> None:
    found = fill_of(event(s=symbol, N=currency, S="BUY"))
    assert (found.margin_currency, found.side, found.instrument_id) == (currency, "buy", symbol)


@pytest.mark.parametrize("kind", ["NEW", "CANCELED", "CALCULATED", "EXPIRED", "AMENDMENT"])
def test_what_is_no_execution_is_not_for_the_fund(kind: str) -> None:
    assert order_update(event(x=kind)) is None


@pytest.mark.parametrize(
    "client", ["TEST", "autoclose-1767312061", "adl_autoclose", "web_x1", ":1", "a:b", "a:1:2", ""]
)
def test_other_orders_are_not_for_the_fund(client: str) -> None:
    assert order_update(event(c=client)) is None


@pytest.mark.parametrize("kind", ["ACCOUNT_UPDATE", "TRADE_LITE", "listenKeyExpired"])
def test_other_events_are_not_for_the_fund(kind: str) -> None:
    assert order_update(orjson.dumps({"e": kind, "E": 1})) is None


def test_fee_in_another_asset_cannot_be_booked() -> None:
    with pytest.raises(ValueError, match="the fee is in BNB, the margin in USDT"):
        order_update(event(N="BNB", n="0.0001"))


def test_symbol_without_a_quote_asset_that_we_know_has_no_margin_currency() -> None:
    with pytest.raises(ValueError, match="'BTCUSD_PERP' ends with none of: USDT, USDC, BUSD"):
        order_update(event(s="BTCUSD_PERP"))


def test_combined_stream_is_not_mistaken_for_events_of_others() -> None:
    with pytest.raises(KeyError):
        order_update(b'{"stream":"x","data":' + event() + b"}")
