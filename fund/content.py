"""What makes a record the same record: its key, and a fingerprint of what it says.

The same content is all known fields but `event_id` and `event_time_ms`, with defaults filled in
and amounts by value.
"""

from __future__ import annotations

import hashlib
from operator import attrgetter
from typing import Any, Final, get_args, get_type_hints

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
    """The fields of a message type that make its content, the amounts among them last."""

    def __init__(self, message_type: type[Message]) -> None:
        hints = get_type_hints(message_type, include_extras=True)
        names = [
            field.name
            for field in msgspec.structs.fields(message_type)
            if field.name not in _NOT_CONTENT
        ]
        amounts = [n for n in names if hints[n] in _AMOUNTS or _optional(hints[n]) in _AMOUNTS]
        self.texts = attrgetter("__class__.__name__", *(n for n in names if n not in amounts))
        self.amounts = attrgetter(*amounts, "__class__") if amounts else None


def _optional(hint: Any) -> Any:
    arguments = get_args(hint)
    return arguments[0] if arguments else None


_CONTENT: Final = {
    message_type: _Content(message_type) for types in INPUTS.values() for message_type in types
}


def content_of(message: Input) -> str:
    """Return the fingerprint of what a message says: 32 hex digits."""
    shape = _CONTENT[type(message)]
    texts = [str(value) for value in shape.texts(message)]
    if shape.amounts is not None:
        texts += [
            _NONE if amount is None else canonical(amount) for amount in shape.amounts(message)[:-1]
        ]
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
