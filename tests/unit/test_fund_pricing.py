"""Orders that the fund prices: attempts, caps, reservation, fills, ends (docs/rules.md 3 to 5)."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from insurance_fund.events import effects as fx
from tests.unit.life import ETHUSD, XBTUSD, Life

TWO_ATTEMPTS = {"default": {"attempts": [["0", 5000], ["0.01", 25000]]}}


def test_worked_entry_of_the_rules() -> None:
    life = Life()
    life.take_over()
    order = life.only(fx.OrderIssued)
    assert order.bankruptcy_price is not None
    assert order.bankruptcy_price.startswith("45022.511")
    assert (order.price, order.compensation, order.reserved) == ("44572.3", "45", "44.998615")
    assert order.expires_at_ms == life.now_ms + 30_000
    life.fill("4", "44700", fee="0.894")
    booked = life.only(fx.FillBooked)
    assert (booked.pnl, booked.fee, booked.delta) == ("-212", "0.894", "-12.894")
    assert booked.reserved_delta == "-17.999446"
    assert life.last.entry.postings == {
        "fees:USDT": "0.894",
        "fund:USDT:available": "5.105446",
        "fund:USDT:reserved": "-17.999446",
        "liquidation:USDT:liq-7": "-200",
        "market:USDT": "212",
    }


def test_takeover_sends_one_order_for_the_whole_position() -> None:
    life = Life()
    (order,) = life.sent(life.take_over())
    assert order["type"] == "liquidation_order"
    assert order["order_id"] == "liq-7:1"
    assert (order["order_side"], order["quantity"], order["attempt"]) == ("sell", "10", 1)
    assert (order["binding_cap"], order["compensation"]) == ("price_concession", "45")
    assert order["sequence"] == life.last.entry.sequence


def test_gain_goes_into_the_fund_and_frees_the_reservation() -> None:
    life = Life()
    life.take_over()
    life.fill("10", "46000")
    closed = life.only(fx.LiquidationClosed)
    assert (closed.outcome, closed.delta) == ("better_than_bankruptcy", "100")
    assert (life.available(), life.reserved()) == (D(1100), D(0))


def test_loss_is_compensated_and_the_liquidation_closes_at_exactly_m_plus_b_minus_phi() -> None:
    life = Life()
    life.take_over()
    life.fill("10", "44600", fee="2.23")
    closed = life.only(fx.LiquidationClosed)
    assert (closed.outcome, closed.pnl, closed.delta) == ("compensated", "-540", "-42.23")
    assert life.available() == D("957.77")


def test_no_fill_at_the_limit_lowers_available_by_more_than_a_unit() -> None:
    life = Life()
    life.take_over()
    before = life.available()
    for number in range(5):
        life.fill("2", "44572.3", name=f"f{number}", fee="0.445723")
        assert life.available() >= before - D("0.000001")
        before = life.available()


def test_last_fill_closes_its_order_and_the_liquidation_in_its_own_entry() -> None:
    life = Life()
    life.take_over()
    life.fill("10")
    assert life.kinds() == ["fill_booked", "order_closed", "liquidation_closed"]
    life.report("liq-7:1", "filled", "10")
    assert life.kinds() == ["duplicate_ignored"]
    life.report("liq-7:1", "filled", "9")
    assert life.only(fx.Rejected).reason == "conflicting_close"


def test_expired_order_becomes_one_trigger_for_exactly_what_is_unfilled() -> None:
    life = Life()
    life.take_over()
    life.fill("4")
    life.report("liq-7:1", "expired", "4")
    assert life.kinds() == ["order_closed", "reservation_released", "adl_triggered"]
    (trigger,) = life.sent()
    assert (trigger["quantity"], trigger["revision"]) == ("6", 1)
    assert (trigger["reason"], trigger["price_basis"]) == ("order_expired", "bankruptcy_price")
    assert trigger["price"] == "45000"
    assert trigger["evidence"]["order_price"] == "44572.3"
    assert life.reserved() == 0


def test_adl_price_has_the_adl_fee_in_place_of_the_closing_fee() -> None:
    life = Life({"default": {"adl_fee_rate": "0.001"}})
    life.take_over()
    life.report("liq-7:1", "expired", "0")
    # (50000 - 5000) / (1 - 0.001) = 45045.045..., up to the tick for a sell
    assert life.only(fx.AdlTriggered).price == "45045.1"


def test_second_attempt_decides_anew_for_the_residual() -> None:
    life = Life(TWO_ATTEMPTS)
    life.take_over()
    first = life.only(fx.OrderIssued)
    assert (first.price, first.compensation) == ("45022.6", "0")
    life.fill("4", "45100")
    life.report("liq-7:1", "expired", "4")
    second = life.only(fx.OrderIssued)
    assert (second.order_id, second.quantity, second.step) == ("liq-7:2", "6", 1)
    # 1 % of 6/10 of the position's value at bankruptcy before the fee: 0.01 x 4500 x 0.6
    assert second.compensation == "27"
    assert second.expires_at_ms == life.now_ms + 25_000
    life.report("liq-7:2", "cancelled", "0")
    assert life.only(fx.AdlTriggered).reason == "order_cancelled"


def test_rejected_attempt_is_repeated_once() -> None:
    life = Life(TWO_ATTEMPTS)
    life.take_over()
    steps = []
    for number in range(1, 5):
        life.report(f"liq-7:{number}", "rejected", "0")
        steps += [e.step for e in life.last.entry.effects if isinstance(e, fx.OrderIssued)]
    assert steps == [0, 1, 1]
    assert life.only(fx.AdlTriggered).reason == "order_rejected"


def test_order_without_a_report_is_dead_at_expiry_plus_grace() -> None:
    life = Life()
    life.take_over()
    assert life.wait(31_999) == []
    (taken,) = life.wait(1)
    assert life.kinds(taken) == ["order_closed", "adl_triggered"]
    assert life.only(fx.AdlTriggered, taken).reason == "deadline"
    # The reservation is held: fills may still show.
    assert life.reserved() == D("44.998615")


def test_late_fill_shrinks_the_trigger_and_is_paid_from_its_held_reservation() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.fill("4", "44600")
    assert life.kinds() == ["fill_booked", "adl_reduced"]
    reduced = life.only(fx.AdlReduced)
    assert (reduced.quantity, reduced.revision) == ("6", 2)
    assert life.only(fx.FillBooked).reserved_delta == "-17.999446"


def test_hold_ends_after_ten_minutes_and_is_not_reserved_again() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    assert life.wait(599_999) == []
    (taken,) = life.wait(1)
    assert life.only(fx.ReservationReleased, taken).cause == "hold_over"
    assert (life.reserved(), life.available()) == (D(0), D(1000))
    life.fill("4", "44600")
    assert life.only(fx.FillBooked).reserved_delta == "0"


def test_late_report_replaces_our_assumption_and_fills_are_awaited() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.report("liq-7:1", "expired", "7")
    assert life.only(fx.AdlReduced).quantity == "3"
    # What is awaited keeps its reservation, the rest of it is released.
    assert life.reserved() == D("31.499031")
    (missing,) = life.wait(60_000)
    assert life.only(fx.FillsMissing, missing).awaited == "7"
    life.fill("7", "44600")
    assert life.only(fx.FillBooked).residual == "3"
    assert life.kinds() == ["fill_booked"]


def test_late_report_of_all_filled_cancels_the_trigger() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.report("liq-7:1", "filled", "10")
    cancelled = life.only(fx.AdlCancelled)
    assert (cancelled.quantity, cancelled.revision) == ("0", 2)


def test_first_report_wins() -> None:
    life = Life()
    life.take_over()
    life.report("liq-7:1", "expired", "4")
    life.report("liq-7:1", "expired", "4", event_id="again")
    assert life.kinds() == ["duplicate_ignored"]
    life.report("liq-7:1", "expired", "5")
    assert life.only(fx.Rejected).reason == "conflicting_close"


def test_acknowledgement_of_our_order_is_ignored_and_another_price_is_a_conflict() -> None:
    life = Life()
    life.take_over()
    life.submit("liq-7:1", "44572.30", "10")
    assert life.kinds() == ["duplicate_ignored"]
    life.submit("liq-7:1", "44572.4", "10")
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"
    life.submit("other", "44572.4", "10")
    assert life.only(fx.Rejected).reason == "unexpected_order"


@pytest.mark.parametrize(
    ("deposit", "policy", "cap", "granted"),
    [
        ("30", {"default": {"instrument_share": "1"}}, "fund", "30"),
        ("1000", {"default": {"liquidation_limit": "20"}}, "per_liquidation", "20"),
        ("100", {}, "per_instrument", "30"),
        ("1000", {}, "price_concession", "45"),
        (
            "50",
            {
                "currencies": {"USDT": {"scale": 6, "floor": "40"}},
                "default": {"instrument_share": "1"},
            },
            "fund",
            "10",
        ),
    ],
)
def test_least_cap_binds_and_prices_the_order(
    deposit: str, policy: dict[str, object], cap: str, granted: str
) -> None:
    life = Life(policy, deposit=deposit)
    life.take_over()
    reserved = life.only(fx.CompensationReserved)
    assert (reserved.binding_cap, reserved.granted) == (cap, granted)
    assert D(reserved.reserved) <= D(granted)


def test_no_compensation_still_sends_an_order_at_the_bankruptcy_price() -> None:
    life = Life(deposit=None)
    life.take_over()
    order = life.only(fx.OrderIssued)
    assert (order.price, order.compensation, order.binding_cap) == ("45022.6", "0", "fund")


def test_two_orders_never_hold_the_same_money() -> None:
    life = Life({"default": {"instrument_share": "1"}}, deposit="60")
    life.take_over("a")
    life.take_over("b")
    second = life.only(fx.CompensationReserved)
    assert second.binding_cap == "fund"
    assert second.granted == str(D(60) - D("44.998615"))
    assert life.available() >= 0


def test_shortfall_when_the_fund_is_exhausted_and_its_repayment() -> None:
    life = Life({"default": {"instrument_share": "1"}}, deposit="10")
    life.take_over()
    life.fill("5", "44000", name="f1")
    booked = life.only(fx.FillBooked)
    assert booked.flags == ("limit_violated",)
    assert (booked.delta, booked.shortfall_delta) == ("-50", "-40")
    assert life.available() == life.reserved() == 0
    life.fill("5", "45600", name="f2")
    assert life.only(fx.FillBooked).shortfall_delta == "30"
    assert life.state.funds["USDT"].shortfall == D(-10)
    life.transfer("shortfall_payment", "10.5", "p1")
    assert life.only(fx.Rejected).reason == "exceeds_shortfall"
    life.transfer("shortfall_payment", "10", "p2")
    assert life.last.entry.postings == {"shortfall:USDT": "10", "treasury:USDT": "-10"}


def test_draw_beyond_what_is_freed_takes_available_then_the_kept_reservation() -> None:
    life = Life({"default": {"instrument_share": "1"}}, deposit="45")
    life.take_over()
    assert life.available() == D("0.001385")
    life.fill("2", "43500")
    booked = life.only(fx.FillBooked)
    # 30 to pay: 8.999723 freed, 0.001385 available, the rest from what the order kept
    assert (booked.delta, booked.shortfall_delta) == ("-30", "0")
    assert life.available() == 0
    assert life.reserved() == D(15)


def test_fee_above_the_rate_is_booked_and_flagged_and_a_rebate_is_a_gain() -> None:
    life = Life()
    life.take_over()
    life.fill("1", "45000", name="f1", fee="0.225002")
    assert life.only(fx.FillBooked).flags == ("fee_above_rate",)
    life.fill("1", "45000", name="f2", fee="-0.1")
    assert life.only(fx.FillBooked).delta == "0.1"


def test_fee_finer_than_the_scale_is_rounded_up_and_margin_down() -> None:
    life = Life()
    life.take_over(margin="500.0000009")
    assert life.only(fx.PositionTakenOver).margin == "500"
    life.fill("1", "45000", fee="0.0000001")
    booked = life.only(fx.FillBooked)
    assert (booked.fee, booked.fee_given) == ("0.000001", "0.0000001")
    life.fill("1", "45000", fee="0.0000001", event_id="again")
    assert life.kinds() == ["duplicate_ignored"]


def test_long_whose_margin_covers_everything_is_sold_from_one_tick() -> None:
    life = Life()
    life.take_over(margin="6000")
    order = life.only(fx.OrderIssued)
    assert (order.price, order.compensation) == ("0.1", "0")
    life.report("liq-7:1", "expired", "0")
    trigger = life.only(fx.AdlTriggered)
    assert (trigger.price, trigger.price_basis) == ("0.1", "order_price")


def test_short_whose_bankruptcy_price_is_below_a_tick_goes_to_adl_without_an_order() -> None:
    life = Life()
    life.take_over(position_side="short", entry_price="0.05", margin="0")
    assert life.kinds() == ["position_taken_over", "adl_triggered"]
    trigger = life.only(fx.AdlTriggered)
    assert (trigger.reason, trigger.price, trigger.quantity) == ("no_order", "0.1", "10")
    assert trigger.evidence.order_id is None


@pytest.mark.parametrize(("mark", "limit"), [("50100", "100200"), (None, "100000")])
def test_inverse_short_without_a_bankruptcy_price_has_twice_the_mark_as_limit(
    mark: str | None, limit: str
) -> None:
    life = Life(instruments=(XBTUSD,), deposit=None)
    life.take_over(
        instrument_id="XBTUSD",
        margin_currency="XBT",
        position_side="short",
        quantity="1000",
        margin="0.03",
        mark_price=mark,
    )
    order = life.only(fx.OrderIssued)
    assert (order.bankruptcy_price, order.price, order.compensation) == (None, limit, "0")


def test_inverse_values_are_rounded_once_against_the_fund() -> None:
    life = Life(instruments=(XBTUSD,), deposit=None)
    life.deposit("1", "XBT")
    life.take_over(instrument_id="XBTUSD", margin_currency="XBT", quantity="30000", margin="0.012")
    for number in range(3):
        life.fill(
            "10000",
            "49000.5",
            name=f"f{number}",
            instrument_id="XBTUSD",
            margin_currency="XBT",
        )
    closed = life.only(fx.LiquidationClosed)
    # 30000/50000 - 3 x 10000/49000.5 = -0.012238650..., floored to 8 decimals
    assert (closed.pnl, closed.delta) == ("-0.01223866", "-0.00023866")


def test_quanto_is_valued_in_the_margin_currency_per_point_of_price() -> None:
    life = Life(instruments=(ETHUSD,), deposit=None)
    life.deposit("1", "XBT")
    life.take_over(
        instrument_id="ETHUSD",
        margin_currency="XBT",
        quantity="10000",
        entry_price="500",
        margin="0.1",
    )
    assert life.only(fx.PositionTakenOver).bankruptcy_price == "490"
    life.fill("10000", "488", instrument_id="ETHUSD", margin_currency="XBT")
    assert life.only(fx.LiquidationClosed).delta == "-0.02"


def test_given_bankruptcy_price_far_from_ours_is_recorded_and_flagged() -> None:
    life = Life()
    life.take_over("near", bankruptcy_price="45022.6")
    assert life.only(fx.PositionTakenOver).flags == ()
    life.take_over("far", bankruptcy_price="45022.7")
    taken = life.only(fx.PositionTakenOver)
    assert taken.flags == ("bankruptcy_price_differs",)
    assert taken.bankruptcy_price_given == "45022.7"
