"""Cells of the CSV files that exchanges publish: split, and read as amounts and times.

What is wrong with a cell is a ValueError whose text follows the name of its column.
"""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from insurance_fund.events.amounts import amount_text

_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,18})?")
_TIME_MS: Final = re.compile(r"[0-9]{13}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Remark(NamedTuple):
    """Something about a line of a file (the first line is 1): why it is junk, or what was done."""

    file: str
    line: int
    text: str


def cells_of(line: str) -> list[str]:
    """Split a line at its commas and strip the cells; a line that is no CSV is a ValueError."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise ValueError(f"no line of comma-separated values: {error}") from error


def amount_of(cell: str) -> str:
    """Return an amount of zero or more in canonical text."""
    if not _AMOUNT.fullmatch(cell):
        raise ValueError(f"{cell!r} is no number of at most 18 decimals")
    return amount_text(Decimal(cell))


def time_ms_of(cell: str) -> int:
    """Return a time, ISO 8601 with its offset or milliseconds, in milliseconds since 1970."""
    if _TIME_MS.fullmatch(cell):
        return int(cell)
    try:
        time = datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is no time and no milliseconds") from None
    if time.tzinfo is None:
        raise ValueError(f"{cell!r} does not say its offset from UTC")
    if time < _EPOCH:
        raise ValueError(f"{cell!r} lies before 1970")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def decimals(amount: str) -> int:
    """Return how many decimals an amount in canonical text has."""
    return len(amount.partition(".")[2])
