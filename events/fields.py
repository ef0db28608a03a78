"""Field types of the messages: one pattern each, for the strict decoder and for JSON Schema."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_DIGITS: Final = r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,18})?"
_SOME_DIGIT: Final = r"(?=[0-9.]*[1-9])"

# The last millisecond of the year 9999, the last that RFC 3339 can write.
TIME_MS_MAX: Final = 253_402_300_799_999
COUNT_MAX: Final = 2**53 - 1
TEXT_MAX: Final = 1000


def _text(pattern: str, what: str) -> Meta:
    # Patterns are checked by the codec, a whole message at a time; msgspec would take longer.
    return Meta(description=what, extra_json_schema={"pattern": f"^{pattern}$"})


Id = Annotated[str, _text(ID_PATTERN, "letters, digits, '.', '_' and '-', at most 64 characters")]
CompoundId = Annotated[
    str,
    _text(
        f"{ID_PATTERN}(?::{ID_PATTERN})?",
        "an id of at most 64 characters, with at most one ':suffix'",
    ),
]
Positive = Annotated[
    str,
    _text(f"{_SOME_DIGIT}{_DIGITS}", "a decimal string above zero with at most 18 decimals"),
]
NonNegative = Annotated[
    str, _text(_DIGITS, "a decimal string of zero or more with at most 18 decimals")
]
Signed = Annotated[
    str,
    _text(f"(?:-{_SOME_DIGIT})?{_DIGITS}", "a decimal string with at most 18 decimals, never -0"),
]
Rate = Annotated[str, _text(r"0(?:\.[0-9]{1,18})?", "a decimal string from 0 to below 1")]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_MS_MAX, description="milliseconds since 1970 UTC")]
Revision = Annotated[int, Meta(ge=1, le=COUNT_MAX, description="a count that starts at 1")]
Text = Annotated[str, Meta(max_length=TEXT_MAX, description="free text for a person")]

PositionSide = Literal["long", "short"]
OrderSide = Literal["buy", "sell"]
ContractType = Literal["linear", "inverse", "quanto"]
OrderPricing = Literal["fund", "exchange"]
CloseReason = Literal["filled", "expired", "cancelled", "rejected"]
Clock = Literal["wall", "event"]
