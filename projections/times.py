"""How times are shown."""

from __future__ import annotations

import datetime

from insurance_fund.events.fields import TIME_MS_MAX

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def utc(time_ms: int) -> str:
    """Write milliseconds since 1970 as UTC to the millisecond: `2026-01-02T00:00:00.120Z`.

    A time after the year 9999 is written as the last one in it.
    """
    moment = _EPOCH + datetime.timedelta(milliseconds=min(time_ms, TIME_MS_MAX))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
