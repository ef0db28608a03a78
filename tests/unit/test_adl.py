"""Deleveraging: bookings, excess, races, what is never invented (docs/rules.md 4 and 5)."""

from __future__ import annotations

from decimal import Decimal as D

from insurance_fund.events import effects as fx
from tests.unit.life import Life


def _triggered() -> Life:
    life = Life()
    life.take_over()
    life.report("liq-7:1", "expired", "0")
    return life


def test_adl_execution_is_booked_like_a_fill_and_makes_no_revision() -> None:
    life = _triggered()
    life.adl("4", "45000", fee="0.5")
    assert life.kinds() == ["adl_executed"]
    executed = life.only(fx.AdlExecuted)
    assert (executed.delta, executed.reserved_delta, executed.residual) == ("-0.5", "0", "6")
    assert life.sent() == []


def test_adl_for_everything_closes_the_liquidation() -> None:
    life = _triggered()
    life.adl("10", "45010")
    assert life.kinds() == ["adl_executed", "liquidation_closed"]
    closed = life.only(fx.LiquidationClosed)
    assert (closed.outcome, closed.deleveraged, closed.delta) == ("deleveraged", "10", "1")


def test_excess_is_cut_off_and_its_fee_shared_and_rounded_up() -> None:
    life = _triggered()
    life.adl("30", "45000", fee="1")
    executed = life.only(fx.AdlExecuted)
    assert (executed.quantity, executed.excess_quantity) == ("10", "20")
    assert executed.fee == "0.333334"


def test_adl_on_a_closed_liquidation_has_no_residual() -> None:
    life = _triggered()
    life.adl("10")
    life.adl("1", name="x2")
    assert life.only(fx.Rejected).reason == "no_residual"


def test_adl_is_honoured_against_an_older_revision() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.fill("4", "44600")
    life.adl("6", trigger_revision=1)
    assert life.kinds()[-1] == "liquidation_closed"


def test_fill_that_adl_has_taken_is_rejected_whole() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.adl("8")
    life.fill("4", "44600")
    assert life.only(fx.Rejected).reason == "overclosed_by_adl"
    life.fill("2", "44600", name="f2")
    assert life.kinds()[-1] == "liquidation_closed"


def test_adl_first_releases_what_it_covers() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.adl("4")
    assert life.kinds() == ["reservation_released", "adl_executed"]
    assert life.only(fx.ReservationReleased).cause == "adl"
    # Six tenths of 44.998615 are still held for fills that may show late.
    assert life.reserved() == D("26.999169")


def test_adl_without_a_trigger_is_refused() -> None:
    life = Life()
    life.take_over()
    life.adl("1")
    assert life.only(fx.Rejected).reason == "unknown_trigger"


def test_unfilled_adl_is_recorded_and_stays_open() -> None:
    life = _triggered()
    life.send(
        "liquidations",
        "adl_unfilled",
        liquidation_id="liq-7",
        trigger_id="liq-7:adl",
        quantity="10",
        reason="nobody",
    )
    assert life.kinds() == ["adl_unfilled"]
    assert life.state.liquidations["liq-7"].trigger_target == 10


def test_execution_id_is_known_across_liquidations() -> None:
    life = _triggered()
    life.take_over("liq-8")
    life.report("liq-8:1", "expired", "0")
    life.adl("1")
    life.adl("1")
    assert life.kinds() == ["duplicate_ignored"]
    life.adl("1", liquidation_id="liq-8", trigger_id="liq-8:adl")
    assert life.only(fx.Rejected).reason == "conflicting_duplicate"


def test_report_beyond_what_adl_left_is_refused() -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    life.adl("8")
    life.report("liq-7:1", "filled", "10")
    assert life.only(fx.Rejected).reason == "overclosed_by_adl"


def test_evidence_says_what_closing_at_the_mark_would_have_needed() -> None:
    life = Life()
    life.take_over(mark_price="44000")
    life.report("liq-7:1", "expired", "0")
    evidence = life.only(fx.AdlTriggered).evidence
    # 0.1 x (44000 - 50000) + 500 - 0.0005 x 4400
    assert evidence.compensation_needed == "102.2"
    assert evidence.margin_remaining == "500"
    assert (evidence.binding_cap, evidence.compensation) == ("price_concession", "45")


def test_trigger_that_adl_overtook_is_not_raised_to_what_was_executed() -> None:
    life = Life({"default": {"order_pricing": "exchange"}})
    life.take_over()
    for order, quantity in (("a", "4"), ("b", "3"), ("c", "3")):
        life.submit(order, "44900", quantity)
    life.report("a", "expired", "0", liquidation_id="liq-7")
    assert life.only(fx.AdlTriggered).quantity == "4"
    life.adl("7")
    life.report("c", "expired", "0", liquidation_id="liq-7")
    assert not [kind for kind in life.kinds() if kind.startswith("adl_")]
    life.report("b", "expired", "0", liquidation_id="liq-7")
    trigger = life.only(fx.AdlTriggered)
    assert (trigger.revision, trigger.quantity) == (2, "10")


def test_deleveraging_with_a_fee_above_the_rate_is_flagged_like_a_fill() -> None:
    life = _triggered()
    life.adl("1", "45000", fee="0.225001")
    assert life.only(fx.AdlExecuted).flags == ()
    life.adl("1", "45000", fee="0.225002", name="x2")
    assert life.only(fx.AdlExecuted).flags == ("fee_above_rate",)
