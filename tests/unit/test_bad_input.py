"""Bad input: whatever comes in is refused with a reason, kept byte for byte, and changes nothing.

Every row goes through a life, so that its entry is also evolved and decided again from the ledger.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.codec import DEPTH_MAX, Decoder, Refusal
from insurance_fund.fund.bookkeeper import Written
from insurance_fund.fund.state import snapshot_bytes
from tests.unit.life import BTCUSDT, START_MS, Life

MIB: Final = 1024 * 1024
KIB: Final = 1024
# What a refused record may change: the entry's own place. A parked one is remembered as well.
OF_EVERY_ENTRY: Final = ("sequence", "head")
OF_PARKING: Final = ("parked", "parked_keys", "deadlines", "newest_event_ms")

Kept = Literal["verbatim", "base64", "sha256", "null"]


def desk(clock: str = "wall") -> Life:
    """A liquidation with an open order, a fill, an order that ended, a trigger, a deleveraging.

    Of its 10 contracts 8 are left, 3 of them in order o1. In USDC the fund owes a shortfall.
    """
    life = Life(
        {"default": {"order_pricing": "exchange"}},
        clock=clock,
        instruments=(
            BTCUSDT,
            {**BTCUSDT, "instrument_id": "BTCUSDC", "margin_currency": "USDC"},
        ),
    )
    in_usdc = {"margin_currency": "USDC", "liquidation_id": "liq-1"}
    life.take_over("liq-1", instrument_id="BTCUSDC", margin_currency="USDC")
    life.submit("o", "44000", "10", **in_usdc)
    life.fill("10", "40000", order="o", instrument_id="BTCUSDC", **in_usdc)
    life.take_over()
    life.submit("o1", "45000", "4")
    life.submit("o0", "45000", "2")
    life.fill("1", "45100", order="o1", liquidation_id="liq-7")
    life.report("o0", "expired", "0", liquidation_id="liq-7")
    life.adl("1", name="x0")
    return life


def counter() -> Life:
    """A fund with an instrument and money in it, enough for takeovers and transfers."""
    return Life({"default": {"order_pricing": "exchange"}})


def forgetful() -> Life:
    """A life that has forgotten a liquidation and a transfer of its first millisecond."""
    life = Life({"closed_max": 1})
    for name in ("a", "b"):
        life.take_over(name)
        life.fill("10", "46000", order=f"{name}:1")
        life.deposit("1", name=f"d-{name}")
        if name == "a":
            life.now_ms += 10
    return life


def event_desk() -> Life:
    """The desk by the clock of the events."""
    return desk("event")


def message(kind: str, **fields: Any) -> dict[str, Any]:
    """The fields of a record."""
    return {
        "type": kind,
        "event_id": "e-1",
        "event_time_ms": START_MS,
        "margin_currency": "USDT",
        **fields,
    }


# One record of each type that the desk accepts as it is, with all fields, and what it comes to.
VALID: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "position_taken_over": (
        "position_taken_over",
        message(
            "position_taken_over",
            liquidation_id="liq-8",
            account_id="acc",
            instrument_id="BTCUSDT",
            position_side="long",
            quantity="10",
            entry_price="50000",
            margin="500",
            bankruptcy_price="45022.5",
            mark_price="45500",
        ),
    ),
    "liquidation_order_submitted": (
        "order_observed",
        message(
            "liquidation_order_submitted",
            liquidation_id="liq-7",
            order_id="o2",
            price="45000",
            quantity="2",
            expires_at_ms=START_MS + 30_000,
        ),
    ),
    "liquidation_order_closed": (
        "order_closed",
        message(
            "liquidation_order_closed",
            liquidation_id="liq-7",
            order_id="o1",
            reason="expired",
            filled_quantity="1",
            final=True,
        ),
    ),
    "adl_executed": (
        "adl_executed",
        message(
            "adl_executed",
            execution_id="x1",
            liquidation_id="liq-7",
            trigger_id="liq-7:adl",
            trigger_revision=1,
            quantity="1",
            price="45000",
            fee="0",
        ),
    ),
    "adl_unfilled": (
        "adl_unfilled",
        message(
            "adl_unfilled",
            liquidation_id="liq-7",
            trigger_id="liq-7:adl",
            quantity="1",
            reason="nobody there",
        ),
    ),
    "fill": (
        "fill_booked",
        message(
            "fill",
            fill_id="f2",
            liquidation_id="liq-7",
            order_id="o1",
            instrument_id="BTCUSDT",
            side="sell",
            price="45100",
            quantity="1",
            fee="0.1",
        ),
    ),
    "instrument_defined": (
        "instrument_defined",
        message(
            "instrument_defined",
            instrument_id="ETHUSDT",
            contract_type="linear",
            contract_size="0.1",
            tick_size="0.01",
            quantity_step="1",
            closing_fee_rate="0.0005",
        ),
    ),
    "fund_deposit": (
        "fund_deposited",
        message("fund_deposit", transfer_id="d2", amount="5", memo="more"),
    ),
    "fund_withdrawal": (
        "fund_withdrawn",
        message("fund_withdrawal", transfer_id="w2", amount="5", memo="less"),
    ),
    "shortfall_payment": (
        "shortfall_paid",
        message(
            "shortfall_payment",
            margin_currency="USDC",
            transfer_id="s2",
            amount="5",
            memo="what is owed",
        ),
    ),
}
AT_THE_COUNTER: Final = (
    "position_taken_over",
    "instrument_defined",
    "fund_deposit",
    "fund_withdrawal",
)
TOPIC_OF: Final = {
    "instrument_defined": topics.INSTRUMENTS,
    "fund_deposit": topics.FUND_TRANSFERS,
    "fund_withdrawal": topics.FUND_TRANSFERS,
    "shortfall_payment": topics.FUND_TRANSFERS,
    "fill": topics.FILLS,
}
OPTIONAL: Final = ("bankruptcy_price", "mark_price", "fee", "final")
NULLABLE: Final = ("bankruptcy_price", "mark_price")
TIMES: Final = ("event_time_ms", "expires_at_ms")
COUNTS: Final = (*TIMES, "trigger_revision")
POSITIVE: Final = (
    *("quantity", "entry_price", "bankruptcy_price", "mark_price", "price", "amount"),
    *("contract_size", "tick_size", "quantity_step"),
)
NOT_NEGATIVE: Final = ("margin", "filled_quantity")
AMOUNTS: Final = (*POSITIVE, *NOT_NEGATIVE, "fee", "closing_fee_rate")
COMPOUND_IDS: Final = ("order_id", "trigger_id")
IDS: Final = (
    *("event_id", "margin_currency", "liquidation_id", "account_id", "instrument_id"),
    *("execution_id", "fill_id", "transfer_id"),
)


class Case(NamedTuple):
    """A record that is refused (or parked): with which reason, and what its detail must say."""

    name: str
    topic: str
    value: bytes | None
    reason: str
    says: str
    kept: Kept
    life: Callable[[], Life]
    # What the desk takes afterwards: the same record without its fault, where there is one.
    mended: str


def topic_of(kind: str) -> str:
    return TOPIC_OF.get(kind, topics.LIQUIDATIONS)


def encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def with_token(kind: str, field: str, token: str) -> bytes:
    """The valid record of a type in which a field's value is this text, not encoded."""
    fields = {**VALID[kind][1], field: "<here>"}
    return encoded(fields).replace(b'"<here>"', token.encode())


