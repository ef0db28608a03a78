"""The ledger entry: one cause, its effects and postings, chained to the entry before.

An entry is one line of UTF-8. `previous` is the SHA-256 of the exact bytes of the entry before, so
verifying is hashing bytes; nothing is ever put into a canonical form again.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from insurance_fund.events.adapted import Adapted
from insurance_fund.events.effects import AnyEffect
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.fields import Clock
from insurance_fund.events.terms import PolicyDocument, Position

VERSION: Final = 1
GENESIS: Final = "0" * 64
DEAD_LETTER_BYTES_MAX: Final = 64 * 1024


class _Cause(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="kind"
):
    pass


class InputCause(_Cause, frozen=True, kw_only=True, tag="input"):
    """A record of an input topic: verbatim, in base64, or (oversized) as hash and length.

    Of a record that went through an adapter there is what that made of it too: `adapted`, our
    message verbatim, or `adapter_error`. `topic` is our name of the input, whatever the bus's is.
    """

    adapted: Raw | UnsetType = UNSET
    adapter: str | UnsetType = UNSET
    adapter_error: str | UnsetType = UNSET
    offset: int
    partition: int
    record: Raw | UnsetType = UNSET
    record_base64: str | UnsetType = UNSET
    record_bytes: int | UnsetType = UNSET
    record_sha256: str | UnsetType = UNSET
    timestamp_ms: int
    topic: str

    def value(self) -> bytes | None:
        """Return the record's bytes; None for a null value or one too large to be kept."""
        if self.record_base64 is not UNSET:
            try:
                return base64.b64decode(self.record_base64, validate=True)
            except ValueError as error:
                raise CorruptionError(f"record_base64 cannot be read: {error}") from error
        if self.record is UNSET:
            return None
        raw = bytes(self.record)
        return None if raw == b"null" else raw

    def made(self) -> Adapted | None:
        """Return what an adapter made of the record, None where there was none.

        Raises CorruptionError where the fields about it contradict each other.
        """
        adapted, error = self.adapted, self.adapter_error
        if self.adapter is UNSET:
            if adapted is UNSET and error is UNSET:
                return None
        elif adapted is not UNSET and error is UNSET:
            return Adapted(self.adapter, bytes(adapted))
        elif adapted is UNSET and error is not UNSET:
            return Adapted(self.adapter, None, error)
        raise CorruptionError("its cause needs an adapter with either `adapted` or `adapter_error`")

    def message(self) -> bytes | None:
        """Return the message in our JSON: what an adapter made, else the record's own bytes."""
        made = self.made()
        return self.value() if made is None else made.message

    def sha256(self) -> str:
        """Return the fingerprint of the record's bytes (of nothing, for a null value)."""
        if self.record_sha256 is not UNSET:
            return self.record_sha256
        return sha256_hex(self.value() or b"")


class ClockCause(_Cause, frozen=True, tag="clock"):
    """A deadline was due; `read_to` holds the ends that were read before it was taken."""

    deadline: str
    due_ms: int
    read_to: dict[str, int]
    capped: bool


class PolicyCause(_Cause, frozen=True, tag="policy"):
    """The settings under which the ledger goes on."""

    policy: PolicyDocument
    routing: dict[str, str]
    clock: Clock
    rules: int
    software: str


class CheckpointCause(_Cause, frozen=True, tag="checkpoint"):
    """Positions, by `topic:partition`, after records that made no entry."""

    positions: dict[str, Position]


Cause = InputCause | ClockCause | PolicyCause | CheckpointCause


class Emitted(msgspec.Struct, frozen=True, gc=False):
    """A message committed together with the entry."""

    id: str
    sha256: str
    topic: str


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of a ledger."""

    cause: Cause
    effects: list[AnyEffect]
    emitted: list[Emitted]
    ledger: str
    now_ms: int
    postings: dict[str, str]
    previous: str
    sequence: int
    version: int = VERSION


class Head(msgspec.Struct, frozen=True):
    """The last entry of a ledger, for outside witnesses."""

    ledger: str
    sequence: int
    sha256: str


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry, strict=True)


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def encode_entry(entry: Entry) -> bytes:
    """Return the one line (without its end) that stands for this entry for ever."""
    return _encoder.encode(entry)


def decode_entry(line: bytes) -> Entry:
    """Read an entry.

    Raises CorruptionError for bytes that are not an entry of this version.
    """
    try:
        entry = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"not a ledger entry: {error}") from error
    if entry.version != VERSION:
        raise CorruptionError(
            f"entry {entry.sequence} has version {entry.version}; this software reads {VERSION}",
            entry.sequence,
        )
    return entry


def input_cause(  # noqa: PLR0913 - the parts of a record
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    value: bytes | None,
    *,
    decoded: bool,
    record_bytes_max: int,
    made: Adapted | None = None,
) -> InputCause:
    """Build the cause of a record; `decoded` says that its bytes are one strict JSON object."""
    record: Raw | UnsetType = UNSET
    in_base64: str | UnsetType = UNSET
    length: int | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    if value is None:
        record = Raw(b"null")
    elif len(value) > record_bytes_max:
        length, digest = len(value), sha256_hex(value)
    elif decoded and _is_verbatim(value):
        record = Raw(value)
    else:
        in_base64 = base64.b64encode(value).decode()
    adapted: Raw | UnsetType = UNSET
    adapter: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    if made is not None:
        adapter = made.adapter
        if made.message is None:
            error = made.error or ""
        else:
            adapted = Raw(made.message)
    return InputCause(
        adapted=adapted,
        adapter=adapter,
        adapter_error=error,
        offset=offset,
        partition=partition,
        record=record,
        record_base64=in_base64,
        record_bytes=length,
        record_sha256=digest,
        timestamp_ms=timestamp_ms,
        topic=topic,
    )


def _is_verbatim(value: bytes) -> bool:
    # Strict JSON has control bytes only between tokens, where they are white space; an entry is
    # one line, and white space around the object would not come back from the entry.
    return (
        value[0] == ord("{")
        and value[-1] == ord("}")
        and b"\n" not in value
        and b"\r" not in value
        and b"\t" not in value
    )
