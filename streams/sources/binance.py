"""Binance USD-M: recordings of the `!forceOrder@arr` stream, read as liquidations.

A row is a liquidation order that the exchange priced at `p` and filled with `z` at an average of
`ap`. `p` is read as the bankruptcy price: the position is taken over at entry price `p` with no
margin left, its order stands at `p`, and its one fill is `z` at `ap`; so the fund gets
`(ap - p) z` for SELL (a long is liquidated) and `(p - ap) z` for BUY.

All ids come from the row, so the same row is the same messages wherever it is read; two orders
alike in every field and in the millisecond count as one. Recordings cut differ in columns: twelve
without a header (symbol, side, order type, time in force, original quantity, p, ap, status, last
filled quantity, z, trade time in ms, notional), or any that a header names.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import SCALE_MAX, amount_text, unit
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import OrderSide, PositionSide
from insurance_fund.fund.policy import MINUTE_MS, Policy
from insurance_fund.streams.log import NewRecord

ACCOUNT_ID: Final = "unknown"
# How long the exchange's order is taken to live; its end is in the recording, so any time will do.
LIFETIME_MS: Final = MINUTE_MS

_MARGIN_CURRENCIES: Final = ("USDT", "USDC", "BUSD")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,24}(?:_[0-9]{6})?")
_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,18})?")
_TIME_MS: Final = re.compile(r"[0-9]{13}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SIDES: Final[dict[str, tuple[PositionSide, OrderSide]]] = {
    "SELL": ("long", "sell"),
    "BUY": ("short", "buy"),
}

_COLUMNS: Final = (
    "symbol",
    "side",
    "order type",
    "time in force",
    "quantity",
    "price",
    "average price",
    "order status",
    "last filled quantity",
    "filled quantity",
    "trade time",
)
# The notional stands behind them in most recordings; it follows from the others.
_WIDTHS: Final = (len(_COLUMNS), len(_COLUMNS) + 1)
_OTHER_NAMES: Final = {
    "type": "order type",
    "original quantity": "quantity",
    "status": "order status",
    "accumulated filled quantity": "filled quantity",
}
_TRADE_FLAGS: Final = ("true", "false")
_TRADE_SIDES: Final = ("market buy", "market sell")


class Remark(NamedTuple):
    """Something about a line of a file (the first line is 1): why it is junk, or what was done."""

    file: str
    line: int
    text: str


class ForceOrder(NamedTuple):
    """A row of a recording, its numbers in canonical text; `key` is a hash of all its fields."""

    key: str
    trade_time_ms: int
    instrument_id: str
    margin_currency: str
    side: str
    original_quantity: str
    price: str
    average_price: str
    filled_quantity: str

    @property
    def liquidation_id(self) -> str:
        """Return the id that this row has in every import."""
        return f"bf-{self.key[:32]}"

    @property
    def scale(self) -> int:
        """Return the decimals that make the fund's gain of this order exact."""
        price = max(_decimals(self.price), _decimals(self.average_price))
        return price + _decimals(self.filled_quantity)


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
    found = _Found()
    for name, lines in files:
        _read_file(name, lines, found)
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


@dataclass(slots=True)
class _Found:
    orders: list[ForceOrder] = field(default_factory=list)
    junk: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    lines: int = 0
    headers: int = 0


def _read_file(name: str, lines: Iterable[str], found: _Found) -> None:
    columns: Sequence[str] = _COLUMNS
    widths: Sequence[int] = _WIDTHS
    rows = 0
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        found.lines += 1
        try:
            cells = _cells(text)
            names = [_column_name(cell) for cell in cells]
            if not rows and _is_of_trades(cells, names):
                raise SettingsError(
                    f"{name}, line {number}: this is a file of trades, not of liquidations"
                )
            if {"symbol", "side"} <= set(names):
                columns, widths = _header(name, number, names), (len(names),)
                found.headers += 1
                continue
            order = _order(_row(cells, columns, widths))
        except ValueError as error:
            found.junk.append(Remark(name, number, str(error)))
            continue
        rows += 1
        found.orders.append(order)
        if order.original_quantity != order.filled_quantity:
            found.notes.append(
                Remark(
                    name,
                    number,
                    f"ordered {order.original_quantity}, filled {order.filled_quantity}: taken as "
                    "a position of what was filled",
                )
            )