def unreadable(
    name: str, kind: str, value: bytes | None, reason: str, says: str, kept: Kept = "base64"
) -> Case:
    """A record that is no message: kept in base64, since it could not stand in an entry."""
    topic, life = topic_of(kind), counter if kind in AT_THE_COUNTER else desk
    return Case(f"{topic}: {name}", topic, value, reason, says, kept, life, kind)


def bad_field(kind: str, field: str, token: str) -> Case:
    return unreadable(
        f"{kind} with {field} {token[:40]}",
        kind,
        with_token(kind, field, token),
        "unknown_type" if field == "type" else f"bad_{field}",
        field,
    )


def unruly(
    name: str,
    kind: str,
    reason: str,
    says: str,
    life: Callable[[], Life] = desk,
    **changes: Any,
) -> Case:
    """A message that a rule refuses: readable, so kept verbatim."""
    value = encoded({**VALID[kind][1], **changes})
    topic = topic_of(kind)
    return Case(f"{topic}: {name}", topic, value, reason, says, "verbatim", life, "fund_deposit")


def cut_records() -> Iterator[Case]:
    takeover = encoded(VALID["position_taken_over"][1])
    for end in range(len(takeover)):
        yield unreadable(
            f"takeover cut at byte {end}", "position_taken_over", takeover[:end], "not_json", "JSON"
        )
    fill = encoded(VALID["fill"][1])
    for end in range(fill.index(topics.FILLS_FILTER) + len(topics.FILLS_FILTER), len(fill)):
        yield unreadable(f"fill cut at byte {end}", "fill", fill[:end], "not_json", "JSON")


