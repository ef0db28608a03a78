"""The bookkeeper: turns one cause into one chained ledger entry and its outgoing messages.

Live, in replay and in tests the same code writes entries; only where they go differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from insurance_fund.events.adapted import Adapted
from insurance_fund.events.amounts import exact
from insurance_fund.events.codec import (
    Decoder,
    Refusal,
    encode_output,
    is_strict_object,
    too_large,
)
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import (
    Cause,
    CheckpointCause,
    ClockCause,
    Emitted,
    Entry,
    InputCause,
    PolicyCause,
    encode_entry,
    input_cause,
    sha256_hex,
)
from insurance_fund.events.messages import Input
from insurance_fund.events.postings import post, postings_text
from insurance_fund.fund import decide
from insurance_fund.fund.evolve import begin, end, evolve
from insurance_fund.fund.invariants import check_entry
from insurance_fund.fund.state import State
from insurance_fund.fund.turn import Origin, Turn

# What evolving effects that were never decided can run into.
_MISFITS: Final = (
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    TypeError,
    ValueError,
)


class Message(NamedTuple):
    """An outgoing message as bytes; `type` and `event_id` go into its CloudEvents headers."""

    topic: str
    key: str
    value: bytes
    type: str
    event_id: str
    event_time_ms: int


class Written(msgspec.Struct, frozen=True, gc=False):
    """An entry as it is to be committed."""

    entry: Entry
    line: bytes
    messages: list[Message]


class Bookkeeper:
    """Keeps one ledger: its state, and the hash that the next entry is chained to."""

    def __init__(self, ledger: str, state: State, decoder: Decoder | None = None) -> None:
        self.ledger = ledger
        self.state = state
        self.decoder = decoder or Decoder()

    @exact
    def record(  # noqa: PLR0913, PLR0917 - a record is its place, time and bytes
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        now_ms: int,
        decoded: Input | Refusal | None = None,
        made: Adapted | None = None,
    ) -> Written:
        """Take a record of an input topic; `decoded` is given where the caller has decoded it.

        `made` is what an adapter made of the record, where its input has one.
        """
        decoder = self.decoder
        if decoded is None:
            decoded = (
                decoder.decode(topic, value)
                if made is None
                else decoder.decode_adapted(topic, made)
            )
        cause = input_cause(
            topic,
            partition,
            offset,
            timestamp_ms,
            value,
            # With an adapter it is the message that was decoded, and not these bytes.
            decoded=not isinstance(decoded, Refusal)
            and (made is None or is_strict_object(value or b"")),
            record_bytes_max=decoder.record_bytes_max,
            made=made,
        )
        begin(self.state, cause, now_ms)
        origin = Origin(
            topic, partition, offset, value, adapted=None if made is None else made.message
        )
        return self._write(cause, decide.decide_record(self.state, decoded, origin, now_ms))

    @exact
    def deadline(self, cause: ClockCause, now_ms: int) -> Written:
        """Take a deadline that is due."""
        if cause.due_ms > now_ms or self.state.deadlines.get(cause.deadline) != cause.due_ms:
            raise CorruptionError(f"{cause.deadline} is not due at {now_ms}", self.state.sequence)
        begin(self.state, cause, now_ms)
        return self._write(cause, decide.decide_deadline(self.state, cause.deadline, now_ms))

    @exact
    def policy(self, cause: PolicyCause, now_ms: int) -> Written:
        """Take a policy; the first one is entry 0."""
        begin(self.state, cause, now_ms)
        return self._write(cause, decide.decide_policy(self.state, cause, self.ledger, now_ms))

    def checkpoint(self, cause: CheckpointCause, now_ms: int) -> Written:
        """Take positions that moved over skipped records."""
        begin(self.state, cause, now_ms)
        return self._write(cause, decide.decide_checkpoint(self.state, now_ms))

    def again(self, entry: Entry) -> Written:
        """Decide the cause of a recorded entry again, at its recorded time."""
        cause = entry.cause
        if isinstance(cause, InputCause):
            return self._record_again(entry, cause)
        if isinstance(cause, ClockCause):
            return self.deadline(cause, entry.now_ms)
        if isinstance(cause, PolicyCause):
            return self.policy(cause, entry.now_ms)
        return self.checkpoint(cause, entry.now_ms)

    @exact
    def _record_again(self, entry: Entry, cause: InputCause) -> Written:
        where = (cause.topic, cause.partition, cause.offset)
        if cause.record_bytes is UNSET:
            value, made = cause.value(), cause.made()
            return self.record(*where, cause.timestamp_ms, value, entry.now_ms, made=made)
        # Of an oversized record the ledger has no bytes: the dead letter cannot be made again.
        begin(self.state, cause, entry.now_ms)
        origin = Origin(*where, None)
        refusal = too_large(cause.record_bytes)
        turn = decide.decide_record(self.state, refusal, origin, entry.now_ms)
        turn.outgoing.clear()
        return self._write(cause, turn, entry.emitted)

    def _write(self, cause: Cause, turn: Turn, known_emitted: Sequence[Emitted] = ()) -> Written:
        state = self.state
        emitted, messages = list(known_emitted), []
        for outgoing in turn.outgoing:
            message = outgoing.message
            value = encode_output(message)
            emitted.append(Emitted(outgoing.id, sha256_hex(value), outgoing.topic))
            messages.append(
                Message(
                    outgoing.topic,
                    outgoing.key,
                    value,
                    type(message).__struct_config__.tag,  # type: ignore[arg-type]
                    message.event_id,
                    message.event_time_ms,
                )
            )
        postings = post(turn.effects)
        if postings:
            check_entry(state, postings)
        entry = Entry(
            cause=cause,
            effects=turn.effects,
            emitted=emitted,
            ledger=self.ledger,
            now_ms=turn.now_ms,
            postings=postings_text(postings),
            previous=state.head,
            sequence=state.sequence,
        )
        line = encode_entry(entry)
        end(state, sha256_hex(line))
        return Written(entry, line, messages)


@exact
def apply_entry(state: State, entry: Entry, sha256: str) -> None:
    """Evolve the state by a recorded entry; `sha256` is that of its bytes.

    Raises CorruptionError where the entry does not continue the chain.
    """
    if entry.sequence != state.sequence:
        raise CorruptionError(
            f"entry {entry.sequence} stands where {state.sequence} is expected", state.sequence
        )
    if entry.previous != state.head:
        raise CorruptionError(
            f"entry {entry.sequence} does not continue the chain: `previous` is not the hash of "
            "the entry before",
            entry.sequence,
        )
    if entry.now_ms < state.now_ms:
        raise CorruptionError(
            f"entry {entry.sequence} has the time {entry.now_ms}, before that of the entry before, "
            f"{state.now_ms}",
            entry.sequence,
        )
    begin(state, entry.cause, entry.now_ms)
    try:
        for effect in entry.effects:
            evolve(state, effect, entry.now_ms, entry.sequence)
    except _MISFITS as error:
        raise CorruptionError(
            f"entry {entry.sequence}: its effects do not apply to what came before: {error!r}",
            entry.sequence,
        ) from error
    end(state, sha256)
