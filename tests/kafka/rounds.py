"""How often a test repeats what it does by chance."""

from __future__ import annotations

import os
from typing import Final

ROUNDS_VARIABLE: Final = "INSURANCE_FUND_TEST_ROUNDS"


def rounds(small: int, large: int) -> int:
    """Returns small, or large if INSURANCE_FUND_TEST_ROUNDS is "full", or the number it holds.

    Raises ValueError for anything else in the variable.
    """
    asked = os.environ.get(ROUNDS_VARIABLE, "")
    if not asked:
        return small
    if asked == "full":
        return large
    if not asked.isdecimal() or int(asked) == 0:
        raise ValueError(f'{ROUNDS_VARIABLE} is "{asked}": give "full" or a number from 1')
    return int(asked)
