"""The load: one takeover to five fills to one closing report, made the same in every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

START_MS = 1_767_312_000_000
FILLS_A_LIQUIDATION = 5
RECORDS_A_LIQUIDATION = FILLS_A_LIQUIDATION + 2


class Input(NamedTuple):
    """A record of the load."""

    topic: str
    value: bytes
    time_ms: int


def liquidations(count: int) -> Iterator[Input]:
    """Yield an instrument, a deposit and `count` liquidations, each closed by its fills."""
    number = 0

    def record(topic: str, kind: str, **fields: Any) -> Input:
        nonlocal number
        number += 1
        time_ms = START_MS + number
        message = {
            "type": kind,
            "event_id": f"ev-{number:09d}",
            "event_time_ms": time_ms,
            "margin_currency": "USDT",
            **fields,
        }
        return Input(topic, orjson.dumps(message), time_ms)

    yield record(
        "instruments",
        "instrument_defined",
        instrument_id="BTCUSDT",
        contract_type="linear",
        contract_size="0.01",
        tick_size="0.1",
        quantity_step="1",
        closing_fee_rate="0.0005",
    )
    yield record(
        "fund-transfers", "fund_deposit", transfer_id="seed", amount="100000000", memo="load"
    )
    for index in range(count):
        name = f"liq-{index:08d}"
        yield record(
            "liquidations",
            "position_taken_over",
            liquidation_id=name,
            account_id=f"acc-{index % 977}",
            instrument_id="BTCUSDT",
            position_side="long",
            quantity="10",
            entry_price="50000.5",
            margin="500.25",
        )
        for fill in range(FILLS_A_LIQUIDATION):
            yield record(
                "fills",
                "fill",
                fill_id=f"f-{index}-{fill}",
                liquidation_id=name,
                order_id=f"{name}:1",
                instrument_id="BTCUSDT",
                side="sell",
                price=f"{44_900 + (index + fill * 37) % 300}.5",
                quantity="2",
                fee="0.4495",
            )
        yield record(
            "liquidations",
            "liquidation_order_closed",
            liquidation_id=name,
            order_id=f"{name}:1",
            reason="filled",
            filled_quantity="10",
        )


def ordinary_fill(number: int) -> bytes:
    """Return a fill of the bus that is not about a liquidation."""
    return orjson.dumps(
        {
            "type": "fill",
            "fill_id": f"t-{number:010d}",
            "order_id": f"o-{number:010d}",
            "account_id": "acc-1",
            "instrument_id": "BTCUSDT",
            "side": "buy",
            "price": "45000.5",
            "quantity": "3",
            "fee": "0.675",
            "margin_currency": "USDT",
            "event_time_ms": START_MS,
        }
    )
