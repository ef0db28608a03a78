"""Draws: whole numbers by chance, the same for a seed on every machine and version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")
_BITS: Final = 48


class Draws:
    """Draws from a seed; each draw takes the same number of random bits."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a market, not a secret

    def below(self, end: int) -> int:
        """Return a whole number from 0 to `end - 1`."""
        return self._random.getrandbits(_BITS) * end >> _BITS

    def between(self, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`."""
        return least + self.below(most - least + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return choices[self.below(len(choices))]
