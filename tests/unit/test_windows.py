"""The rolling window of an instrument's share (docs/rules.md section 4)."""

from __future__ import annotations

from decimal import Decimal as D

from insurance_fund.events import effects as fx
from insurance_fund.fund.windows import BUCKET_MS, Window
from tests.unit.life import Life

HOUR_MS = 3_600_000


def test_highest_counts_the_value_in_force_when_the_window_began() -> None:
    window = Window([])
    window.note(D(5), 0, 10 * BUCKET_MS)
    window.note(D(2), 1 * BUCKET_MS, 10 * BUCKET_MS)
    window.note(D(3), 5 * BUCKET_MS, 10 * BUCKET_MS)
    assert window.highest(5 * BUCKET_MS, 4 * BUCKET_MS) == 5
    assert window.highest(6 * BUCKET_MS, 4 * BUCKET_MS) == 3
    assert window.highest(6 * BUCKET_MS - 1, 4 * BUCKET_MS) == 5


def test_value_is_zero_before_the_first_note() -> None:
    window = Window([])
    window.note(D(-7), 5 * BUCKET_MS, 10 * BUCKET_MS)
    assert window.highest(5 * BUCKET_MS, BUCKET_MS) == 0
    assert window.highest(7 * BUCKET_MS, BUCKET_MS) == -7


def test_minutes_keep_their_highest_and_last() -> None:
    window = Window([])
    for value in (D(1), D(9), D(4)):
        window.note(value, 10, 10 * BUCKET_MS)
    assert window.highest(20, BUCKET_MS) == 9
    window.note(D(0), 2 * BUCKET_MS, 10 * BUCKET_MS)
    assert window.highest(2 * BUCKET_MS, BUCKET_MS) == 4


def test_old_minutes_are_let_go() -> None:
    window = Window([])
    for minute in range(1_000):
        window.note(D(minute), minute * BUCKET_MS, 10 * BUCKET_MS)
    assert len(window.buckets) <= 12


def _loss(life: Life, name: str, loss_price: str) -> None:
    life.take_over(name)
    life.fill("10", loss_price, order=f"{name}:1")


def test_losses_of_the_window_use_up_the_instruments_share() -> None:
    life = Life(deposit="200")
    _loss(life, "a", "44600")
    life.take_over("b")
    # 0.3 x 200 less the 40 lost
    assert life.only(fx.CompensationReserved).caps.per_instrument == "20"
    assert life.only(fx.OrderIssued).binding_cap == "per_instrument"


def test_share_is_free_again_after_the_window() -> None:
    life = Life(deposit="200")
    _loss(life, "a", "44600")
    life.wait(8 * HOUR_MS + BUCKET_MS)
    life.take_over("b")
    # By now the highest total of the window is the 160 that were left.
    assert life.only(fx.CompensationReserved).caps.per_instrument == "48"


def test_withdrawal_lowers_the_reference_at_once_and_is_no_loss() -> None:
    life = Life(deposit="200")
    life.transfer("fund_withdrawal", "100", "w1")
    life.take_over("a")
    assert life.only(fx.CompensationReserved).caps.per_instrument == "30"


def test_reservations_of_other_liquidations_count_against_the_share() -> None:
    life = Life(deposit="200")
    life.take_over("a")
    life.take_over("b")
    assert life.only(fx.CompensationReserved).caps.per_instrument == str(D(60) - D("44.998615"))


def test_gains_of_the_instrument_can_be_lost_again() -> None:
    life = Life(deposit="100")
    _loss(life, "a", "46000")
    _loss(life, "b", "44900")
    life.take_over("c")
    # 0.3 x the highest total 200, less the 10 by which X fell from 100 to 90
    assert life.only(fx.CompensationReserved).caps.per_instrument == "50"
