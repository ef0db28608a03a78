"""What makes a record the same record: its key, and a fingerprint of what it says.

The same content is all known fields but `event_id` and `event_time_ms`, with defaults filled in
and amounts by value.
"""

from __future__ import annotations

import hashlib
from typing import Final, get_args, get_type_hints

import msgspec

from insurance_fund.events.amounts import amount_text, number
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


def _fields_of(message_type: type[Message]) -> tuple[tuple[str, bool], ...]:
    hints = get_type_hints(message_type, include_extras=True)
    return tuple(
        (field.name, hints[field.name] in _AMOUNTS or get_args(hints[field.name])[0] in _AMOUNTS)
        if get_args(hints[field.name])
        else (field.name, False)
        for field in msgspec.structs.fields(message_type)
        if field.name not in _NOT_CONTENT
    )


_FIELDS: Final = {
    message_type: _fields_of(message_type) for types in INPUTS.values() for message_type in types
}


def content_of(message: Input) -> str:
    """Return the fingerprint of what a message says: 32 hex digits."""
    texts = [type(message).__name__]
    for name, is_amount in _FIELDS[type(message)]:
        value = getattr(message, name)
        if value is None:
            texts.append(_NONE)
        elif is_amount:
            texts.append(amount_text(number(value)))
        else:
            texts.append(str(value))
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


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