def _cells(text: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        raise ValueError(f"no line of comma-separated values: {error}") from error


def _column_name(cell: str) -> str:
    name = cell.partition("(")[0].replace("_", " ").strip().lower()
    return _OTHER_NAMES.get(name, name)


def _is_of_trades(cells: Sequence[str], names: Sequence[str]) -> bool:
    if {"price", "quantity"} <= set(names) and not {"average price", "order status"} & set(names):
        return True
    return cells[-1].lower() in _TRADE_FLAGS or cells[0].lower() in _TRADE_SIDES


def _header(file: str, line: int, names: Sequence[str]) -> Sequence[str]:
    missing = [column for column in _COLUMNS if column not in names]
    if missing:
        raise SettingsError(f"{file}, line {line}: the header names no {', '.join(missing)}")
    return names


def _row(cells: Sequence[str], columns: Sequence[str], widths: Sequence[int]) -> dict[str, str]:
    if len(cells) not in widths:
        expected = " or ".join(map(str, widths))
        raise ValueError(f"{len(cells)} columns where {expected} are expected")
    return dict(zip(columns, cells, strict=False))


def _order(row: Mapping[str, str]) -> ForceOrder:
    # Raises ValueError with what is wrong in the row.
    if row["side"] not in _SIDES:
        raise ValueError(f"side {row['side']!r} is neither SELL nor BUY")
    if row["order status"] != "FILLED":
        raise ValueError(f"order status {row['order status']!r} is not FILLED")
    instrument_id, margin_currency = _instrument_id(row["symbol"])
    amounts = {
        name: _amount(name, row[name])
        for name in ("quantity", "price", "average price", "last filled quantity")
    }
    filled = _amount("filled quantity", row["filled quantity"])
    trade_time_ms = _time_ms(row["trade time"])
    canonical = (
        instrument_id,
        row["side"],
        row["order type"],
        row["time in force"],
        *amounts.values(),
        filled,
        str(trade_time_ms),
    )
    order = ForceOrder(
        key=hashlib.sha256(",".join(canonical).encode()).hexdigest(),
        trade_time_ms=trade_time_ms,
        instrument_id=instrument_id,
        margin_currency=margin_currency,
        side=row["side"],
        original_quantity=amounts["quantity"],
        price=amounts["price"],
        average_price=amounts["average price"],
        filled_quantity=filled,
    )
    if order.scale > SCALE_MAX:
        raise ValueError(
            f"price times quantity has {order.scale} decimals, more than the {SCALE_MAX} that a "
            "currency can have"
        )
    return order


def _instrument_id(symbol: str) -> tuple[str, str]:
    # Most recordings cut "USDT" out of the symbol; a delivery contract has its date behind that.
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"{symbol!r} is no symbol")
    pair, dash, date = symbol.partition("_")
    for currency in _MARGIN_CURRENCIES:
        if pair.endswith(currency) and pair != currency:
            return symbol, currency
    return f"{pair}USDT{dash}{date}", "USDT"


def _amount(name: str, text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"{name} {text!r} is no number of at most 18 decimals")
    amount = amount_text(Decimal(text))
    if amount == "0":
        raise ValueError(f"{name} is 0")
    return amount


def _time_ms(text: str) -> int:
    if _TIME_MS.fullmatch(text):
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"trade time {text!r} is no time and no milliseconds") from None
    if time.tzinfo is None:
        raise ValueError(f"trade time {text!r} does not say its offset from UTC")
    if time < _EPOCH:
        raise ValueError(f"trade time {text!r} lies before 1970")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _decimals(amount: str) -> int:
    return len(amount.partition(".")[2])


def _instruments(orders: Sequence[ForceOrder]) -> tuple[msg.InstrumentDefined, ...]:
    finest: dict[str, tuple[int, int]] = {}
    currencies: dict[str, str] = {}
    for order in orders:
        price, quantity = finest.get(order.instrument_id, (0, 0))
        finest[order.instrument_id] = (
            max(price, _decimals(order.price)),
            max(quantity, _decimals(order.original_quantity), _decimals(order.filled_quantity)),
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
