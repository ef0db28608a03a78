"""The ADL engine by hand-worked cases: what is executed, when, and under which revision."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from insurance_fund.events import messages as msg
from insurance_fund.streams.paper.adl import (
    ADL_LATENCY_MS,
    ADL_RETRY_MS,
    COUNTERPARTIES_MAX,
    AdlEngine,
    AdlMessage,
    AdlOutcome,
)
from tests.unit.life import START_MS as T

STEP = Decimal("0.5")
EVIDENCE = msg.Evidence(
    order_id=None,
    order_price=None,
    expires_at_ms=None,
    filled_quantity="0",
    entry_price="100",
    margin_remaining="0",
    bankruptcy_price=None,
    compensation="0",
    caps=None,
    binding_cap=None,
    fund_available="0",
    fund_reserved="0",
)


def trigger(
    quantity: str,
    revision: int = 1,
    kind: type[AdlMessage] = msg.AdlTrigger,
    name: str = "liq-7",
) -> AdlMessage:
    fields: dict[str, Any] = {
        "event_id": "e",
        "event_time_ms": T,
        "margin_currency": "USDT",
        "ledger": "main",
        "sequence": 1,
        "trigger_id": f"{name}:adl",
        "revision": revision,
        "liquidation_id": name,
        "account_id": "acc",
        "instrument_id": "BTCUSDT",
        "contract_type": "linear",
        "contract_size": "0.01",
        "tick_size": "0.1",
        "position_side": "long",
        "order_side": "sell",
        "quantity": quantity,
        "price": "45000",
        "price_basis": "bankruptcy_price",
        "reason": "order_expired",
        "evidence": EVIDENCE,
    }
    return kind(**fields)


def engine(*triggers: AdlMessage, unfilled_one_in: int = 0) -> AdlEngine:
    made = AdlEngine(unfilled_one_in)
    for one in triggers:
        made.receive(one, STEP, T)
    return made


def done(outcomes: list[AdlOutcome]) -> list[tuple[str, int, Decimal]]:
    """Return of each attempt the liquidation, the revision and the quantity taken."""
    return [
        (o.trigger.liquidation_id, o.trigger.revision, sum(o.taken, Decimal(0))) for o in outcomes
    ]


def test_trigger_is_executed_whole_after_the_latency_and_once() -> None:
    made = engine(trigger("6.5"))
    assert made.next_ms() == T + ADL_LATENCY_MS
    assert made.work(T + ADL_LATENCY_MS - 1) == []
    assert done(made.work(T + ADL_LATENCY_MS)) == [("liq-7", 1, Decimal("6.5"))]
    assert (made.next_ms(), made.work(T + 60_000)) == (None, [])


def test_one_to_three_counterparties_take_whole_steps_the_same_in_every_run() -> None:
    shares = set()
    for number in range(200):
        name = f"liq-{number}"
        (first,), (second,) = (
            engine(trigger("6.5", name=name)).work(T + ADL_LATENCY_MS) for _ in range(2)
        )
        assert first.taken == second.taken
        assert sum(first.taken) == Decimal("6.5")
        assert all(share > 0 and share % STEP == 0 for share in first.taken)
        shares.add(len(first.taken))
    assert shares == set(range(1, COUNTERPARTIES_MAX + 1))


def test_nobody_takes_nothing_where_there_are_fewer_steps_than_counterparties() -> None:
    for number in range(50):
        (outcome,) = engine(trigger("0.5", name=f"liq-{number}")).work(T + ADL_LATENCY_MS)
        assert outcome.taken == [Decimal("0.5")]


def test_highest_revision_holds_whatever_comes_after_it() -> None:
    reduced = trigger("2", 3, msg.AdlTriggerReduced)
    made = engine(trigger("6"), reduced, trigger("4", 2, msg.AdlTriggerReduced))
    assert done(made.work(T + ADL_LATENCY_MS)) == [("liq-7", 3, Decimal(2))]


def test_later_revision_of_a_waiting_trigger_is_executed_when_the_first_was_due() -> None:
    made = engine(trigger("6"))
    made.receive(trigger("2", 2, msg.AdlTriggerReduced), STEP, T + ADL_LATENCY_MS - 1)
    assert made.next_ms() == T + ADL_LATENCY_MS
    assert done(made.work(T + ADL_LATENCY_MS)) == [("liq-7", 2, Decimal(2))]


def test_cancelled_trigger_is_not_executed() -> None:
    made = engine(trigger("6"), trigger("0", 2, msg.AdlTriggerCancelled))
    assert (made.next_ms(), made.work(T + 60_000)) == (None, [])


def test_quantity_of_a_later_revision_counts_what_was_executed_before() -> None:
    made = engine(trigger("6"))
    made.work(T + ADL_LATENCY_MS)
    made.receive(trigger("6.5", 2), STEP, T + 10_000)
    assert made.next_ms() == T + 10_000 + ADL_LATENCY_MS
    assert done(made.work(T + 20_000)) == [("liq-7", 2, Decimal("0.5"))]
    made.receive(trigger("6.5", 3, msg.AdlTriggerCancelled), STEP, T + 30_000)
    assert made.next_ms() is None


def test_some_find_nobody_at_first_and_are_executed_later() -> None:
    names = [f"liq-{number}" for number in range(400)]
    made = engine(*(trigger("6", name=name) for name in names), unfilled_one_in=20)
    first = made.work(T + ADL_LATENCY_MS)
    assert len(first) == len(names)
    unfilled = [o for o in first if not o.taken]
    assert 10 <= len(unfilled) <= 40
    assert all(o.open_quantity == 6 for o in unfilled)
    assert made.next_ms() == T + ADL_LATENCY_MS + ADL_RETRY_MS
    again = made.work(T + ADL_LATENCY_MS + ADL_RETRY_MS)
    assert sorted(done(again)) == sorted(
        (o.trigger.liquidation_id, 1, Decimal(6)) for o in unfilled
    )
    assert made.next_ms() is None


def test_attempts_are_made_in_order_of_their_times_and_ids() -> None:
    made = AdlEngine()
    made.receive(trigger("1", name="b"), STEP, T)
    made.receive(trigger("1", name="c"), STEP, T - 5)
    made.receive(trigger("1", name="a"), STEP, T)
    assert [o.trigger.liquidation_id for o in made.work(T + 60_000)] == ["c", "a", "b"]
