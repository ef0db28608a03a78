"""Rolling maxima: what a value's highest was over the last hours, kept by the minute."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from insurance_fund.events.amounts import ZERO

BUCKET_MS = 60_000


class Bucket(msgspec.Struct):
    """One minute in which the value was noted: its number, highest and last value."""

    minute: int
    highest: Decimal
    last: Decimal


class Window(msgspec.Struct):
    """The minutes in which a value was noted; it starts at zero."""

    buckets: list[Bucket] = []

    def note(self, value: Decimal, now_ms: int, keep_ms: int) -> None:
        """Note the value as of `now_ms`; minutes older than `keep_ms` leave but for the last."""
        minute = now_ms // BUCKET_MS
        buckets = self.buckets
        if buckets and buckets[-1].minute == minute:
            bucket = buckets[-1]
            bucket.last = value
            bucket.highest = max(bucket.highest, value)
            return
        first = (now_ms - keep_ms) // BUCKET_MS
        stale = 0
        while stale + 1 < len(buckets) and buckets[stale + 1].minute < first:
            stale += 1
        del buckets[:stale]
        buckets.append(Bucket(minute, value, value))

    def highest(self, now_ms: int, window_ms: int) -> Decimal:
        """Return the highest value since `now_ms - window_ms`, by whole minutes.

        The value in force when the window began counts; it is 0 before the first note.
        """
        first = (now_ms - window_ms) // BUCKET_MS
        before = ZERO
        highest: Decimal | None = None
        for bucket in self.buckets:
            if bucket.minute < first:
                before = bucket.last
            elif highest is None or bucket.highest > highest:
                highest = bucket.highest
        return before if highest is None else max(before, highest)
