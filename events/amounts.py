"""Exact amounts: the one place where text becomes numbers and numbers become text.

Amounts travel as decimal strings and are computed as `decimal.Decimal` under `EXACT`, a context of
200 digits in which anything inexact raises. Every division is an integer floor division.
"""

from __future__ import annotations

import decimal
import functools
from collections.abc import Callable
from decimal import Decimal
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

ZERO = Decimal(0)
ONE = Decimal(1)
TWO = Decimal(2)
# Amounts on the wire have at most 20 digits in front of the point.
AMOUNT_END = Decimal("1E+20")

# 200 digits hold the longest product that an entry needs (five amounts of 38 digits);
# a result that does not fit raises instead of being rounded.
EXACT = decimal.Context(
    prec=200,
    rounding=decimal.ROUND_HALF_EVEN,
    traps=[
        decimal.Inexact,
        decimal.InvalidOperation,
        decimal.DivisionByZero,
        decimal.Overflow,
        decimal.FloatOperation,
    ],
)


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` under the `EXACT` context, whatever context the caller has set."""

    @functools.wraps(function)
    def under_exact_context(*args: P.args, **kwargs: P.kwargs) -> R:
        saved = decimal.getcontext()
        if saved is EXACT:
            return function(*args, **kwargs)
        decimal.setcontext(EXACT)
        try:
            return function(*args, **kwargs)
        finally:
            decimal.setcontext(saved)

    return under_exact_context


# A currency has at most 18 decimals; inverse values are kept to 18 more. As powers of ten they move
# the exponent of a number and leave its digits.
SCALE_MAX = 18
EXTRA_DIGITS = 18
_UNITS = tuple(Decimal(f"1E-{scale}") for scale in range(SCALE_MAX + EXTRA_DIGITS + 1))
_POWERS = tuple(Decimal(f"1E+{scale}") for scale in range(SCALE_MAX + EXTRA_DIGITS + 1))

# Text that the codec has already checked against the amount pattern becomes a number by this.
number = Decimal


def amount_text(value: Decimal) -> str:
    """Write a number as the contract asks: no exponent, no trailing zeros, never `-0`."""
    text = str(value)
    if "E" in text:
        text = format(value, "f")
    if text[-1] != "0":
        return text
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def canonical(text: str) -> str:
    """Return the amount that `text` says as `amount_text` writes it; `text` is a valid amount."""
    if text[-1] == "0" and "." in text:
        return text.rstrip("0").rstrip(".")
    return text


def floor_div(numerator: Decimal, denominator: Decimal) -> Decimal:
    """Return the greatest integer that is not above `numerator / denominator`."""
    quotient, remainder = divmod(numerator, denominator)
    if remainder and (remainder < 0) != (denominator < 0):
        quotient -= ONE
    return quotient


def ceil_div(numerator: Decimal, denominator: Decimal) -> Decimal:
    """Return the least integer that is not below `numerator / denominator`."""
    return -floor_div(-numerator, denominator)


def unit(scale: int) -> Decimal:
    """Return the smallest amount of a currency of `scale` decimals: `unit(6)` is 0.000001."""
    return _UNITS[scale]


def floor_to(numerator: Decimal, denominator: Decimal, scale: int) -> Decimal:
    """Round `numerator / denominator` toward minus infinity to `scale` decimals."""
    return floor_div(numerator * _POWERS[scale], denominator) * _UNITS[scale]


def ceil_to(numerator: Decimal, denominator: Decimal, scale: int) -> Decimal:
    """Round `numerator / denominator` toward plus infinity to `scale` decimals."""
    return -floor_to(-numerator, denominator, scale)


def floor_scale(value: Decimal, scale: int) -> Decimal:
    """Round `value` toward minus infinity to `scale` decimals."""
    one = _UNITS[scale]
    rounded = value // one * one  # toward zero
    return rounded - one if rounded > value else rounded


def ceil_scale(value: Decimal, scale: int) -> Decimal:
    """Round `value` toward plus infinity to `scale` decimals."""
    return -floor_scale(-value, scale)


def is_multiple(value: Decimal, step: Decimal) -> bool:
    """Tell whether `value` is a whole number of steps."""
    return not value % step
