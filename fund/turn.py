"""A turn: one cause being decided, effect by effect.

Each effect is applied as soon as it is decided, so every rule sees what the rules before it did.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.codec import TOO_LARGE
from insurance_fund.events.ledger import DEAD_LETTER_BYTES_MAX
from insurance_fund.events.messages import (
    AdlTrigger,
    AdlTriggerCancelled,
    AdlTriggerReduced,
    DeadLetter,
    LiquidationOrder,
    Output,
)
from insurance_fund.fund.evolve import evolve
from insurance_fund.fund.state import State


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where the record that is being decided came from, and its bytes for a dead letter.

    `adapted` is the message that an adapter made of them, None where there was none.
    """

    topic: str
    partition: int
    offset: int
    value: bytes | None
    parked: str | None = None
    adapted: bytes | None = None


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to be committed with the entry; `id` is its order's, trigger's or record's."""

    topic: str
    key: str
    id: str
    message: Output


# Orders and triggers go out as what their effect says; dead letters carry a record's bytes beside.
_MESSAGES: Final[dict[type[fx.Effect], type[Output]]] = {
    fx.OrderIssued: LiquidationOrder,
    fx.AdlTriggered: AdlTrigger,
    fx.AdlReduced: AdlTriggerReduced,
    fx.AdlCancelled: AdlTriggerCancelled,
}
_SHARED: Final = {
    message: [
        name
        for name in message.__struct_fields__
        if name in effect.__struct_fields__ and name != "event_time_ms"
    ]
    for effect, message in _MESSAGES.items()
}


class Turn:
    """Collects the effects and the outgoing messages of one entry."""

    __slots__ = ("effects", "now_ms", "outgoing", "state", "unlocked")

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms
        self.effects: list[fx.AnyEffect] = []
        self.outgoing: list[Outgoing] = []
        self.unlocked: list[str] = []

    def emit(self, effect: fx.AnyEffect) -> None:
        """Record an effect and apply it; an order or trigger in it goes out."""
        self.effects.append(effect)
        evolve(self.state, effect, self.now_ms, self.state.sequence)
        message_type = _MESSAGES.get(type(effect))
        if message_type is not None:
            self._send(message_type, effect)

    def unlocks(self, key: str) -> None:
        """Note what happened that parked records may have been waiting for."""
        if self.state.parked:
            self.unlocked.append(key)

    def _event_id(self) -> str:
        return f"{self.state.ledger}-{self.state.sequence}-{len(self.outgoing)}"

    def _send(self, kind: type[Output], effect: Any) -> None:
        topic, name = fx.SENT[type(effect)]
        message = kind(
            event_id=self._event_id(),
            event_time_ms=self.now_ms,
            ledger=self.state.ledger,
            sequence=self.state.sequence,
            **{field: getattr(effect, field) for field in _SHARED[kind]},
        )
        self.outgoing.append(Outgoing(topic, effect.liquidation_id, name(effect), message))

    def dead_letter(
        self, origin: Origin, reason: str, detail: str, margin_currency: str | None
    ) -> None:
        """Send a record's bytes to the dead letters; of one that is too large, the beginning."""
        value = origin.value
        if value is not None and reason == TOO_LARGE:
            value = value[:DEAD_LETTER_BYTES_MAX]
        message = DeadLetter(
            event_id=self._event_id(),
            event_time_ms=self.now_ms,
            margin_currency=margin_currency,
            ledger=self.state.ledger,
            sequence=self.state.sequence,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            reason=reason,
            detail=detail,
            value_base64=None if value is None else base64.b64encode(value).decode(),
        )
        where = fx.record_name(origin)
        self.outgoing.append(Outgoing(topics.DEAD_LETTERS, where, where, message))
