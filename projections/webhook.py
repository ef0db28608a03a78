"""A webhook: a target that hears of ADL triggers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Webhook:
    """A target: its URL, and the file with the bearer token that it wants to see, if any.

    The URL may be a secret in itself, so it is shown nowhere.
    """

    name: str
    url: str = field(repr=False)
    token_file: Path | None = None

    @property
    def position(self) -> str:
        """The name of its row in the table of positions."""
        return f"webhook:{self.name}"