def broken_json() -> Iterator[Case]:
    for kind in ("position_taken_over", "fill"):
        valid = encoded(VALID[kind][1])
        opened = valid[:-1] + b', "x": '

        def extra(token: bytes, opened: bytes = opened) -> bytes:
            return opened + token + b"}"

        for name, value in {
            "no bytes": b"",
            "one blank": b" ",
            "nothing but an end of line": b"\n",
            "a byte order mark in front": b"\xef\xbb\xbf" + valid,
            "a second object behind": valid + valid,
            "a comma behind": valid + b",",
            "single quotes": valid.replace(b'"', b"'"),
            "UTF-16": valid.decode().encode("utf-16"),
            "NUL behind": valid + b"\0",
            "a comment": extra(b"1 /* one */"),
            "a comma before the end": valid[:-1] + b",}",
            "an unquoted key": valid.replace(b'"event_id"', b"event_id"),
            "invalid UTF-8 in a field": valid.replace(b"USDT", b"US\xffT", 1),
            "overlong UTF-8 in an unknown field": extra(b'"\xc0\xaf"'),
            "invalid UTF-8 in an unknown field": extra(b'"\xff"'),
            "cut UTF-8 in an unknown field": extra(b'"\xe2\x82"'),
            "a surrogate in UTF-8 in an unknown field": extra(b'"\xed\xa0\x80"'),
            "half a surrogate pair in an unknown field": extra(b'"\\ud800"'),
            "an unknown escape in an unknown field": extra(b'"\\x"'),
            "a raw newline in a field": valid.replace(b"USDT", b"US\nDT", 1),
            "a raw newline in an unknown field": extra(b'"a\nb"'),
            "a raw tab in an unknown field": extra(b'"a\tb"'),
            "a raw NUL in an unknown field": extra(b'"a\0b"'),
            "a raw control byte in an unknown key": opened[:-5] + b'"\x1f": 1}',
            **{
                f"{token} in an unknown field": extra(token.encode())
                for token in (
                    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", "1.", ".5", "+1"),
                    *("0x10", "1_000", "tru", "None", "nan", "--1", "1e", "\u0661"),
                )
            },
        }.items():
            yield unreadable(f"{kind} with {name}", kind, value, "not_json", "JSON")
        for name, value in {
            "10,000 levels in an unknown field": extra(b"[" * 10_000 + b"]" * 10_000),
            "10,000 levels of objects": extra(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
            "10,000 levels and nothing else": b"[" * 10_000 + b"]" * 10_000,
            "10,000 levels never closed": b"[" * 10_000,
            "a level too many in an unknown field": extra(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX),
            "a level too many beside text": extra(b'["[", ' * DEPTH_MAX + b"1" + b"]" * DEPTH_MAX),
        }.items():
            yield unreadable(f"{kind} with {name}", kind, value, "too_deep", "levels")
        for token in ("[]", "[{}]", '"text"', "5", "-0.5", "null", "true", " [1] "):
            yield unreadable(f"{token} alone", kind, token.encode(), "not_an_object", "object")
        yield unreadable("{} alone", kind, b"{}", "unknown_type", "type")
        yield unreadable("no value", kind, None, "null_value", "no value", kept="null")


def doubled_keys() -> Iterator[Case]:
    valid = encoded(VALID["fill"][1])[:-1]
    for name, behind in {
        "the same key and value": ', "price": "45100"',
        "another price": ', "price": "45101"',
        "a second type": ', "type": "fill"',
        "a second liquidation_id": ', "liquidation_id": "liq-8"',
        "an escaped spelling of the same key": ', "\\u0070rice": "45101"',
        "another escaped spelling": ', "pric\\u0065": "45100"',
        "a null for the same key": ', "price": null',
        "an unknown key twice": ', "x": 1, "x": 1',
        "a key twice within an unknown field": ', "x": {"a": 1, "a": 2}',
        "a key twice deep within an unknown field": ', "x": [[{"b": {"a": "1", "a": "2"}}]]',
        "an empty key twice": ', "": 1, "": 2',
        "a key twice beside an escaped quote": ', "x": "\\"", "x": "a"',
        "an escaped key twice within an unknown field": ', "x": {"a": 1, "\\u0061": 2}',
    }.items():
        value = (valid.decode() + behind + "}").encode()
        yield unreadable(f"fill with {name}", "fill", value, "duplicate_keys", "key stands twice")


def wrong_types() -> Iterator[Case]:
    for kind, (_, fields) in VALID.items():
        for field in fields:
            tokens = ["[]", "{}", "true", "null", "5", '["x"]']
            if field in COUNTS:
                tokens = ["[]", "{}", "true", "null", '"5"', '""', "1.5", "1e3", "1767312000000.0"]
            elif field == "final":
                tokens = ["[]", "{}", "null", "1", "0", '"true"', '"false"']
            elif field in AMOUNTS:
                tokens += ["0.5", str(2**63), str(2**64), '["1"]']
                for token in ("1e400", "NaN", "Infinity", "1_000", ".5", "01"):
                    value, name = with_token(kind, field, token), f"{kind} with {field} {token}"
                    yield unreadable(name, kind, value, "not_json", "JSON")
            if field in NULLABLE:
                tokens.remove("null")
            for token in tokens:
                yield bad_field(kind, field, token)


def missing_fields() -> Iterator[Case]:
    for kind, (_, fields) in VALID.items():
        for field in fields:
            if field in OPTIONAL:
                continue
            value = encoded({name: v for name, v in fields.items() if name != field})
            reason = "unknown_type" if field == "type" else "missing_field"
            yield unreadable(f"{kind} without {field}", kind, value, reason, field)
            extra = value[:-1] + b', "x": 1}'
            yield unreadable(f"{kind} with x in place of {field}", kind, extra, reason, field)


def wrong_texts(kind: str, field: str) -> list[str]:
    """Texts that a field refuses."""
    if field in AMOUNTS:
        texts = ["1_000", " 1 ", "1 ", "\t1", "\u0661", "\uff11", "+1", "-0", "-0.0", "01", "1."]
        texts += [".5", "", "1e3", "1E3", "NaN", "Infinity", "0x1", "1,5", "--1", "1" * 21]
        texts += [f"0.{'1' * 19}", "1\n", "\n1", "-", ".", "one", "1.0.0"]
        if field in POSITIVE:
            texts += ["0", "0.0", "-1", "-0.5"]
        elif field in NOT_NEGATIVE:
            texts += ["-1"]
        elif field == "closing_fee_rate":
            texts += ["1", "1.5", "-0.1"]
        return texts
    if field in IDS or field in COMPOUND_IDS:
        texts = ["", "a" * 65, "a\n", "\na", "a\nb", "a b", " a", "-a", ".a", "_a", "a/b", "a\r"]
        texts += ["\u00e4", "a\u0000", "\u0661", "a:", ":a", "a:b:c", "a:-b"]
        return texts + ([f"a:{'b' * 65}"] if field in COMPOUND_IDS else ["a:b"])
    if field == "memo" or (kind, field) == ("adl_unfilled", "reason"):
        return ["x" * 1001]
    if field in ("position_side", "side", "contract_type", "reason", "type"):
        return ["", "Long", "up"]
    return []


def wrong_values() -> Iterator[Case]:
    of_every_record = set(message(""))
    for kind, (_, fields) in VALID.items():
        for field in fields:
            if field in of_every_record and kind not in ("fill", "position_taken_over"):
                continue
            for text in wrong_texts(kind, field):
                yield bad_field(kind, field, json.dumps(text))
            if field in COUNTS:
                for number in (-1, 2**53, 2**63, 2**64):
                    yield bad_field(kind, field, str(number))
                huge = with_token(kind, field, str(10**400))
                yield unreadable(f"{kind} with {field} 10^400", kind, huge, "not_json", "double")
            if field == "trigger_revision":
                yield bad_field(kind, field, "0")


def wrong_topics() -> Iterator[Case]:
    for kind, (_, fields) in VALID.items():
        for topic in topics.INPUT_TOPICS:
            if topic == topic_of(kind):
                continue
            yield Case(
                f"{topic}: {kind} on the wrong topic",
                *(topic, encoded(fields), "unknown_type", f"type on topic {topic}"),
                *("base64", desk, kind),
            )


def oversized() -> Iterator[Case]:
    valid = encoded(VALID["fill"][1])[:-1]
    for name, length in {"2 MB": 2_000_000, "one byte too many": MIB + 1}.items():
        value = valid + b', "x": "' + b"y" * (length - len(valid) - 10) + b'"}'
        assert len(value) == length
        yield unreadable(name, "fill", value, "record_too_large", f"{length} bytes", kept="sha256")
    nothing = b"\xff" * 2_000_000
    yield unreadable("2 MB of 0xff", "fill", nothing, "record_too_large", "bytes", kept="sha256")


def within_the_limit() -> Iterator[Case]:
    # Only what is too large for the ledger is cut short: these are kept whole everywhere.
    valid = encoded(VALID["fill"][1])[:-1]
    for length in (64 * KIB + 1, 100_000, MIB):
        value = valid + b', "x": "' + b"\n" * (length - len(valid) - 10) + b'"}'
        yield unreadable(f"{length} bytes of no JSON", "fill", value, "not_json", "JSON")


def unruly_records() -> Iterator[Case]:
    takeover, fill, order = "position_taken_over", "fill", "liquidation_order_submitted"
    report, adl, rest = "liquidation_order_closed", "adl_executed", "adl_unfilled"
    deposit, off_step = "fund_deposit", "off_step_quantity"
    yield unruly("off-step fill", fill, off_step, "quantity 0.5", quantity="0.5")
    yield unruly("off-step takeover", takeover, off_step, "quantity 1.5", quantity="1.5")
    yield unruly("off-step order", order, off_step, "quantity 0.5", quantity="0.5")
    yield unruly("off-step report", report, off_step, "quantity 1.5", filled_quantity="1.5")
    yield unruly("off-step ADL", adl, off_step, "quantity 0.5", quantity="0.5")
    yield unruly("off-step rest", rest, off_step, "quantity 0.5", quantity="0.5")
    yield unruly("below a unit", deposit, "off_scale_amount", "amount", amount="0.0000001")
    yield unruly("wrong side", fill, "wrong_side", "not by a buy", side="buy")
    yield unruly(
        "another instrument", fill, "instrument_mismatch", "BTCUSDT", instrument_id="ETHUSDT"
    )
    for kind in VALID:
        known = {takeover: "liq-7"}.get(kind)
        if "liquidation_id" in VALID[kind][1] and known is None:
            yield unruly(
                f"{kind} in another currency",
                *(kind, "currency_mismatch", "USDT"),
                margin_currency="USDC",
            )
        yield unruly(
            f"{kind} in an unknown currency",
            *(kind, "unknown_currency", "DOGE"),
            margin_currency="DOGE",
        )
        for life, ahead_ms in ((desk, 300_001), (event_desk, 7 * 86_400_000 + 1)):
            yield unruly(
                f"{kind} {ahead_ms} ms ahead",
                *(kind, "too_far_ahead", "event_time_ms", life),
                event_time_ms=START_MS + ahead_ms,
            )
    yield unruly(
        "takeover in another currency than its instrument",
        *(takeover, "currency_mismatch", "BTCUSDT"),
        margin_currency="USDC",
    )
    yield unruly("fill beyond the residual", fill, "exceeds_residual", "residual 8", quantity="10")
    yield unruly("fill beyond its order", fill, "exceeds_order", "o1, 3", quantity="4")
    yield unruly("fill of what ADL took", fill, "overclosed_by_adl", "residual 8", quantity="9")
    yield unruly("order beyond the rest", order, "exceeds_residual", "quantity 6", quantity="6")
    yield unruly("report beyond its order", report, "exceeds_order", "5", filled_quantity="5")
    yield unruly("ADL of no trigger", adl, "unknown_trigger", "liq-7:x", trigger_id="liq-7:x")
    yield unruly("rest of no trigger", rest, "unknown_trigger", "other", trigger_id="other")
    yield unruly(
        "withdrawal of too much", "fund_withdrawal", "exceeds_available", "at most", amount="2000"
    )
    yield unruly(
        "payment of too much", "shortfall_payment", "exceeds_shortfall", "owed", amount="2000"
    )
    yield unruly(
        "another contract type",
        *("instrument_defined", "instrument_changed", "linear"),
        instrument_id="BTCUSDT",
        contract_type="inverse",
    )
    yield unruly(
        "another margin currency",
        *("instrument_defined", "instrument_changed", "USDT"),
        instrument_id="BTCUSDT",
        margin_currency="USDC",
    )
    once_more: tuple[tuple[str, str, dict[str, Any]], ...] = (
        (fill, "conflicting_duplicate", {"fill_id": "f1"}),
        (takeover, "conflicting_duplicate", {"liquidation_id": "liq-7"}),
        (takeover, "conflicting_duplicate", {"liquidation_id": "liq-1"}),
        (order, "conflicting_duplicate", {"order_id": "o1"}),
        (report, "conflicting_close", {"order_id": "o0"}),
        (adl, "conflicting_duplicate", {"execution_id": "x0", "price": "45001"}),
        (deposit, "conflicting_duplicate", {"transfer_id": "d1"}),
        ("fund_withdrawal", "conflicting_duplicate", {"transfer_id": "d1"}),
    )
    for kind, reason, changes in once_more:
        name = next(iter(changes.values()))
        yield unruly(f"{kind} {name} once more", kind, reason, name, **changes)
    for kind in (fill, takeover, order, report, adl, rest):
        yield unruly(
            f"{kind} of a forgotten time",
            *(kind, "too_old", "event_time_ms", forgetful),
            liquidation_id="a",
        )
    yield unruly("deposit of a forgotten time", deposit, "too_old", "event_time_ms", forgetful)
    closed: dict[str, Any] = {"margin_currency": "USDC", "liquidation_id": "liq-1"}
    for kind, reason in (
        (fill, "exceeds_residual"),
        (order, "exceeds_residual"),
        (report, "exceeds_residual"),
        (adl, "no_residual"),
        (rest, "no_residual"),
    ):
        yield unruly(f"{kind} of a closed liquidation", kind, reason, "liq-1 is closed", **closed)


def early_records() -> Iterator[Case]:
    early: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("position_taken_over", {"instrument_id": "ETHUSDT"}, "instrument:ETHUSDT"),
        ("fill", {"liquidation_id": "liq-9"}, "order:liq-9/o1"),
        ("fill", {"order_id": "o9"}, "order:liq-7/o9"),
        ("liquidation_order_submitted", {"liquidation_id": "liq-9"}, "liquidation:liq-9"),
        ("liquidation_order_closed", {"order_id": "liq-7:9"}, "order:liq-7/liq-7:9"),
        ("adl_executed", {"liquidation_id": "liq-9"}, "liquidation:liq-9"),
        ("adl_unfilled", {"liquidation_id": "liq-9"}, "liquidation:liq-9"),
    )
    for kind, changes, awaits in early:
        yield unruly(f"{kind} awaits {awaits}", kind, "parked", awaits, **changes)


