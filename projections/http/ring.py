"""The newest entries of a ledger as events, kept once for all who listen."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import sha256_hex

ENTRIES_MAX: Final = 4_096
BYTES_MAX: Final = 4 * 1024 * 1024
# Of the choices of types that listeners have, how many are kept ready for an entry.
FRAMES_MAX: Final = 8

Types = frozenset[str]


class _Line(msgspec.Struct, gc=False):
    ledger: str
    sequence: int
    now_ms: int
    previous: str
    effects: list[msgspec.Raw]


class _Kind(msgspec.Struct, gc=False):
    type: str


_line_decoder: Final = msgspec.json.Decoder(_Line)
_kind_decoder: Final = msgspec.json.Decoder(_Kind)


class Event:
    """An entry of a ledger as an event; its effects stand in it byte for byte."""

    __slots__ = ("_effects", "_frames", "head", "ledger", "now_ms", "previous", "sequence", "size")

    def __init__(self, line: bytes) -> None:
        """Read an entry's line; raises CorruptionError for anything else."""
        try:
            entry = _line_decoder.decode(line)
            self._effects = [
                (_kind_decoder.decode(effect).type, bytes(effect)) for effect in entry.effects
            ]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptionError(f"not a ledger entry: {error}") from error
        self.ledger, self.sequence = entry.ledger, entry.sequence
        self.now_ms, self.previous = entry.now_ms, entry.previous
        self.head = sha256_hex(line)
        self.size = len(line)
        self._frames: dict[Types | None, bytes] = {}

    def frame(self, types: Types | None) -> bytes:
        """Return the event with the effects of some types (of all, for None), b"" without any."""
        found = self._frames.get(types)
        if found is None:
            found = self._make(types)
            if len(self._frames) < FRAMES_MAX:
                self._frames[types] = found
        return found

    def _make(self, types: Types | None) -> bytes:
        wanted = [raw for kind, raw in self._effects if types is None or kind in types]
        if types is not None and not wanted:
            return b""
        told = msgspec.json.encode(self._told())[:-1]
        return b'id: %d\nevent: entry\ndata: %b,"effects":[%b]}\n\n' % (
            self.sequence,
            told,
            b",".join(wanted),
        )

    def _told(self) -> dict[str, Any]:
        return {
            "ledger": self.ledger,
            "sequence": self.sequence,
            "now_ms": self.now_ms,
            "sha256": self.head,
        }


class Ring:
    """Events with rising sequences without a gap; the oldest leave when there are too many."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._size = 0

    @property
    def first(self) -> int | None:
        """Return the sequence of the oldest event, None where there is none."""
        return self._events[0].sequence if self._events else None

    def add(self, event: Event) -> None:
        """Take the next event."""
        self._events.append(event)
        self._size += event.size
        while len(self._events) > 1 and (len(self._events) > ENTRIES_MAX or self._size > BYTES_MAX):
            self._size -= self._events.popleft().size

    def time_ms(self, sequence: int) -> int | None:
        """Return the time of an entry, None where it is not here."""
        if self.first is None or not 0 <= sequence - self.first < len(self._events):
            return None
        return self._events[sequence - self.first].now_ms

    def since(self, sequence: int, events_max: int) -> list[Event]:
        """Return up to so many events from a sequence on, which must not be before the first."""
        assert self.first is not None, "an empty ring has nothing to tell"
        start = sequence - self.first
        end = min(len(self._events), start + events_max)
        return [self._events[n] for n in range(start, end)]
