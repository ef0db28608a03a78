"""What waits: records that came early, and deadlines, with the indexes that find them."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable
from typing import Final

import msgspec

from insurance_fund.events.effects import record_name

# Dropped deadlines stay in the heap until they come up; past this many it is built anew.
HEAP_SLACK: Final = 1_000


class Parked(msgspec.Struct, omit_defaults=True):
    """A record that waits for its instrument, liquidation or order."""

    topic: str
    partition: int
    offset: int
    arrival: int
    awaits: str
    key: str | None
    content: str
    value_base64: str
    margin_currency: str
    liquidation_id: str | None
    adapted_base64: str | None = None

    @property
    def where(self) -> str:
        """Return where the record stands, the name under which it is parked."""
        return record_name(self)

    @property
    def value(self) -> bytes:
        """Return the record's own bytes."""
        return base64.b64decode(self.value_base64)

    @property
    def adapted(self) -> bytes | None:
        """Return the message that an adapter made of the record, None where there was none."""
        return None if self.adapted_base64 is None else base64.b64decode(self.adapted_base64)

    @property
    def message(self) -> bytes:
        """Return the message in our JSON: what an adapter made, else the record's own bytes."""
        adapted = self.adapted
        return self.value if adapted is None else adapted

    @property
    def released_by(self) -> tuple[str, ...]:
        """Return what makes this record possible: what it awaits, or the end of its liquidation."""
        if self.awaits.startswith("order:"):
            return self.awaits, f"closed:{self.liquidation_id}"
        return (self.awaits,)


class Waiting:
    """Parked records by what makes them possible."""

    def __init__(self, records: Iterable[Parked]) -> None:
        self._by_key: dict[str, dict[str, Parked]] = {}
        for parked in records:
            self.add(parked)

    def add(self, parked: Parked) -> None:
        """List a record that has been parked."""
        for key in parked.released_by:
            self._by_key.setdefault(key, {})[parked.where] = parked

    def remove(self, parked: Parked) -> None:
        """Take a record off that is parked no more."""
        for key in parked.released_by:
            listed = self._by_key[key]
            del listed[parked.where]
            if not listed:
                del self._by_key[key]

    def released_by(self, key: str) -> list[Parked]:
        """Return the records that this makes possible, in order of arrival."""
        return list(self._by_key.get(key, {}).values())


class Deadlines:
    """Deadlines in the order in which they fall due: by time, then by name."""

    def __init__(self, due: dict[str, int]) -> None:
        self._due = due
        self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(due_ms, name) for name, due_ms in self._due.items()]
        heapq.heapify(self._heap)

    def set(self, name: str, due_ms: int) -> None:
        """Set a deadline, or move it."""
        self._due[name] = due_ms
        heapq.heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due) + HEAP_SLACK:
            self._rebuild()

    def clear(self, name: str) -> None:
        """Drop a deadline, if it is set."""
        self._due.pop(name, None)

    @property
    def length(self) -> int:
        """Return how many deadlines are kept, dropped ones among them."""
        return len(self._heap)

    def first(self) -> tuple[int, str] | None:
        """Return (due_ms, name) of the deadline that falls due first, None where there is none."""
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def set_aside(self) -> tuple[int, str]:
        """Take the first out of the order, without dropping it; `put_back` ends that."""
        return heapq.heappop(self._heap)

    def put_back(self, deadlines: Iterable[tuple[int, str]]) -> None:
        """Give deadlines that were set aside their places in the order again."""
        for deadline in deadlines:
            heapq.heappush(self._heap, deadline)

    def due(self, now_ms: int) -> list[tuple[int, str]]:
        """Return (due_ms, name) of all deadlines due by `now_ms`, first due first."""
        first = self.first()
        if first is None or first[0] > now_ms:
            return []
        return sorted((due_ms, name) for name, due_ms in self._due.items() if due_ms <= now_ms)
