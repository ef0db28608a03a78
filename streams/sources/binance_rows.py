"""Rows of a recorded `!forceOrder@arr` stream: found, told from junk, and read.

Recordings differ in their columns: twelve without a header (symbol, side, order type, time in
force, original quantity, p, ap, status, last filled quantity, z, trade time in ms, notional), or
those that a header names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from insurance_fund.events.amounts import SCALE_MAX
from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.sources.cells import (
    Remark,
    amount_of,
    cells_of,
    decimals,
    time_ms_of,
)

_MARGIN_CURRENCIES: Final = ("USDT", "USDC", "BUSD")
_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,24}(?:_[0-9]{6})?")
_ORDER_SIDES: Final = ("SELL", "BUY")
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
        price = max(decimals(self.price), decimals(self.average_price))
        return price + decimals(self.filled_quantity)


@dataclass(slots=True)
class Found:
    """What has been found so far, over all files."""

    orders: list[ForceOrder] = field(default_factory=list)
    junk: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    lines: int = 0
    headers: int = 0


def read_file(name: str, lines: Iterable[str], found: Found) -> None:
    """Read the lines of a file into `found`.

    Raises SettingsError for a file of trades, or whose header lacks a column.
    """
    columns: Sequence[str] = _COLUMNS
    widths: Sequence[int] = _WIDTHS
    rows = 0
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        found.lines += 1
        try:
            cells = cells_of(text)
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
    if row["side"] not in _ORDER_SIDES:
        raise ValueError(f"side {row['side']!r} is neither SELL nor BUY")
    if row["order status"] != "FILLED":
        raise ValueError(f"order status {row['order status']!r} is not FILLED")
    instrument_id, margin_currency = _instrument_id(row["symbol"])
    amounts = {
        name: _amount(name, row[name])
        for name in ("quantity", "price", "average price", "last filled quantity")
    }
    filled = _amount("filled quantity", row["filled quantity"])
    trade_time_ms = _trade_time_ms(row["trade time"])
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
    currency = _quote_asset(symbol)
    if currency is not None:
        return symbol, currency
    pair, dash, date = symbol.partition("_")
    return f"{pair}USDT{dash}{date}", "USDT"


def _quote_asset(symbol: str) -> str | None:
    pair = symbol.partition("_")[0]
    for currency in _MARGIN_CURRENCIES:
        if pair.endswith(currency) and pair != currency:
            return currency
    return None


def margin_currency_of(symbol: str) -> str:
    """Return the margin currency of a symbol of Binance USD-M, which is its quote asset.

    Raises ValueError for a symbol that names none that we know.
    """
    currency = _quote_asset(symbol)
    if currency is None:
        raise ValueError(f"{symbol!r} ends with none of: {', '.join(_MARGIN_CURRENCIES)}")
    return currency


def _amount(name: str, cell: str) -> str:
    try:
        amount = amount_of(cell)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    if amount == "0":
        raise ValueError(f"{name} is 0")
    return amount


def _trade_time_ms(cell: str) -> int:
    try:
        return time_ms_of(cell)
    except ValueError as error:
        raise ValueError(f"trade time {error}") from error
