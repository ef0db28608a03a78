"""Random lives of many liquidations on shared funds agree with the naive model, entry by entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.property.choices import Seeded
from tests.property.lives import ACTIONS, Lives
from tests.property.scale import EXAMPLES, STEADY

T = TypeVar("T")

# Every effect that records and deadlines can bring about; the others are of the ledger itself.
EFFECTS = [
    "instrument_defined",
    "fund_deposited",
    "fund_withdrawn",
    "shortfall_paid",
    "position_taken_over",
    "compensation_reserved",
    "order_issued",
    "order_observed",
    "order_closed",
    "fill_booked",
    "adl_executed",
    "reservation_released",
    "adl_triggered",
    "adl_reduced",
    "adl_cancelled",
    "adl_unfilled",
    "fills_missing",
    "liquidation_closed",
    "record_parked",
    "parked_expired",
    "duplicate_ignored",
    "rejected",
    "ids_forgotten",
]
REASONS = [
    "exceeds_residual",
    "exceeds_order",
    "overclosed_by_adl",
    "no_residual",
    "conflicting_duplicate",
    "conflicting_close",
    "too_old",
    "unknown_currency",
]
CASES = [
    "limit_violated",
    "fee_above_rate",
    "shortfall",
    "shortfall repaid",
    "excess",
    "fill within its reservation",
    "parked_full",
    *(f"bound by {cap}" for cap in ("price_concession", "fund", "per_liquidation")),
    "bound by per_instrument",
    *(f"adl: order_{how}" for how in ("expired", "rejected", "cancelled", "filled")),
    *(f"adl: {reason}" for reason in ("deadline", "no_order")),
    *(f"adl at {basis}" for basis in ("bankruptcy_price", "order_price")),
    *(f"closed: {how}" for how in ("better_than_bankruptcy", "compensated", "deleveraged")),
    *(f"released: {why}" for why in ("order_ended", "hold_over", "adl", "other_fill", "report")),
]


class Drawn:
    """Choices drawn by hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def pick(self, among: Sequence[T]) -> T:
        return among[self.number(0, len(among) - 1)]

    def number(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))


class LivesMachine(RuleBasedStateMachine):
    """One rule an action; those that move a liquidation on stand twice."""

    lives: Lives

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.lives = Lives(Drawn(data), tell=note)

    @rule(data=st.data(), action=st.sampled_from(sorted(ACTIONS)))
    def act(self, data: st.DataObject, action: str) -> None:
        self.lives.act(Drawn(data), action)

    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        self.lives.act(Drawn(data), "take_over")

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        self.lives.act(Drawn(data), "submit")

    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        self.lives.act(Drawn(data), "fill")

    @rule(data=st.data())
    def report_or_wait(self, data: st.DataObject) -> None:
        drawn = Drawn(data)
        self.lives.act(drawn, drawn.pick(("report", "pass_time", "adl")))


def test_every_entry_of_a_random_life_is_what_the_rules_say() -> None:
    run_state_machine_as_test(
        LivesMachine,
        settings=settings(
            max_examples=200 * EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            derandomize=STEADY,
            print_blob=True,
            # Setting up a fund draws its policy, instruments and deposits.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.fixture(scope="module")
def visited() -> Counter[str]:
    """Live many lives from fixed seeds and count what happened in them."""
    seen: Counter[str] = Counter()
    for seed in range(250 * EXAMPLES):
        lives = Lives(Seeded(seed))
        try:
            for _ in range(80):
                lives.act_by_weight()
        except BaseException as error:
            error.add_note(f"in the life of seed {seed}, policy {lives.world.model.policy}")
            for topic, message in lives.world.sent_messages[-12:]:
                error.add_note(f"{topic} {message}")
            raise
        seen += lives.world.seen
    return seen


@pytest.mark.parametrize("effect", EFFECTS)
def test_random_lives_visit_the_effect(visited: Counter[str], effect: str) -> None:
    assert visited[effect] >= 5


@pytest.mark.parametrize("reason", REASONS)
def test_random_lives_visit_the_reason_to_reject(visited: Counter[str], reason: str) -> None:
    assert visited[f"rejected: {reason}"] >= 5


@pytest.mark.parametrize("case", CASES)
def test_random_lives_visit_the_case(visited: Counter[str], case: str) -> None:
    assert visited[case] >= 5
