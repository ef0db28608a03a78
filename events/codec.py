"""The strict decoder of inputs and the encoder of outputs.

A record is accepted only if it is strict JSON (valid UTF-8, no duplicate keys, no raw control
bytes in strings, no number that a double cannot hold), of a type that its topic carries, with
every field of the shape that `fields.py` gives it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast, get_args, get_type_hints

import msgspec
import orjson

from insurance_fund.events.adapted import Adapted
from insurance_fund.events.fields import ID_PATTERN, TIME_MS_MAX
from insurance_fund.events.messages import INPUTS, Input, Message, Output

RECORD_BYTES_MAX: Final = 1024 * 1024
TOO_LARGE: Final = "record_too_large"
ADAPTER_FAILED: Final = "adapter_failed"
_NOT_JSON: Final = (
    "the value is not strict JSON in UTF-8: one object, no raw control characters in strings, "
    "no NaN or Infinity, no number beyond a double"
)
# How deep a parser can go depends on the stack it is called from; this is far less than any can,
# so that a record is the same record live, in replay and wherever a ledger is read.
DEPTH_MAX: Final = 32
_ID: Final = re.compile(ID_PATTERN)
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class Refusal(NamedTuple):
    """Why a record is not a message, and what could still be read of it."""

    reason: str
    detail: str
    event_time_ms: int | None = None
    margin_currency: str | None = None
    liquidation_id: str | None = None


_TOO_DEEP: Final = Refusal(
    "too_deep", f"arrays and objects stand in each other more than {DEPTH_MAX} levels deep"
)
_DUPLICATE_KEYS: Final = Refusal("duplicate_keys", "a key stands twice in the JSON object")


def too_large(record_bytes: int) -> Refusal:
    """Return the refusal of a record that is longer than the service reads."""
    return Refusal(TOO_LARGE, f"the record has {record_bytes} bytes, more than record_bytes_max")


# Stands for an optional field that was left out: it passes every pattern there is.
_LEFT_OUT: Final = "1"


class _Shape:
    """The patterns of one message type, matched against all its text fields at once."""

    def __init__(self, message_type: type[Message]) -> None:
        hints = get_type_hints(message_type, include_extras=True)
        self.fields: list[tuple[str, re.Pattern[str], str]] = []
        self.optional = False
        parts = []
        for field in msgspec.structs.fields(message_type):
            meta = _pattern_meta(hints[field.name])
            if meta is None or meta.extra_json_schema is None:
                continue
            pattern = meta.extra_json_schema["pattern"][1:-1]
            parts.append(pattern)
            self.optional = self.optional or not field.required
            self.fields.append((field.name, re.compile(pattern), meta.description or ""))
        self.match = re.compile("\n".join(parts)).fullmatch
        self.known = frozenset(("type", *message_type.__struct_fields__))
        names = [name for name, _, _ in self.fields]
        self._texts: Callable[[Message], Sequence[str | None]] = attrgetter(*names)

    def fits(self, message: Message) -> bool:
        texts = self._texts(message)
        if self.optional:
            texts = [_LEFT_OUT if text is None else text for text in texts]
        return self.match("\n".join(texts)) is not None  # type: ignore[arg-type]

    def first_wrong(self, message: Message) -> Refusal | None:
        for name, pattern, description in self.fields:
            value = getattr(message, name)
            if value is not None and not pattern.fullmatch(value):
                # In ASCII: what is printable differs between versions of Python.
                shown = value if len(value) <= 80 else f"{value[:80]}…"  # noqa: PLR2004
                return Refusal(f"bad_{name}", f"{name} must be {description}; got {shown!a}")
        return None


def _pattern_meta(hint: Any) -> msgspec.Meta | None:
    for candidate in (hint, *get_args(hint)):
        for meta in getattr(candidate, "__metadata__", ()):
            return meta if isinstance(meta, msgspec.Meta) else None
    return None


class Decoder:
    """Decodes records of the input topics; counts unknown fields by message type."""

    def __init__(self, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        self.record_bytes_max = record_bytes_max
        self.unknown_fields: Counter[str] = Counter()

    def decode(self, topic: str, value: bytes | None) -> Input | Refusal:
        """Return the message that `value` holds, or why it holds none."""
        if value is None:
            return Refusal("null_value", "the record has no value; send a JSON object")
        if len(value) > self.record_bytes_max:
            return too_large(len(value))
        if is_too_deep(value):
            return _TOO_DEEP
        try:
            message = _DECODERS[topic].decode(value)
            fields = orjson.loads(value)
        except (msgspec.MsgspecError, orjson.JSONDecodeError, UnicodeDecodeError):
            return _refuse(topic, value)
        shape = _SHAPES[type(message)]
        if "type" not in fields:  # where a topic has one type only, msgspec does without
            return _refuse(topic, value)
        if not _keys_are_unique(value, fields):
            return _with_context(_DUPLICATE_KEYS, fields)
        if not shape.fits(message):
            wrong = shape.first_wrong(message)
            assert wrong is not None, "what does not fit has a field that is wrong"
            return _with_context(wrong, fields)
        if not fields.keys() <= shape.known:
            self.unknown_fields[fields["type"]] += len(fields.keys() - shape.known)
        return cast(Input, message)

    def decode_adapted(self, topic: str, made: Adapted) -> Input | Refusal:
        """Return the message that an adapter made, or why it is none."""
        if made.message is None:
            return Refusal(
                ADAPTER_FAILED, f"the adapter {made.adapter} made no message of it: {made.error}"
            )
        return self.decode(topic, made.message)


def is_too_deep(value: bytes) -> bool:
    """Tell whether arrays and objects stand in each other deeper than is read."""
    return value.count(b"{") + value.count(b"[") > DEPTH_MAX and _depth(value) > DEPTH_MAX


def is_strict_object(value: bytes) -> bool:
    """Tell whether bytes are one strict JSON object, as a message is, whatever its fields."""
    if is_too_deep(value):
        return False
    try:
        msgspec.json.decode(value)
        fields = orjson.loads(value)
    except (msgspec.MsgspecError, orjson.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(fields, dict) and _keys_are_unique(value, fields)


def _depth(value: bytes) -> int:
    depth = deepest = 0
    for byte in _STRING.sub(b"", value):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _union(types: tuple[type[Message], ...]) -> Any:
    union: Any = types[0]
    for message_type in types[1:]:
        union = union | message_type
    return union


_DECODERS: Final = {
    topic: msgspec.json.Decoder(_union(types), strict=True) for topic, types in INPUTS.items()
}
_SHAPES: Final = {
    message_type: _Shape(message_type) for types in INPUTS.values() for message_type in types
}


def _keys_are_unique(value: bytes, fields: dict[str, Any]) -> bool:
    # A flat object without escapes has two quotes for each key and two for each text value; a key
    # that stood twice would leave quotes over. Anything else is parsed again, slowly.
    quotes = 2 * (len(fields) + list(map(type, fields.values())).count(str))
    if value.count(b'"') == quotes and b"\\" not in value:
        return True
    try:
        json.loads(value, object_pairs_hook=unique_object)
    except ValueError:
        return False
    return True


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object out of its pairs; raise ValueError where a key stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return found


def _refuse(topic: str, value: bytes) -> Refusal:
    # What is wrong is said in words of ours: they are kept in the ledger and must come out the
    # same when it is replayed, whatever the versions of the JSON libraries.
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return Refusal("not_json", _NOT_JSON)
    if not isinstance(fields, dict):
        return Refusal("not_an_object", "the record must be one JSON object")
    if not _keys_are_unique(value, fields):
        return _with_context(_DUPLICATE_KEYS, fields)
    kinds = {t.__struct_config__.tag: t for t in INPUTS[topic]}
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        expected = ", ".join(str(k) for k in kinds)
        refusal = Refusal("unknown_type", f"type on topic {topic} must be one of: {expected}")
    else:
        refusal = _first_misfit(kinds[kind], fields)
    return _with_context(refusal, fields)


def _first_misfit(message_type: type[Message], fields: dict[str, Any]) -> Refusal:
    for field in msgspec.structs.fields(message_type):
        if field.name not in fields:
            if field.required:
                return Refusal("missing_field", f"{field.name} is missing")
            continue
        try:
            msgspec.convert(fields[field.name], field.type, strict=True)
        except msgspec.ValidationError:
            return Refusal(f"bad_{field.name}", f"{field.name} must be {_expected(field.type)}")
    return Refusal("not_json", _NOT_JSON)


def _expected(hint: Any) -> str:
    meta = _pattern_meta(hint)
    if meta is not None and meta.description:
        return meta.description
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "one of: " + ", ".join(choices)
    return "true or false" if hint is bool else "of another JSON type"


def _with_context(refusal: Refusal, fields: dict[str, Any]) -> Refusal:
    time, currency = fields.get("event_time_ms"), fields.get("margin_currency")
    liquidation = fields.get("liquidation_id")
    return refusal._replace(
        event_time_ms=time if type(time) is int and 0 <= time <= TIME_MS_MAX else None,
        margin_currency=currency if _is_id(currency) else None,
        liquidation_id=liquidation if _is_id(liquidation) else None,
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


_encoder = msgspec.json.Encoder()


def encode_output(message: Output) -> bytes:
    """Return the bytes of a message that goes out."""
    return _encoder.encode(message)
