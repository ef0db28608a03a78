"""How times are shown."""

from __future__ import annotations

import datetime

from insurance_fund.events.fields import TIME_MS_MAX


def utc(time_ms: int) -> str:
    """Write milliseconds since 1970 as UTC to the millisecond: `2026-01-02T00:00:00.120Z`.

    A time after the year 9999 is written as the last one in it.
    """
    moment = datetime.datetime.fromtimestamp(min(time_ms, TIME_MS_MAX) / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
