"""The version of the state: whoever changes what a snapshot holds has to give it a new number."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from insurance_fund.events.effects import AnyEffect
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import STATE_VERSION, State, snapshot_bytes

# A ledger as it was written under rules 1, with every effect in it but the checkpoint's, which
# changes nothing. It stays as it is: old ledgers do.
RECORDED: Final = Path(__file__).with_name("recorded_ledger.ndjson")


class Golden(NamedTuple):
    """What a version of the state is: the shape of State, and what the recorded ledger comes to."""

    shape: str
    states: str


# By STATE_VERSION. The line of a version that a release has gone out with never changes; a new
# version gets a new line.
GOLDEN: Final = {
    1: Golden(
        shape="8f25e54f43c93522fded8b7cf69dd92cbfa184e099f38496d4aa1e87f0b63e14",
        states="2c4f7ee5726c3a8262c3ce69e6e1d7c2ffb7eb5975869ced2b13fc8235d978ff",
    ),
    # A parked record may have what an adapter made of it; what had none is stored as before.
    2: Golden(
        shape="a43256e7a0c2a0e81d6a7469d48fe70d38e7d2476b7287f3375606a7abbf8381",
        states="2c4f7ee5726c3a8262c3ce69e6e1d7c2ffb7eb5975869ced2b13fc8235d978ff",
    ),
}
# Says of a schema what people read, not what is stored.
ONLY_TOLD: Final = frozenset({"title", "description"})


def stored(schema: Any) -> Any:
    """Leave out of a schema what does not change the bytes that it stands for."""
    if isinstance(schema, dict):
        # Under "properties" the keys are the names of fields, which may be called anything.
        return {
            key: {name: stored(one) for name, one in value.items()}
            if key == "properties"
            else stored(value)
            for key, value in schema.items()
            if key not in ONLY_TOLD
        }
    return [stored(one) for one in schema] if isinstance(schema, list) else schema


def shape_of(kind: Any) -> str:
    """Return a hash of the names and types of all fields, of these types' fields, and so on."""
    schema = stored(msgspec.json.schema(kind))
    return sha256_hex(msgspec.json.encode(schema, order="deterministic"))


def test_shape_of_the_state_is_that_of_its_version() -> None:
    assert shape_of(State) == GOLDEN[STATE_VERSION].shape, (
        "the state has another shape than this version of it had: bump STATE_VERSION in "
        "fund/state.py and add a line"
    )


def test_recorded_ledger_comes_to_the_states_of_its_version() -> None:
    state, states = State(), hashlib.sha256()
    for line in RECORDED.read_bytes().splitlines():
        apply_entry(state, decode_entry(line), sha256_hex(line))
        states.update(snapshot_bytes(state))
    assert states.hexdigest() == GOLDEN[STATE_VERSION].states, (
        "the same entries come to another state than they did in this version: bump STATE_VERSION "
        "in fund/state.py and add a line"
    )


def test_recorded_ledger_has_every_effect() -> None:
    ledger = RECORDED.read_bytes()
    tags = [str(kind.__struct_config__.tag) for kind in AnyEffect.__args__]
    missing = [tag for tag in tags if f'"type":"{tag}"'.encode() not in ledger]
    assert missing == ["checkpoint"]


def test_shape_changes_with_a_name_a_type_or_a_field_at_any_depth_and_with_nothing_else() -> None:
    def outer(inner: Any, doc: str = "Told.") -> Any:
        fields = [("here", dict[str, inner]), ("there", int)]
        return msgspec.defstruct("Outer", fields, namespace={"__doc__": doc})

    def inner(*fields: Any) -> Any:
        return msgspec.defstruct("Inner", fields)

    shape = shape_of(outer(inner(("title", str), ("rest", int))))
    assert shape == shape_of(outer(inner(("title", str), ("rest", int)), "Told otherwise."))
    for changed in (
        inner(("title", str), ("left", int)),
        inner(("title", str), ("rest", str)),
        inner(("title", str), ("rest", int | None)),
        inner(("title", str), ("rest", int, 0)),
        inner(("title", str), ("rest", int), ("more", int)),
        inner(("rest", int)),
    ):
        assert shape_of(outer(changed)) != shape
