"""What makes a record the same record: its key, and a fingerprint of what it says.

The same content is all known fields but `event_id` and `event_time_ms`, with defaults filled in
and amounts by value.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from insurance_fund.events.amounts import canonical
from insurance_fund.events.fields import NonNegative, Positive, Rate, Signed
from insurance_fund.events.messages import (
    INPUTS,
    AdlExecuted,
    AdlUnfilled,
    Fill,
    FundDeposit,
    FundWithdrawal,
    Input,
    InstrumentDefined,
    LiquidationOrderClosed,
    LiquidationOrderSubmitted,
    Message,
    PositionTakenOver,
    ShortfallPayment,
)

_NOT_CONTENT: Final = ("event_id", "event_time_ms")
_AMOUNTS: Final = (Positive, NonNegative, Signed, Rate)
_DIGEST_BYTES: Final = 16
_NONE: Final = "~"


class _Content:
    """The fields of a message type that make its content, in three groups that are read at once."""

    def __init__(self, message_type: type[Message]) -> None:
        hints = get_type_hints(message_type, include_extras=True)
        fields = [f for f in msgspec.structs.fields(message_type) if f.name not in _NOT_CONTENT]
        amounts = [f.name for f in fields if hints[f.name] in _AMOUNTS]
        texts = [f.name for f in fields if f.name not in amounts and _is_text(f.type)]
        self.kind = message_type.__name__
        self.texts = _getter(texts)
        self.amounts = _getter(amounts)
        self.others = _getter([f.name for f in fields if f.name not in (*amounts, *texts)])


def _is_text(hint: Any) -> bool:
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return base is str or get_origin(base) is Literal


def _getter(names: list[str]) -> Callable[[Message], tuple[Any, ...]]:
    match names:
        case []:
            return lambda _: ()
        case [name]:
            return lambda message: (getattr(message, name),)
        case _:
            return attrgetter(*names)


_CONTENT: Final = {
    message_type: _Content(message_type) for types in INPUTS.values() for message_type in types
}


def content_of(message: Input) -> str:
    """Return the fingerprint of what a message says: 32 hex digits."""
    shape = _CONTENT[type(message)]
    parts = [shape.kind, *shape.texts(message), *map(canonical, shape.amounts(message))]
    for other in shape.others(message):
        parts.append(_NONE if other is None else canonical(str(other)))
    return blake2b("\n".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def key_of(message: Input) -> str | None:
    """Return the key under which a second copy of this record is known; None where it has none."""
    match message:
        case Fill():
            return f"fill:{message.liquidation_id}/{message.fill_id}"
        case PositionTakenOver():
            return f"takeover:{message.liquidation_id}"
        case LiquidationOrderSubmitted():
            return f"order:{message.liquidation_id}/{message.order_id}"
        case LiquidationOrderClosed():
            return f"close:{message.liquidation_id}/{message.order_id}"
        case AdlExecuted():
            return f"adl:{message.execution_id}"
        case FundDeposit() | FundWithdrawal() | ShortfallPayment():
            return f"transfer:{message.transfer_id}"
        case AdlUnfilled() | InstrumentDefined():
            return None
