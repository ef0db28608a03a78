"""Early, duplicate, old and far records (docs/rules.md section 5)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import InputCause
from insurance_fund.fund.bookkeeper import Written
from tests.unit.life import BTCUSDT, START_MS, Life


def record_bytes(written: Written) -> bytes | None:
    """Return the bytes of the record that an entry is about."""
    assert isinstance(written.entry.cause, InputCause)
    return written.entry.cause.value()


def test_early_records_are_taken_in_order_of_arrival_when_they_become_possible() -> None:
    life = Life(instruments=())
    life.fill("6", name="f2")
    life.fill("4", name="f1")
    life.take_over()
    assert life.kinds() == ["record_parked"]
    assert life.only(fx.RecordParked).awaits == "instrument:BTCUSDT"
    life.send("instruments", "instrument_defined", **BTCUSDT)
    assert life.kinds() == [
        "instrument_defined",
        "position_taken_over",
        "order_issued",
        "compensation_reserved",
        "fill_booked",
        "fill_booked",
        "order_closed",
        "liquidation_closed",
    ]
    fills = [e.fill_id for e in life.last.entry.effects if isinstance(e, fx.FillBooked)]
    assert fills == ["f2", "f1"]
    assert not life.state.parked
    assert not life.state.parked_keys


def test_parked_record_expires_into_the_dead_letters_and_may_be_sent_again() -> None:
    life = Life()
    life.fill("4")
    assert life.wait(3_599_999) == []
    (taken,) = life.wait(1)
    assert life.only(fx.ParkedExpired, taken).reason == "parked_expired"
    (letter,) = life.sent(taken)
    assert letter["type"] == "dead_letter"
    assert letter["reason"] == "parked_expired"
    life.fill("4")
    assert life.kinds() == ["record_parked"]


def test_full_park_gives_up_the_oldest() -> None:
    life = Life({"parked_max": 2})
    for number in range(3):
        life.fill("1", name=f"f{number}")
    assert life.kinds() == ["parked_expired", "record_parked"]
    assert life.only(fx.ParkedExpired).reason == "parked_full"
    assert len(life.state.parked) == 2


def test_keys_of_parked_records_count_while_parked() -> None:
    life = Life()
    life.fill("4")
    life.fill("4.0")
    assert life.kinds() == ["duplicate_ignored"]
    life.fill("5")
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"


def test_parked_record_that_turns_out_wrong_is_rejected_with_its_own_bytes() -> None:
    life = Life()
    life.fill("11")
    life.take_over()
    rejected = life.only(fx.Rejected)
    assert (rejected.reason, rejected.topic, rejected.offset) == ("exceeds_residual", "fills", 3)
    letters = [m for m in life.sent() if m["type"] == "dead_letter"]
    assert [letter["offset"] for letter in letters] == [3]


def test_fill_of_an_order_that_is_not_known_yet_is_parked() -> None:
    life = Life({"default": {"order_pricing": "exchange"}})
    life.take_over()
    life.fill("4", order="o1", liquidation_id="liq-7")
    assert life.only(fx.RecordParked).awaits == "order:liq-7/o1"
    life.submit("o1", "44000", "10")
    assert life.kinds() == ["order_observed", "compensation_reserved", "fill_booked"]


@pytest.mark.parametrize("field", ["event_id", "event_time_ms"])
def test_same_content_is_known_fields_but_event_id_and_time(field: str) -> None:
    life = Life()
    life.take_over()
    life.fill("4", "44700", fee="0")
    again: dict[str, Any] = {"event_id": "other", "event_time_ms": START_MS + 1}
    life.fill("4.00", "44700.0", **{field: again[field]})
    assert life.kinds() == ["duplicate_ignored"]


def test_rejected_keys_are_not_remembered() -> None:
    life = Life()
    life.take_over()
    life.fill("11")
    assert life.kinds() == ["rejected"]
    life.fill("4")
    assert life.kinds() == ["fill_booked"]


def test_closed_ids_are_kept_in_a_ring_and_older_records_are_too_old() -> None:
    life = Life({"closed_max": 1})
    life.take_over("a")
    life.fill("10", "46000", order="a:1")
    life.now_ms += 10
    life.take_over("b")
    life.fill("10", "46000", order="b:1")
    assert life.only(fx.IdsForgotten).liquidations == ("a",)
    assert list(life.state.closed) == ["b"]
    life.take_over("a", event_time_ms=START_MS)
    assert life.only(fx.Rejected).reason == "too_old"
    life.fill("10", "46000", order="a:1", event_time_ms=START_MS)
    assert life.only(fx.Rejected).reason == "too_old"
    life.take_over("b", event_time_ms=START_MS)
    assert life.kinds() == ["duplicate_ignored"]


def test_record_far_ahead_is_rejected_live_and_by_event_time() -> None:
    life = Life()
    life.take_over(event_time_ms=START_MS + 300_000)
    assert life.kinds()[0] == "position_taken_over"
    life.take_over("b", event_time_ms=START_MS + 300_001)
    assert life.only(fx.Rejected).reason == "too_far_ahead"
    recorded = Life(clock="event")
    week_ms = 7 * 86_400_000
    recorded.take_over(event_time_ms=START_MS + week_ms)
    assert recorded.kinds()[0] == "position_taken_over"
    recorded.take_over("b", event_time_ms=START_MS + 2 * week_ms + 1)
    assert recorded.only(fx.Rejected).reason == "too_far_ahead"


def test_transfers_are_known_by_their_id_and_withdrawals_stop_at_the_floor() -> None:
    life = Life({"currencies": {"USDT": {"scale": 2, "floor": "400"}}})
    life.deposit("1000.00")
    assert life.kinds() == ["duplicate_ignored"]
    life.deposit("1001")
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"
    life.transfer("fund_withdrawal", "600.01", "w1")
    assert life.only(fx.Rejected).reason == "exceeds_available"
    life.transfer("fund_withdrawal", "0.001", "w1")
    assert life.only(fx.Rejected).reason == "off_scale_amount"
    life.transfer("fund_withdrawal", "600", "w1")
    assert life.kinds() == ["fund_withdrawn"]


def test_instrument_terms_change_for_later_takeovers_only() -> None:
    life = Life()
    life.take_over()
    life.send("instruments", "instrument_defined", **BTCUSDT)
    assert life.kinds() == ["duplicate_ignored"]
    life.send("instruments", "instrument_defined", **{**BTCUSDT, "tick_size": "1"})
    assert life.kinds() == ["instrument_defined"]
    assert life.state.liquidations["liq-7"].terms.tick_size == "0.1"
    life.take_over("liq-8")
    assert life.only(fx.OrderIssued).price == "44573"
    life.send("instruments", "instrument_defined", **{**BTCUSDT, "contract_type": "quanto"})
    assert life.only(fx.Rejected).reason == "instrument_changed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"side": "buy"}, "wrong_side"),
        ({"instrument_id": "ETHUSDT"}, "instrument_mismatch"),
        ({"margin_currency": "USDC"}, "currency_mismatch"),
        ({"margin_currency": "DOGE"}, "unknown_currency"),
        ({"quantity": "0.5"}, "off_step_quantity"),
        ({"quantity": "11"}, "exceeds_residual"),
    ],
)
def test_wrong_fill_is_rejected_with_its_reason_and_changes_nothing(
    changes: dict[str, str], reason: str
) -> None:
    life = Life()
    life.take_over()
    before = life.available(), life.reserved()
    quantity = changes.pop("quantity", "1")
    life.fill(quantity, **changes)
    rejected = life.only(fx.Rejected)
    assert rejected.reason == reason
    assert rejected.detail
    assert (life.available(), life.reserved()) == before


def test_fill_beyond_its_order_is_rejected_where_the_residual_would_allow_it() -> None:
    life = Life({"default": {"order_pricing": "exchange"}})
    life.take_over()
    life.submit("o1", "44900", "4")
    life.fill("5", "44950", order="o1", liquidation_id="liq-7")
    assert life.only(fx.Rejected).reason == "exceeds_order"


@pytest.mark.parametrize("early", ["fill", "report"])
def test_record_of_an_unknown_order_waits_for_it_through_the_takeover(early: str) -> None:
    life = Life({"default": {"order_pricing": "exchange"}})
    if early == "fill":
        life.fill("4", "45100", order="o1", liquidation_id="liq-7")
    else:
        life.report("o1", "expired", "0", liquidation_id="liq-7")
    assert life.only(fx.RecordParked).awaits == "order:liq-7/o1"
    life.take_over()
    assert life.kinds() == ["position_taken_over"]
    assert len(life.state.parked) == 1
    life.submit("o1", "45000", "10")
    expected = "fill_booked" if early == "fill" else "order_closed"
    assert life.kinds()[2] == expected
    assert not life.state.parked


def test_fill_of_an_order_that_never_was_is_refused_when_its_liquidation_closes() -> None:
    life = Life()
    life.fill("4", order="liq-7:2")
    life.take_over()
    assert len(life.state.parked) == 1
    life.fill("10", "46000", name="f2")
    assert life.only(fx.Rejected).reason == "exceeds_residual"
    assert not life.state.parked


def test_early_record_that_is_too_large_to_keep_waiting_is_refused() -> None:
    life = Life()
    life.fill("4", note="x" * 20_000)
    rejected = life.only(fx.Rejected)
    assert rejected.reason == "early_and_too_large"
    assert not life.state.parked
    life.take_over()
    life.fill("4", note="x" * 20_000)
    assert life.kinds() == ["fill_booked"]


def test_dead_letter_of_an_ordinary_record_carries_all_its_bytes() -> None:
    life = Life()
    life.take_over()
    life.fill("4.5", note="x" * 100_000)
    (letter,) = life.sent()
    assert base64.b64decode(letter["value_base64"]) == record_bytes(life.last)


def test_position_whose_prices_nobody_could_write_is_refused() -> None:
    life = Life()
    life.send("instruments", "instrument_defined", **{**BTCUSDT, "quantity_step": "0.000001"})
    life.take_over(
        position_side="short", quantity="0.000001", entry_price="50000", margin="10000000000000"
    )
    assert life.only(fx.Rejected).reason == "out_of_range"
    life.take_over(quantity="99999999999999999999", entry_price="99999999999999999999")
    assert life.only(fx.Rejected).reason == "out_of_range"


def test_acknowledgement_of_a_closed_liquidation_is_compared_with_the_order() -> None:
    life = Life()
    life.take_over()
    sent = life.only(fx.OrderIssued)
    life.fill("10", "46000")
    life.submit("liq-7:1", f"{sent.price}00", "10.0")
    assert life.kinds() == ["duplicate_ignored"]
    life.submit("liq-7:1", "1", "10")
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"


def test_amounts_that_are_recorded_as_given_lose_their_trailing_zeros() -> None:
    life = Life()
    life.take_over(mark_price="44000.00", bankruptcy_price="45000.50")
    taken = life.only(fx.PositionTakenOver)
    assert (taken.mark_price, taken.bankruptcy_price_given) == ("44000", "45000.5")
    life.fill("4", "44700.50", fee="0.89412345670")
    booked = life.only(fx.FillBooked)
    assert (booked.price, booked.fee, booked.fee_given) == ("44700.5", "0.894124", "0.8941234567")


def test_oldest_record_that_has_become_possible_is_always_taken_next() -> None:
    life = Life(instruments=())
    life.fill("4", order="a:1", name="f1")
    life.take_over("a")
    life.take_over("b")
    life.send("instruments", "instrument_defined", **BTCUSDT)
    about = [(type(e).__name__, getattr(e, "liquidation_id", "")) for e in life.last.entry.effects]
    assert [one for one in about if one[0] in ("PositionTakenOver", "FillBooked")] == [
        ("PositionTakenOver", "a"),
        ("FillBooked", "a"),
        ("PositionTakenOver", "b"),
    ]


def test_what_was_parked_is_taken_before_its_liquidation_is_forgotten() -> None:
    life = Life({"closed_max": 1}, instruments=())
    life.take_over("a")
    life.take_over("b")
    life.fill("10", "46000", order="a:1", name="f1")
    life.fill("10", "46000", order="b:1", name="f2")
    life.fill("1", "46000", order="a:zzz", name="f9", event_time_ms=START_MS + 1)
    life.send("instruments", "instrument_defined", **BTCUSDT)
    assert life.only(fx.Rejected).reason == "exceeds_residual"
    assert life.kinds()[-1] == "ids_forgotten"
    assert life.only(fx.IdsForgotten).liquidations == ("a",)
    assert not life.state.parked


def test_lowered_limits_let_go_of_all_that_is_too_much() -> None:
    life = Life({"closed_max": 50})
    for number in range(10):
        life.deposit("1", name=f"t{number}")
    life.set_policy({"closed_max": 3, "parked_max": 2})
    life.deposit("1", name="last")
    assert list(life.state.transfers) == ["t8", "t9", "last"]
    for number in range(4):
        life.fill("1", name=f"f{number}")
    assert len(life.state.parked) == 2


def test_refusal_of_a_letter_that_newer_versions_print_is_written_in_ascii() -> None:
    life = Life()
    life.deposit("\u1c89", name="d2")
    assert life.only(fx.Rejected).detail.endswith("got '\\u1c89'")
