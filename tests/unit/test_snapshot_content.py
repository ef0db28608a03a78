"""The content of a snapshot: a state that is read back is the one that was written, in all it does.

The lives are crowded: several currencies, every effect, records that wait for each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.events.terms import Position
from insurance_fund.fund.bookkeeper import Bookkeeper, apply_entry
from insurance_fund.fund.state import Fund, State, snapshot_bytes
from insurance_fund.fund.windows import Bucket, Window
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.snapshots import decode_content, encode_content
from tests.property.choices import Seeded
from tests.property.lives import Lives
from tests.property.scale import EXAMPLES, STEADY
from tests.property.test_lives import EFFECTS
from tests.unit.life import Life
from tests.unit.test_determinism import crowded_life

# Chosen so that each effect is among them.
SEEDS: Final = (69, 190, 303)
POSITION: Final = Position(next_offset=8, last_offset=7, sha256="ab" * 32, timestamp_ms=1)


def random_life(seed: int) -> Callable[[], Life]:
    def live() -> Life:
        lives = Lives(Seeded(seed))
        for _ in range(120):
            lives.act_by_weight()
        return lives.world

    return live


LIVES: Final = {"crowded": crowded_life, **{f"seed {n}": random_life(n) for n in SEEDS}}


def parts(value: Any) -> dict[str, Any] | None:
    """Return what a value is made of, by name and in its order; None for what has no parts."""
    match value:
        case msgspec.Struct():
            return {f".{name}": getattr(value, name) for name in value.__struct_fields__}
        case dict():
            return {f"[{key!r}]": one for key, one in value.items()}
        case list() | tuple():
            return {f"[{index}]": one for index, one in enumerate(value)}
        case Decimal():
            return value.as_tuple()._asdict()
    return None


def differences(one: Any, other: Any, where: str = "state") -> Iterator[str]:
    """Yield where two values are not alike: types, order, digits and exponents count."""
    mine, its = parts(one), parts(other)
    if type(one) is not type(other):
        yield f"{where} is a {type(one)} and a {type(other)}"
    elif mine is None or its is None:
        if one != other:
            yield f"{where} is {one!r} and {other!r}"
    elif list(mine) != list(its):
        yield f"{where} has {list(mine)} and {list(its)}"
    else:
        for name in mine:
            yield from differences(mine[name], its[name], where + name)


def read_back(state: State) -> State:
    return decode_content(encode_content(state, {}))[0]


def states_of(life: Life) -> Iterator[State]:
    """Yield the state after each entry; it is one that goes on."""
    state = State()
    for line in life.lines:
        apply_entry(state, decode_entry(line), sha256_hex(line))
        yield state


@pytest.mark.parametrize("live", LIVES.values(), ids=LIVES)
def test_state_after_any_entry_is_read_back_alike(live: Callable[[], Life]) -> None:
    for state in states_of(live()):
        found = read_back(state)
        assert list(differences(state, found)) == []
        assert snapshot_bytes(found) == snapshot_bytes(state)


@pytest.mark.parametrize("live", LIVES.values(), ids=LIVES)
def test_state_that_was_read_back_after_any_entry_decides_all_that_follows_to_the_byte(
    live: Callable[[], Life],
) -> None:
    life = live()
    entries = [decode_entry(line) for line in life.lines]
    contents = [encode_content(state, {}) for state in states_of(life)]
    for sequence, content in enumerate(contents, 1):
        keeper = Bookkeeper("main", decode_content(content)[0])
        for entry, line in zip(entries[sequence:], life.lines[sequence:], strict=True):
            assert keeper.again(entry).line == line
        assert snapshot_bytes(keeper.state) == snapshot_bytes(life.state)


def test_lives_that_are_read_back_have_every_effect() -> None:
    lines = b"".join(line for live in LIVES.values() for line in live().lines)
    assert [kind for kind in EFFECTS if f'"type":"{kind}"'.encode() not in lines] == []
    most = max(len(state.parked) for state in states_of(crowded_life()))
    assert most > 40, "order among the parked matters only where there are many"


def test_everything_in_an_empty_state_is_read_back_as_what_it_was() -> None:
    state, found = State(), read_back(State())
    assert list(differences(state, found)) == []
    assert type(found.parked) is OrderedDict


def test_states_that_were_read_back_share_nothing_that_changes() -> None:
    life = random_life(SEEDS[0])()
    content = encode_content(life.state, {})
    one, other = decode_content(content)[0], decode_content(content)[0]
    assert not {id(v) for v in changing(one)} & {id(v) for v in changing(other)}
    assert len({id(v) for v in changing(one)}) == len(list(changing(one)))


def changing(value: Any) -> Iterator[Any]:
    """Yield every object below `value` that can be changed in place, as often as it stands."""
    if isinstance(value, msgspec.Struct):
        if not value.__struct_config__.frozen:
            yield value
        for name in value.__struct_fields__:
            yield from changing(getattr(value, name))
    elif isinstance(value, dict | list):
        yield value
        for one in value.values() if isinstance(value, dict) else value:
            yield from changing(one)


# No limit of the books: a sign on a zero, exponents either way, far more digits than any context.
ANY_NUMBER: Final = st.builds(
    lambda sign, digits, exponent: Decimal((sign, tuple(digits), exponent)),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=230),
    st.integers(-60, 60),
)


@settings(max_examples=200 * EXAMPLES, deadline=None, derandomize=STEADY)
@given(ANY_NUMBER, ANY_NUMBER)
def test_numbers_are_read_back_digit_by_digit(one: Decimal, other: Decimal) -> None:
    window = Window([Bucket(3, one, other)])
    state = State(funds={"USDT": Fund(available=one, deltas=other, totals=window)})
    assert list(differences(state, read_back(state))) == []


def test_positions_are_read_back_in_their_order() -> None:
    where = [TopicPartition("fills", 11), TopicPartition("a:b", 0), TopicPartition("fills", 2)]
    _, found = decode_content(encode_content(State(), dict.fromkeys(where, POSITION)))
    assert list(found.items()) == [(one, POSITION) for one in where]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"state":{},"positions":{},"more":1}',
        b'{"state":{"sequence":"1"},"positions":{}}',
        b'{"state":{"funds":{"USDT":{"available":"1,0"}}},"positions":{}}',
        b'{"state":{"ledger":"\xff"},"positions":{}}',
        b'{"state":{},"positions":{"fills:x":'
        b'{"next_offset":1,"last_offset":0,"sha256":"","timestamp_ms":0}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_content_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptionError, match="its content cannot be read"):
        decode_content(content)
