"""Adapters: what they make is decided like a message of ours, and stands in the ledger."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insurance_fund.events import effects as fx
from insurance_fund.events.adapted import Adapted
from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.events.ledger import InputCause, decode_entry, input_cause
from insurance_fund.fund.bookkeeper import Bookkeeper, Written
from insurance_fund.fund.state import State
from insurance_fund.streams.adapters import Adapter, is_adapter_name, load_adapters
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.snapshots import decode_content, encode_content
from insurance_fund.streams.verify import Verifier
from tests.property.scale import EXAMPLES, STEADY
from tests.unit.life import Life

NAME = "acme_bus:fill"
OWN = b'{"trade": {"px": 44700}}'
FILL = {
    "type": "fill",
    "event_id": "e",
    "event_time_ms": 1_767_312_000_000,
    "margin_currency": "USDT",
    "fill_id": "f1",
    "liquidation_id": "liq-7",
    "order_id": "liq-7:1",
    "instrument_id": "BTCUSDT",
    "side": "sell",
    "price": "44700",
    "quantity": "4",
    "fee": "0.894",
}
TAKEOVER = {
    "account_id": "acc",
    "instrument_id": "BTCUSDT",
    "position_side": "long",
    "quantity": "10",
    "entry_price": "50000",
    "margin": "500",
}


def made(fields: dict[str, Any]) -> Adapted:
    return Adapted(NAME, orjson.dumps(fields))


def send(life: Life, own: bytes | None, what: Adapted, topic: str = "fills") -> Written:
    """Take a record of the exchange's with what an adapter made of it."""
    life.offsets += 1
    return life._keep(
        life.keeper.record(topic, 0, life.offsets, life.now_ms, own, life.now_ms, made=what)
    )


def cause(written: Written) -> dict[str, Any]:
    return json.loads(written.line)["cause"]  # type: ignore[no-any-return]


def assert_clean(life: Life) -> None:
    for audit in (Verifier(), Replayer()):
        for line in life.lines:
            audit.take(line)
        assert audit.finish().findings == []


