"""Binance USD-M: the adapter `binance-order-update`, from the user data stream to fills.

For a desk that closes what it took over in an account at Binance and puts the stream of that
account on its bus. An order carries our order_id as its client order id; Binance takes 36
characters, a colon among them, so liquidation ids have at most 34.

An `ORDER_TRADE_UPDATE` becomes a fill where its execution type is `TRADE` and its client order id
is one of ours. All else is not for the fund: other orders, and how an order ended, which
`liquidation_order_closed` on `liquidations` reports. Quantities are of the base asset, so the
contract_size of these instruments is 1. The margin currency is the quote asset of the symbol; the
stream does not say it. A fee in another asset (BNB, where that is switched on) is not to be
booked in it: the adapter fails.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from insurance_fund.streams.sources.binance_rows import margin_currency_of

_ORDER_ID: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):[1-9][0-9]*")


def order_update(value: bytes) -> dict[str, Any] | None:
    """Return the fill that an event of the user data stream reports, None for any other event.

    Raises ValueError, KeyError or TypeError for one of ours that is not as Binance documents it,
    or whose fee is in another asset than its margin.
    """
    event = orjson.loads(value)
    if event["e"] != "ORDER_TRADE_UPDATE":
        return None
    order = event["o"]
    ours = _ORDER_ID.fullmatch(order["c"])
    if ours is None or order["x"] != "TRADE":
        return None
    currency = margin_currency_of(order["s"])
    # Both are left out where there is no commission.
    fee, asset = order.get("n", "0"), order.get("N", currency)
    if asset != currency:
        raise ValueError(f"the fee is in {asset}, the margin in {currency}")
    return {
        "type": "fill",
        "event_id": f"{order['s']}-{order['t']}",
        "event_time_ms": order["T"],
        "margin_currency": currency,
        "fill_id": str(order["t"]),
        "liquidation_id": ours[1],
        "order_id": order["c"],
        "instrument_id": order["s"],
        "side": order["S"].lower(),
        "price": order["L"],
        "quantity": order["l"],
        "fee": fee,
    }
