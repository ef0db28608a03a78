"""What a webhook is told: the messages of an entry on `adl-triggers`, byte for byte."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import Entry
from insurance_fund.events.messages import (
    AdlTrigger,
    AdlTriggerCancelled,
    AdlTriggerReduced,
    Output,
)

_MESSAGES: Final[dict[type[fx.Effect], type[Output]]] = {
    fx.AdlTriggered: AdlTrigger,
    fx.AdlReduced: AdlTriggerReduced,
    fx.AdlCancelled: AdlTriggerCancelled,
}
_encoder = msgspec.json.Encoder()


class Message(NamedTuple):
    """A body, and the key by which the target knows one that it has taken already."""

    key: str
    body: bytes


def messages_of(entry: Entry) -> list[Message]:
    """Return what an entry tells, in its order: a trigger, less of it, or its end."""
    found: list[Message] = []
    sent = 0
    for effect in entry.effects:
        kind = _MESSAGES.get(type(effect))
        if kind is not None:
            found.append(_message(kind, effect, entry, sent))
        sent += type(effect) in fx.SENT
    return found


def _message(kind: type[Output], effect: Any, entry: Entry, sent: int) -> Message:
    own: dict[str, Any] = {
        "event_id": f"{entry.ledger}-{entry.sequence}-{sent}",
        "event_time_ms": entry.now_ms,
        "ledger": entry.ledger,
        "sequence": entry.sequence,
    }
    fields = {
        name: own[name] if name in own else getattr(effect, name) for name in kind.__struct_fields__
    }
    return Message(f"{effect.trigger_id}:{effect.revision}", _encoder.encode(kind(**fields)))