class TestLedger:
    def test_fill_that_was_made_has_the_effects_and_postings_of_one_of_ours(self) -> None:
        plain, adapted = Life(), Life()
        for life in (plain, adapted):
            life.take_over()
        ours = plain.raw("fills", orjson.dumps(FILL))
        theirs = send(adapted, OWN, made(FILL))
        assert ours.entry.effects == theirs.entry.effects != []
        assert ours.entry.postings == theirs.entry.postings
        assert_clean(adapted)

    def test_cause_keeps_the_record_as_it_was_and_the_message_beside_it(self) -> None:
        life = Life()
        life.take_over()
        line = send(life, OWN, made(FILL)).line
        told = (
            b'{"cause":{"kind":"input","adapted":' + orjson.dumps(FILL) + b',"adapter":"'
            b'acme_bus:fill","offset":4,"partition":0,"record":' + OWN + b',"timestamp_ms":'
            b'1767312000000,"topic":"fills"},"effects":['
        )
        assert line.startswith(told)

    def test_record_without_an_adapter_says_nothing_of_one(self) -> None:
        life = Life()
        life.take_over()
        life.fill("4")
        assert b"adapte" not in b"".join(life.lines)

    def test_record_that_is_no_json_is_kept_in_base64(self) -> None:
        life = Life()
        life.take_over()
        written = send(life, b"\x00\x01framed", made(FILL))
        assert cause(written)["record_base64"] == base64.b64encode(b"\x00\x01framed").decode()
        assert isinstance(written.entry.cause, InputCause)
        assert written.entry.cause.value() == b"\x00\x01framed"
        assert life.kinds() == ["fill_booked"]
        assert_clean(life)

    def test_failure_is_refused_with_the_exchanges_own_bytes_in_the_dead_letter(self) -> None:
        life = Life()
        written = send(life, OWN, Adapted(NAME, None, "KeyError: 'px'"))
        refused = life.only(fx.Rejected)
        assert refused.reason == "adapter_failed"
        assert refused.detail == ("the adapter acme_bus:fill made no message of it: KeyError: 'px'")
        (letter,) = life.sent()
        assert base64.b64decode(letter["value_base64"]) == OWN
        assert cause(written)["adapter_error"] == "KeyError: 'px'"
        assert_clean(life)

    def test_message_that_is_not_ours_is_refused_with_its_own_reason(self) -> None:
        life = Life()
        life.take_over()
        written = send(life, OWN, made({**FILL, "price": 44700.0}))
        assert life.only(fx.Rejected).reason == "bad_price"
        assert cause(written)["adapted"]["price"] == 44700.0
        (letter,) = life.sent()
        assert base64.b64decode(letter["value_base64"]) == OWN
        assert_clean(life)

    def test_early_record_waits_as_what_was_made_of_it(self) -> None:
        life = Life()
        send(life, OWN, made(FILL))
        parked = life.only(fx.RecordParked)
        assert base64.b64decode(parked.value_base64) == OWN
        life.take_over()
        assert life.kinds()[-1] == "fill_booked"
        assert_clean(life)

    def test_early_record_whose_time_is_over_is_a_dead_letter_of_its_own_bytes(self) -> None:
        life = Life()
        send(life, OWN, made(FILL))
        (expired,) = life.wait(7 * 86_400_000)
        (letter,) = life.sent(expired)
        assert letter["reason"] == "parked_expired"
        assert base64.b64decode(letter["value_base64"]) == OWN
        assert_clean(life)

    def test_early_record_is_in_a_snapshot_with_what_was_made_of_it(self) -> None:
        life = Life()
        send(life, OWN, made(FILL))
        keeper = Bookkeeper("main", decode_content(encode_content(life.state, {}))[0])
        written = life.take_over()
        assert keeper.again(written.entry).line == written.line

    @pytest.mark.parametrize(("own", "reason"), [(8_000, None), (17_000, "early_and_too_large")])
    def test_early_record_is_kept_up_to_16_kib_with_its_message(
        self, own: int, reason: str | None
    ) -> None:
        life = Life()
        size = len(orjson.dumps(FILL))
        send(life, b"x" * own, made(FILL))
        found = [e.reason for e in life.last.entry.effects if isinstance(e, fx.Rejected)]
        assert found == ([reason] if reason else [])
        send(life, b"x" * (16 * 1024 - size), made({**FILL, "fill_id": "f2"}))
        assert life.kinds() == ["record_parked"]
        send(life, b"x" * (16 * 1024 - size + 1), made({**FILL, "fill_id": "f3"}))
        assert life.only(fx.Rejected).reason == "early_and_too_large"
        assert f"a record of {16 * 1024 + 1} bytes" in life.only(fx.Rejected).detail

    @pytest.mark.parametrize(
        "altered",
        [
            (b',"adapter":"acme_bus:fill"', b""),
            (b',"adapter":"acme_bus:fill"', b',"adapter":"a:b","adapter_error":"x"'),
            (b'"adapted":' + orjson.dumps(FILL) + b",", b""),
        ],
    )
    def test_cause_that_contradicts_itself_is_found(self, altered: tuple[bytes, bytes]) -> None:
        life = Life()
        life.take_over()
        line = send(life, OWN, made(FILL)).line.replace(*altered)
        assert line != life.lines[-1]
        with pytest.raises(CorruptionError, match="its cause needs an adapter with either"):
            decode_entry(line).cause.made()  # type: ignore[union-attr]
        for audit in (Verifier(), Replayer()):
            for one in (*life.lines[:-1], line):
                audit.take(one)
            (told,) = [f for f in audit.finish().findings if "its cause needs" in f.message]
            assert told.sequence == len(life.lines) - 1

    def test_message_that_was_altered_is_found_by_replay(self) -> None:
        life = Life()
        life.take_over()
        send(life, OWN, made(FILL))
        audit = Replayer()
        for line in life.lines:
            audit.take(
                line.replace(
                    b'"price":"44700","quantity":"4","fee":"0.894"}',
                    b'"price":"44700","quantity":"5","fee":"0.894"}',
                )
            )
        (found,) = audit.finish().findings
        assert "decided otherwise" in found.message


@settings(max_examples=300 * EXAMPLES, deadline=None, derandomize=STEADY)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        ).map(lambda value: json.dumps(value).encode()),
        st.text('{}[]":,\\u0d8e1 \t\n', max_size=40).map(lambda text: b"{" + text.encode() + b"}"),
    )
)
def test_any_bytes_come_back_from_an_entry_of_one_line(own: bytes) -> None:
    life = Life(deposit=None, instruments=())
    line = send(life, own, made(FILL)).line
    found = decode_entry(line).cause
    assert isinstance(found, InputCause)
    assert found.value() == own
    assert found.message() == orjson.dumps(FILL)
    assert b"\n" not in line
    assert json.loads(line)["cause"]["adapted"] == FILL


def test_nested_record_is_verbatim_up_to_the_depth_that_is_read() -> None:
    for depth, key in ((31, "record"), (32, "record_base64")):
        life = Life()
        own = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        assert key in cause(send(life, own, made(FILL)))
        assert_clean(life)


def test_record_with_a_key_twice_is_kept_in_base64() -> None:
    assert "record_base64" in cause(send(Life(), b'{"a":1,"a":2}', made(FILL)))


def test_record_above_the_limit_is_kept_as_length_and_hash() -> None:
    found = input_cause("fills", 0, 0, 0, b"x" * 11, decoded=False, record_bytes_max=10)
    assert found.record_bytes == 11
    assert found.made() is None


