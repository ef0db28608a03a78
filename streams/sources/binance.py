"""Binance USD-M: recordings of the `!forceOrder@arr` stream, read as liquidations.

A row is a liquidation order that the exchange priced at `p` and filled with `z` at an average of
`ap`. `p` is read as the bankruptcy price: the position is taken over at entry price `p` with no
margin left, its order stands at `p`, and its one fill is `z` at `ap`; so the fund gets
`(ap - p) z` for SELL (a long is liquidated) and `(p - ap) z` for BUY.

All ids come from the row, so the same row is the same messages wherever it is read; two orders
alike in every field and in the millisecond count as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import amount_text, unit
from insurance_fund.events.fields import OrderSide, PositionSide
from insurance_fund.fund.policy import MINUTE_MS, Policy
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sources.binance_rows import ForceOrder, Found, read_file
from insurance_fund.streams.sources.cells import Remark, decimals

ACCOUNT_ID: Final = "unknown"
# How long the exchange's order is taken to live; its end is in the recording, so any time will do.
LIFETIME_MS: Final = MINUTE_MS

_SIDES: Final[dict[str, tuple[PositionSide, OrderSide]]] = {
    "SELL": ("long", "sell"),
    "BUY": ("short", "buy"),
}


@dataclass(frozen=True, slots=True)
class Recording:
    """What recordings come to.

    `messages` are records by input topic, in order of their event times. Of `lines` that are not
    blank, `rows` are orders, the rest are `headers` and `junk`; `notes` name rows that were not
    taken word for word. `policy` is the document under which amounts come out exact: it holds
    `scales`, the decimals needed in each margin currency.
    """

    messages: Mapping[str, Sequence[NewRecord]]
    instruments: Sequence[msg.InstrumentDefined]
    junk: Sequence[Remark]
    notes: Sequence[Remark]
    lines: int
    rows: int
    headers: int
    scales: Mapping[str, int]
    policy: Mapping[str, Any]


def read_recordings(files: Iterable[tuple[str, Iterable[str]]]) -> Recording:
    """Turn files, each a name and its lines, into the fund's input messages.

    Instruments are inferred over all files: linear, of one base unit, with a tick and a quantity
    step as fine as the finest number seen. Raises SettingsError for a file of trades, or whose
    header lacks a column.
    """
    found = Found()
    for name, lines in files:
        read_file(name, lines, found)
    orders = sorted(found.orders, key=lambda order: (order.trade_time_ms, order.key))
    instruments = _instruments(orders)
    scales: dict[str, int] = {}
    for order in orders:
        scales[order.margin_currency] = max(scales.get(order.margin_currency, 0), order.scale)
    scales = dict(sorted(scales.items()))
    return Recording(
        messages=_messages(orders, instruments),
        instruments=instruments,
        junk=tuple(found.junk),
        notes=tuple(found.notes),
        lines=found.lines,
        rows=len(orders),
        headers=found.headers,
        scales=scales,
        policy=_policy(orders, scales),
    )


def _instruments(orders: Sequence[ForceOrder]) -> tuple[msg.InstrumentDefined, ...]:
    finest: dict[str, tuple[int, int]] = {}
    currencies: dict[str, str] = {}
    for order in orders:
        price, quantity = finest.get(order.instrument_id, (0, 0))
        finest[order.instrument_id] = (
            max(price, decimals(order.price)),
            max(quantity, decimals(order.original_quantity), decimals(order.filled_quantity)),
        )
        currencies[order.instrument_id] = order.margin_currency
    return tuple(
        msg.InstrumentDefined(
            event_id=f"bf-{instrument_id}",
            event_time_ms=orders[0].trade_time_ms,
            margin_currency=currencies[instrument_id],
            instrument_id=instrument_id,
            contract_type="linear",
            contract_size="1",
            tick_size=amount_text(unit(price)),
            quantity_step=amount_text(unit(quantity)),
            closing_fee_rate="0",
        )
        for instrument_id, (price, quantity) in sorted(finest.items())
    )


def _messages(
    orders: Sequence[ForceOrder], instruments: Sequence[msg.InstrumentDefined]
) -> dict[str, list[NewRecord]]:
    liquidations: list[tuple[str, msg.LiquidationMessage]] = []
    fills: list[tuple[str, msg.Fill]] = []
    for order in orders:
        taken_over, submitted, fill, closed = _life(order)
        name = order.liquidation_id
        liquidations += [(name, taken_over), (name, submitted), (name, closed)]
        fills.append((name, fill))
    # The report of one order comes after the takeover of the next in the same millisecond.
    liquidations.sort(key=lambda keyed: keyed[1].event_time_ms)
    return {
        topics.INSTRUMENTS: [_record(i.instrument_id, i) for i in instruments],
        topics.LIQUIDATIONS: [_record(*keyed) for keyed in liquidations],
        topics.FILLS: [_record(*keyed) for keyed in fills],
    }


def _life(
    order: ForceOrder,
) -> tuple[
    msg.PositionTakenOver, msg.LiquidationOrderSubmitted, msg.Fill, msg.LiquidationOrderClosed
]:
    name, time_ms, currency = order.liquidation_id, order.trade_time_ms, order.margin_currency
    position_side, order_side = _SIDES[order.side]
    order_id = f"{name}-order"
    return (
        msg.PositionTakenOver(
            event_id=f"{name}-taken-over",
            event_time_ms=time_ms,
            margin_currency=currency,
            liquidation_id=name,
            account_id=ACCOUNT_ID,
            instrument_id=order.instrument_id,
            position_side=position_side,
            quantity=order.filled_quantity,
            entry_price=order.price,
            margin="0",
        ),
        msg.LiquidationOrderSubmitted(
            event_id=f"{name}-submitted",
            event_time_ms=time_ms,
            margin_currency=currency,
            liquidation_id=name,
            order_id=order_id,
            price=order.price,
            quantity=order.filled_quantity,
            expires_at_ms=time_ms + LIFETIME_MS,
        ),
        msg.Fill(
            event_id=f"{name}-filled",
            event_time_ms=time_ms,
            margin_currency=currency,
            fill_id=f"{name}-fill",
            liquidation_id=name,
            order_id=order_id,
            instrument_id=order.instrument_id,
            side=order_side,
            price=order.average_price,
            quantity=order.filled_quantity,
        ),
        msg.LiquidationOrderClosed(
            event_id=f"{name}-closed",
            # Records of one time are taken topic by topic, so this one must be later than its fill.
            event_time_ms=time_ms + 1,
            margin_currency=currency,
            liquidation_id=name,
            order_id=order_id,
            reason="filled",
            filled_quantity=order.filled_quantity,
        ),
    )


_encoder = msgspec.json.Encoder()


def _record(key: str, message: msg.Message) -> NewRecord:
    return NewRecord(0, key.encode(), _encoder.encode(message), timestamp_ms=message.event_time_ms)


def _policy(orders: Sequence[ForceOrder], scales: Mapping[str, int]) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "currencies": {name: {"scale": scale, "floor": "0"} for name, scale in scales.items()},
        "default": {"order_pricing": "exchange"},
    }
    # Recordings of different days leave gaps that would else be taken for wrong clocks.
    gap_ms = max((b.trade_time_ms - a.trade_time_ms for a, b in pairwise(orders)), default=0)
    if gap_ms > Policy().event_jump_ms_max:
        policy["event_jump_ms_max"] = gap_ms
    return policy
