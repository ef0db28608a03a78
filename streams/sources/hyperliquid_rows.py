"""Rows of the Hyperliquid files: liquidations and trades of accounts, checked cell by cell.

Columns are found by their names in the header, in any order; further ones are not looked at. What
cannot be used is a SettingsError that names file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import ID_PATTERN
from insurance_fund.streams.sources.cells import amount_of, cells_of, time_ms_of

LIQUIDATIONS: Final = "liquidations.csv"
TRADES: Final = "non_mm_trades.csv"

_ACCOUNT: Final = re.compile(ID_PATTERN)
# A coin stands in ids that we give, which have at most 64 characters.
_COIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

T = TypeVar("T")


class LiquidationRow(NamedTuple):
    """What an account had at the mark price when it was liquidated, in USD.

    `notional` is absolute and over all its positions; `number` counts the rows from 1.
    """

    file: str
    line: int
    number: int
    time_ms: int
    account_id: str
    notional: Decimal
    equity: Decimal


class TradeRow(NamedTuple):
    """A trade as seen from `account_id`: whether it bought, and whether it crossed the spread."""

    file: str
    line: int
    time_ms: int
    account_id: str
    coin: str
    buys: bool
    price: Decimal
    quantity: Decimal
    crossed: bool


def read_liquidations(directory: Path) -> list[LiquidationRow]:
    """Read the liquidations in `directory`, in order of time.

    Raises SettingsError for what cannot be used, two of an account at one time among it.
    """
    columns = ("time", "user", "liquidated_ntl_pos", "liquidated_account_value")
    rows = [
        LiquidationRow(
            file=row.file,
            line=row.line,
            number=number,
            time_ms=row.read("time", time_ms_of),
            account_id=row.read("user", _account),
            notional=row.read("liquidated_ntl_pos", _positive),
            equity=row.read("liquidated_account_value", _signed),
        )
        for number, row in enumerate(_rows(directory / LIQUIDATIONS, columns), start=1)
    ]
    _check_order(rows)
    lines: dict[tuple[int, str], int] = {}
    for row in rows:
        first = lines.setdefault((row.time_ms, row.account_id), row.line)
        if first != row.line:
            raise SettingsError(
                f"{row.file}, line {row.line}, user: line {first} is a liquidation of this account "
                "at the same time, and which fills are whose cannot be told; leave one of the two"
            )
    return rows


def read_trades(directory: Path) -> list[TradeRow]:
    """Read the trades in `directory`, in order of time.

    Raises SettingsError for what cannot be used.
    """
    columns = ("time", "user", "coin", "side", "px", "sz", "crossed")
    rows = [
        TradeRow(
            file=row.file,
            line=row.line,
            time_ms=row.read("time", time_ms_of),
            account_id=row.read("user", _account),
            coin=row.read("coin", _coin),
            buys=row.read("side", _is_bid),
            price=row.read("px", _positive),
            quantity=row.read("sz", _positive),
            crossed=row.read("crossed", _is_true),
        )
        for row in _rows(directory / TRADES, columns)
    ]
    _check_order(rows)
    return rows


class _Row(NamedTuple):
    file: str
    line: int
    cells: dict[str, str]

    def read(self, column: str, reader: Callable[[str], T]) -> T:
        try:
            return reader(self.cells[column])
        except ValueError as error:
            raise SettingsError(f"{self.file}, line {self.line}, {column}: {error}") from error


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    names: list[str] = []
    is_empty = True
    for line, text in _lines(path):
        try:
            cells = cells_of(text)
        except ValueError as error:
            raise SettingsError(f"{path}, line {line}: {error}") from error
        if not names:
            names = cells
            _check_header(path, line, names, columns)
            continue
        if len(cells) != len(names):
            raise SettingsError(
                f"{path}, line {line}: {len(cells)} columns where the header names {len(names)}"
            )
        is_empty = False
        yield _Row(str(path), line, dict(zip(names, cells, strict=True)))
    if is_empty:
        raise SettingsError(f"{path}: there is no row in it")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # What is no text is shown as such in the cell that holds it.
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            for number, line in enumerate(stream, start=1):
                if text := line.strip():
                    yield number, text
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path}: there is no such file; name the folder with {LIQUIDATIONS} and {TRADES}"
        ) from error
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from error


def _check_header(path: Path, line: int, names: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if (count := names.count(column)) != 1:
            raise SettingsError(
                f"{path}, line {line}, {column}: the header names it {count} times; needed are "
                f"{', '.join(columns)}, once each"
            )


def _check_order(rows: Sequence[LiquidationRow | TradeRow]) -> None:
    for before, row in pairwise(rows):
        if row.time_ms < before.time_ms:
            raise SettingsError(
                f"{row.file}, line {row.line}, time: it is earlier than in line {before.line}; "
                "sort the lines by time"
            )


def _account(cell: str) -> str:
    if not _ACCOUNT.fullmatch(cell):
        raise ValueError(
            f"{cell!r} is no account; needed are letters, digits, '.', '_' and '-', at most 64"
        )
    return cell


def _coin(cell: str) -> str:
    if not _COIN.fullmatch(cell):
        raise ValueError(
            f"{cell!r} is no coin; needed are letters, digits, '.', '_' and '-', at most 32"
        )
    return cell


def _is_bid(cell: str) -> bool:
    if cell not in ("Bid", "Ask"):
        raise ValueError(f"{cell!r} is neither Bid nor Ask")
    return cell == "Bid"


def _is_true(cell: str) -> bool:
    if cell not in ("true", "false"):
        raise ValueError(f"{cell!r} is neither true nor false")
    return cell == "true"


def _signed(cell: str) -> Decimal:
    amount = Decimal(amount_of(cell.removeprefix("-")))
    return -amount if cell.startswith("-") else amount


def _positive(cell: str) -> Decimal:
    amount = _signed(cell)
    if amount <= 0:
        raise ValueError(f"{cell} is not above 0")
    return amount