class Unspeakable(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


def raising(error: Exception) -> Callable[[bytes], Any]:
    def function(_value: bytes) -> Any:
        raise error

    return function


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


class TestAdapter:
    def test_dict_becomes_a_message_in_one_line(self) -> None:
        adapter = Adapter(NAME, lambda value: {"a": value.decode(), "b": 1})
        assert adapter.adapt(b"x\ny", 100) == Adapted(NAME, b'{"a":"x\\ny","b":1}')

    def test_none_is_not_for_the_fund(self) -> None:
        assert Adapter(NAME, lambda _: None).adapt(b"x", 100) is None

    @pytest.mark.parametrize(
        ("function", "error"),
        [
            (raising(KeyError("px")), "KeyError: 'px'"),
            (raising(ValueError("a\nb\ud800\u00e9")), r"ValueError: a\nb\ud800\xe9"),
            (raising(ValueError("x" * 500)), "ValueError: " + "x" * 188),
            (raising(Unspeakable()), "Unspeakable"),
            (lambda v: [v], "it returned list, neither dict nor None"),
            (lambda _: b"{}", "it returned bytes, neither dict nor None"),
            (lambda _: {"a": object()}, "TypeError: Type is not JSON serializable: object"),
            (lambda _: {1: 2}, "TypeError: Dict key must be str"),
            (lambda _: {"a": "\ud800"}, "surrogates not allowed"),
            (lambda _: {"a": 2**64}, "TypeError: Integer exceeds 64-bit range"),
            (lambda _: {"a": "x" * 93}, "its message has 101 bytes, above record_bytes_max"),
            (lambda _: nested(33), "its message is nested more than 32 levels deep"),
            (lambda _: nested(100_000), "Recursion limit reached"),
        ],
    )
    def test_whatever_goes_wrong_is_told(
        self, function: Callable[[bytes], Any], error: str
    ) -> None:
        found = Adapter(NAME, function).adapt(b"x", 100)
        assert found is not None
        assert found.message is None
        assert error in (found.error or "")
        assert len(found.error or "") <= 200
        # It can be written down, and read again.
        life = Life()
        send(life, OWN, found)
        assert life.only(fx.Rejected).reason == "adapter_failed"
        assert_clean(life)

    def test_message_of_the_limit_is_taken(self) -> None:
        found = Adapter(NAME, lambda _: {"a": "x" * 92}).adapt(b"x", 100)
        assert found is not None
        assert len(found.message or b"") == 100
        found = Adapter(NAME, lambda _: nested(32)).adapt(b"x", 100)
        assert found is not None
        assert found.error is None

    def test_exit_that_it_asks_for_is_not_held_back(self) -> None:
        def leave(_value: bytes) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            Adapter(NAME, leave).adapt(b"x", 100)


MODULES = {
    "acme_good.py": "def fill(value):\n    return {'own': value.decode()}\n",
    "acme_broken.py": "raise ValueError('no licence')\n",
    "acme_lacking.py": "import acme_nowhere\n",
    "acme_misspelt.py": "def fill(:\n",
    "acme_odd.py": "fill = 7\nasync def later(value):\n    return None\n",
}


class TestLoading:
    @pytest.fixture(autouse=True)
    def modules(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text in MODULES.items():
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    def test_function_of_a_module_is_found(self) -> None:
        adapter = load_adapters({"fills": "acme_good:fill"})["fills"]
        assert adapter.adapt(b"x", 100) == Adapted("acme_good:fill", b'{"own":"x"}')

    def test_one_of_ours_is_found_by_its_name(self) -> None:
        assert (
            load_adapters({"fills": "binance-order-update"})["fills"].adapt(
                b'{"e":"ACCOUNT_UPDATE"}', 100
            )
            is None
        )

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("acme_none:fill", "acme_none cannot be imported: ModuleNotFoundError"),
            ("acme_none:fill", "on Python's path, for example PYTHONPATH=. for the current one"),
            ("acme_none.part:fill", "for example PYTHONPATH=."),
            ("acme_broken:fill", "acme_broken cannot be imported: ValueError: no licence"),
            ("acme_misspelt:fill", "acme_misspelt cannot be imported: SyntaxError"),
            ("acme_lacking:fill", "No module named 'acme_nowhere'"),
            ("acme_good:trade", "acme_good.py has no trade"),
            ("acme_odd:fill", "acme_odd.py is no plain function of a record's bytes"),
            ("acme_odd:later", "acme_odd.py is no plain function of a record's bytes"),
        ],
    )
    def test_what_cannot_be_had_is_told_by_its_setting(self, name: str, says: str) -> None:
        with pytest.raises(SettingsError) as told:
            load_adapters({"fills": name})
        assert str(told.value).startswith("inputs.fills.adapter: ")
        assert says in str(told.value)
        if "acme_none" not in name:
            assert "PYTHONPATH" not in str(told.value)

    @pytest.mark.parametrize(
        ("name", "good"),
        [
            ("a:b", True),
            ("a.b_1.c:d", True),
            ("binance-order-update", True),
            ("binance", False),
            ("a", False),
            ("a:b:c", False),
            (":b", False),
            ("a:", False),
            ("a.:b", False),
            ("1a:b", False),
            ("a:b c", False),
            ("\u00e4:b", False),
            ("a:b\n", False),
        ],
    )
    def test_names_have_one_form(self, name: str, good: bool) -> None:
        assert is_adapter_name(name) is good


def test_state_without_adapters_is_stored_as_before() -> None:
    life = Life()
    life.fill("4")
    assert life.kinds() == ["record_parked"]
    assert b"adapted" not in encode_content(life.state, {})
    assert State().parked == {}