def every_row() -> list[Case]:
    return [
        *cut_records(),
        *broken_json(),
        *doubled_keys(),
        *wrong_types(),
        *missing_fields(),
        *wrong_values(),
        *wrong_topics(),
        *oversized(),
        *within_the_limit(),
        *unruly_records(),
        *early_records(),
    ]


def picture(life: Life, *without: str) -> dict[str, Any]:
    """Return the whole state as plain values, without some of its fields."""
    state: dict[str, Any] = json.loads(snapshot_bytes(life.state))
    return {name: value for name, value in state.items() if name not in without}


def strict_json(line: bytes) -> dict[str, Any]:
    """Parse an entry as strictly as a stranger may; it must be one line."""

    def no_constant(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    assert min(line) >= 0x20, "a control byte stands raw in the entry"
    parsed: dict[str, Any] = json.loads(
        line.decode(), parse_constant=no_constant, object_pairs_hook=no_key_twice
    )
    return parsed


def assert_bytes_are_kept(written: Written, value: bytes | None, kept: Kept) -> None:
    """Hold the entry to the record's bytes: verbatim, in base64, or as hash and length."""
    cause = strict_json(written.line)["cause"]
    ways = {name for name in cause if name.startswith("record")}
    match kept:
        case "null":
            assert ways == {"record"}
            assert (value, cause["record"]) == (None, None)
        case "verbatim":
            assert ways == {"record"}
            assert value is not None
            assert b'"record":' + value + b',"timestamp_ms":' in written.line
        case "base64":
            assert ways == {"record_base64"}
            assert base64.b64decode(cause["record_base64"], validate=True) == value
        case "sha256":
            assert ways == {"record_sha256", "record_bytes"}
            assert cause["record_sha256"] == hashlib.sha256(value or b"").hexdigest()
            assert cause["record_bytes"] == len(value or b"")


def assert_dead_letter(written: Written, case: Case, offset: int) -> None:
    """The one message that goes out: where the record stood, why it was refused, its bytes."""
    (sent,) = written.messages
    letter, (listed,) = json.loads(sent.value), written.entry.emitted
    (effect,) = written.entry.effects
    assert isinstance(effect, fx.Rejected)
    assert sent.topic == listed.topic == topics.DEAD_LETTERS
    assert listed.sha256 == hashlib.sha256(sent.value).hexdigest()
    assert letter["type"] == "dead_letter"
    assert (letter["ledger"], letter["sequence"]) == ("main", written.entry.sequence)
    for where in (letter, json.loads(written.line)["effects"][0]):
        assert (where["topic"], where["partition"], where["offset"]) == (case.topic, 0, offset)
        assert (where["reason"], where["detail"]) == (effect.reason, effect.detail)
    if case.value is None:
        assert letter["value_base64"] is None
    else:
        carried = base64.b64decode(letter["value_base64"], validate=True)
        whole = case.kept != "sha256"
        assert carried == (case.value if whole else case.value[: 64 * KIB])


@pytest.mark.parametrize("case", every_row(), ids=lambda case: case.name)
def test_bad_record_is_refused_for_its_reason_keeps_its_bytes_and_changes_nothing(
    case: Case,
) -> None:
    life = case.life()
    changed = OF_EVERY_ENTRY + (OF_PARKING if case.reason == "parked" else ())
    before, parked, lines = picture(life, *changed), set(life.state.parked), len(life.lines)

    written = life.raw(case.topic, case.value)

    assert len(life.lines) == lines + 1
    assert picture(life, *changed) == before
    assert not written.entry.postings
    assert_bytes_are_kept(written, case.value, case.kept)
    (effect,) = written.entry.effects
    if case.reason == "parked":
        assert isinstance(effect, fx.RecordParked)
        assert effect.awaits == case.says
        assert base64.b64decode(effect.value_base64) == case.value
        assert set(life.state.parked) - parked == {f"{case.topic}:0:{life.offsets}"}
        assert not written.messages
    else:
        assert isinstance(effect, fx.Rejected), life.kinds()
        assert effect.reason == case.reason
        assert case.says in effect.detail
        assert effect.detail.isprintable()
        assert_dead_letter(written, case, life.offsets)

    taken, fields = VALID[case.mended]
    then = {**fields, "event_time_ms": life.now_ms}
    life.raw(topic_of(case.mended), encoded(then))
    assert life.kinds()[0] == taken


@pytest.mark.parametrize("kind", VALID)
def test_record_that_the_rows_are_made_of_is_taken_as_it_is(kind: str) -> None:
    taken, fields = VALID[kind]
    life, value = desk(), encoded(fields)
    written = life.raw(topic_of(kind), value)
    assert life.kinds()[0] == taken
    assert_bytes_are_kept(written, value, "verbatim")
    assert not [m for m in written.messages if m.topic == topics.DEAD_LETTERS]


def allowed_fills() -> Iterator[tuple[str, bytes, Kept]]:
    valid = encoded(VALID["fill"][1])
    levels = DEPTH_MAX - 1
    for token in (
        *(str(2**63), str(2**64), str(-(2**64)), str(10**300), "1e308", "1E-400", "-0", "-0.0"),
        *('"\\u0000"', '"\\n"', '"\\ud83d\\ude00"', '"\u00e4"', '"/\\/"', "null", "{}", '"1_000"'),
        *('{"price": "1"}', '[{"a": 1}, {"a": 2}]', "[" * levels + "]" * levels),
        *(f"[{'[],' * 99}[]]", f'"{"[{" * 99}"', f'["\\"{"[" * 99}", "\\\\", "{"[" * 99}"]'),
    ):
        value = valid[:-1] + f', "x": {token}}}'.encode()
        yield f"an unknown field {token[:40]}", value, "verbatim"
    yield "an unknown key of escapes", valid[:-1] + b', "\\u0000\\n": 1}', "verbatim"
    yield "an escaped key", valid.replace(b'"price"', b'"\\u0070rice"'), "verbatim"
    yield "an escaped id", valid.replace(b'"f2"', b'"\\u0066\\u0032"'), "verbatim"
    yield "zeros behind", valid.replace(b'"45100"', b'"45100.000"'), "verbatim"
    yield "blanks between", valid.replace(b": ", b"  :   "), "verbatim"
    yield "lines between", json.dumps(VALID["fill"][1], indent=2).encode(), "base64"
    yield "tabs between", valid.replace(b": ", b":\t"), "base64"
    yield "a carriage return between", valid.replace(b": ", b":\r"), "base64"
    yield "a blank in front", b" " + valid, "base64"
    yield "an end of line behind", valid + b"\n", "base64"
    padding = b"y" * (MIB - len(valid) - 9)
    yield "exactly 1 MiB", valid[:-1] + b', "x": "' + padding + b'"}', "verbatim"


@pytest.mark.parametrize(
    ("value", "kept"), [pytest.param(value, kept, id=name) for name, value, kept in allowed_fills()]
)
def test_what_is_allowed_is_taken_and_kept_byte_for_byte(value: bytes, kept: Kept) -> None:
    life, plain = desk(), desk()
    plain.raw(topics.FILLS, encoded(VALID["fill"][1]))
    written = life.raw(topics.FILLS, value)
    assert written.entry.effects == plain.last.entry.effects
    assert written.entry.postings == plain.last.entry.postings
    assert_bytes_are_kept(written, value, kept)


@pytest.mark.parametrize("levels", [1, DEPTH_MAX - 1, DEPTH_MAX, 500, 900, 950, 980, 1000, 1024])
def test_nested_record_is_decided_alike_however_deep_the_caller_stands(levels: int) -> None:
    value = encoded(VALID["fill"][1])[:-1] + b', "x": ' + b"[" * levels + b"]" * levels + b"}"

    def decided(callers: int) -> str:
        if callers:
            return decided(callers - 1)
        return repr(Decoder().decode(topics.FILLS, value))

    assert decided(100) == decided(0)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"[" * 40 + b'"' + b'\\"' * 20_000, id="escaped quotes without an end"),
        pytest.param(b"[" * 40 + b'"\\' * 20_000, id="quotes and escapes without an end"),
        pytest.param(b'{"a":' * 8_000, id="objects without an end"),
        pytest.param(b'"' * 40_000, id="quotes"),
        pytest.param(b"\\" * 40_000, id="escapes"),
        pytest.param(encoded(message("fill", price="0" * 40_000)), id="an amount of zeros"),
        pytest.param(encoded(message("fill", price="0." * 20_000)), id="an amount of points"),
        pytest.param(encoded(message("fill", fill_id="a" * 40_000)), id="a long id"),
        pytest.param(b"1" * 40_000, id="a long number"),
        pytest.param(b'{"x": ' + b"1" * 40_000 + b"}", id="a long number in an unknown field"),
    ],
)
def test_record_that_was_made_to_be_slow_is_refused_at_once(value: bytes) -> None:
    began_s = time.process_time()
    assert isinstance(Decoder().decode(topics.FILLS, value), Refusal)
    # Linear work takes some milliseconds; what grows with the square takes seconds here, and hours
    # for a record of 1 MiB.
    assert time.process_time() - began_s < 1
