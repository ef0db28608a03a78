"""What the Kafka client says again and again while a broker is down, told now and then."""

from __future__ import annotations

import logging
from typing import Final

PERIOD_S: Final = 10.0
TEXTS_MAX: Final = 1_000


class Repeats(logging.Filter):
    """Lets a line of the client through once in ten seconds; for handlers, so that others hear all.

    It tries a dead broker ten times a second, and says so each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to tell a record."""
        if not record.name.startswith("aiokafka"):
            return True
        text = record.getMessage()
        if record.created - self._told_s.get(text, float("-inf")) < PERIOD_S:
            return False
        if len(self._told_s) >= TEXTS_MAX:
            self._told_s.clear()
        self._told_s[text] = record.created
        return True
