"""How times are shown."""

from __future__ import annotations

import datetime


def utc(time_ms: int) -> str:
    """Write milliseconds since 1970 as UTC to the millisecond: `2026-01-02T00:00:00.120Z`."""
    moment = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
