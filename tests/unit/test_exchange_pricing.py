"""Orders that the exchange prices: observed, reserved for, replaced (docs/rules.md 4, 5)."""

from __future__ import annotations

from decimal import Decimal as D

from insurance_fund.events import effects as fx
from tests.unit.life import Life

EXCHANGE = {"default": {"order_pricing": "exchange"}}


def _taken_over(deposit: str = "1000", **policy: object) -> Life:
    life = Life({"default": {"order_pricing": "exchange", **policy}}, deposit=deposit)
    life.take_over(entry_price="45000", margin="0")
    return life


def test_takeover_without_an_order_is_deleveraged_after_the_first_order_wait() -> None:
    life = _taken_over()
    assert life.kinds() == ["position_taken_over"]
    assert life.wait(59_999) == []
    (taken,) = life.wait(1)
    trigger = life.only(fx.AdlTriggered, taken)
    assert (trigger.reason, trigger.quantity) == ("no_order", "10")


def test_observed_order_reserves_its_claim_and_ends_the_first_order_wait() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    assert life.kinds() == ["order_observed", "compensation_reserved"]
    reserved = life.only(fx.CompensationReserved)
    # 0.1 x 100 of loss and 0.0005 x 4490 of fee
    assert (reserved.reserved, reserved.unreserved, reserved.binding_cap) == ("12.245", "0", None)
    assert reserved.caps.price_concession is None
    assert life.wait(29_000) == []


def test_claim_above_available_is_recorded_as_unreserved_with_the_cap_that_would_have_bound() -> (
    None
):
    life = _taken_over(deposit="10", instrument_share="1")
    life.submit("o1", "44900", "10")
    reserved = life.only(fx.CompensationReserved)
    assert (reserved.reserved, reserved.unreserved) == ("10", "2.245")
    assert reserved.binding_cap == "fund"


def test_open_quantities_together_stay_within_the_residual() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "6")
    life.submit("o2", "44900", "5")
    assert life.only(fx.Rejected).reason == "exceeds_residual"
    life.submit("o2", "44900", "4")
    assert life.kinds() == ["order_observed", "compensation_reserved"]


def test_final_end_of_one_order_deleverages_what_no_open_order_covers() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "6")
    life.submit("o2", "44900", "4")
    life.report("o1", "expired", "1", liquidation_id="liq-7")
    assert life.only(fx.AdlTriggered).quantity == "5"


def test_non_final_end_waits_for_the_replacement_and_then_deleverages() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    life.report("o1", "cancelled", "0", final=False, liquidation_id="liq-7")
    assert "adl_triggered" not in life.kinds()
    assert life.wait(4_999) == []
    (taken,) = life.wait(1)
    assert life.only(fx.AdlTriggered, taken).reason == "no_order"


def test_replacement_order_ends_the_wait() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    life.report("o1", "cancelled", "0", final=False, liquidation_id="liq-7")
    life.submit("o2", "44800", "10")
    assert life.wait(5_000) == []


def test_order_submitted_after_a_trigger_shrinks_it_and_it_only_rises_at_a_final_end() -> None:
    life = _taken_over()
    life.wait(60_000)
    life.submit("o1", "44900", "7")
    assert life.only(fx.AdlReduced).quantity == "3"
    life.report("o1", "cancelled", "0", final=False, liquidation_id="liq-7")
    assert "adl_triggered" not in life.kinds()
    life.submit("o2", "44900", "7")
    assert life.kinds() == ["order_observed", "compensation_reserved"]
    life.report("o2", "expired", "0", liquidation_id="liq-7")
    risen = life.only(fx.AdlTriggered)
    assert (risen.quantity, risen.revision) == ("10", 3)


def test_late_non_final_report_cancels_the_trigger_and_starts_the_wait() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    life.wait(32_000)
    life.report("o1", "cancelled", "0", final=False, liquidation_id="liq-7")
    assert life.only(fx.AdlCancelled).revision == 2
    (taken,) = life.wait(5_000)
    assert life.only(fx.AdlTriggered, taken).revision == 3


def test_report_filled_that_leaves_a_residual_is_deleveraged_as_order_filled() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    life.fill("4", "44950", order="o1", liquidation_id="liq-7")
    life.report("o1", "filled", "4", liquidation_id="liq-7")
    trigger = life.only(fx.AdlTriggered)
    assert (trigger.reason, trigger.quantity) == ("order_filled", "6")


def test_order_that_is_full_while_a_residual_is_left_waits_for_its_report() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "4")
    life.fill("4", "44950", order="o1", liquidation_id="liq-7")
    assert life.kinds() == ["fill_booked"]
    (taken,) = life.wait(32_000)
    assert life.only(fx.AdlTriggered, taken).reason == "deadline"


def test_late_fill_of_a_dead_order_releases_what_a_younger_order_can_no_longer_use() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10")
    life.wait(32_000)
    life.submit("o2", "44900", "10")
    held = life.state.liquidations["liq-7"].orders["o2"].reserved
    life.fill("4", "44950", order="o1", liquidation_id="liq-7")
    # The trigger that our deadline raised was taken back when o2 covered the residual.
    assert life.kinds() == ["fill_booked", "reservation_released"]
    released = life.only(fx.ReservationReleased)
    assert (released.order_id, released.cause) == ("o2", "other_fill")
    assert D(released.amount) == held * 4 / 10


def test_same_order_again_is_ignored_and_another_under_its_id_conflicts() -> None:
    life = _taken_over()
    life.submit("o1", "44900", "10", expires_at_ms=life.now_ms + 1)
    life.submit("o1", "44900.0", "10.0", expires_at_ms=life.now_ms + 1)
    assert life.kinds() == ["duplicate_ignored"]
    life.submit("o1", "44901", "10", expires_at_ms=life.now_ms + 1)
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"


def test_reservation_of_another_order_is_not_computed_anew_while_it_covers_the_same() -> None:
    life = Life(
        {
            "currencies": {"USDT": {"scale": 2}},
            "default": {"order_pricing": "exchange"},
        }
    )
    life.take_over(quantity="7", entry_price="100.03", margin="0")
    life.submit("a", "99.511", "4")
    life.submit("b", "99.511", "3")
    assert life.only(fx.CompensationReserved).reserved == "0.02"
    for number in range(3):
        life.fill("1", "99.6", name=f"f{number}", order="a", liquidation_id="liq-7")
        assert "reservation_released" not in life.kinds()
    assert life.state.liquidations["liq-7"].orders["b"].reserved == D("0.02")
