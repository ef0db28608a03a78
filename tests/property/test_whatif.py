"""What-if on random lives: the same policy changes nothing, another one keeps to the records."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import decode_entry
from tests.property.choices import Seeded, random_policy
from tests.property.lives import Lives
from tests.property.scale import EXAMPLES
from tests.property.world import World
from tests.unit.test_whatif import Watched, ask, assert_the_same

LIVES = 100 * EXAMPLES
STEPS = 80


class LaggingWorld(World):
    """A world in which fills are read up to 20 seconds after they happened."""

    def __init__(self, *settings: Any) -> None:
        self.lags = Seeded(1)
        super().__init__(*settings)

    def post(self, topic: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        if topic == "fills":
            lag_ms = self.lags.pick((0, 0, 10, 2_000, 9_000, 20_000))
            message = {"event_time_ms": self.now_ms - lag_ms, **message}
        return super().post(topic, message)


def live(seed: int) -> list[bytes]:
    lives = Lives(Seeded(seed))
    for _ in range(STEPS):
        lives.act_by_weight()
    return lives.world.lines


@pytest.fixture(scope="module", params=["at once", "lagging"])
def ledgers(request: pytest.FixtureRequest) -> list[list[bytes]]:
    """The ledgers of many random lives."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "lagging":
            patch.setattr("tests.property.lives.World", LaggingWorld)
        return [live(seed) for seed in range(LIVES)]


def policy_of(lines: list[bytes]) -> dict[str, Any]:
    policy: dict[str, Any] = json.loads(lines[0])["cause"]["policy"]
    return policy


def other_policy(lines: list[bytes], seed: int) -> dict[str, Any]:
    """Return another policy for the money of a ledger; some let others price the orders."""
    choose = Seeded(10_000 + seed)
    policy, known = random_policy(choose), policy_of(lines)["currencies"]
    for name, rules in policy["currencies"].items():
        rules["scale"] = known[name]["scale"]
    attempts = ([["0", 1_000]], [["0.1", 60_000]], [["0.005", 30_000]])
    policy["default"]["attempts"] = choose.pick((policy["default"]["attempts"], *attempts))
    if choose.number(0, 3) == 0:
        policy["instruments"] = {}
    if choose.number(0, 5) == 0:
        policy["default"]["order_pricing"] = "exchange"
    return policy


def test_the_same_policy_changes_nothing(ledgers: list[list[bytes]]) -> None:
    encode = msgspec.json.Encoder(order="deterministic").encode
    for seed, lines in enumerate(ledgers):
        what_if = ask(lines, policy_of(lines))
        assert_the_same(what_if)
        ours, ledgers_own = what_if.state, what_if.recorded.state
        for name in ("funds", "instruments"):
            assert encode(getattr(ours, name)) == encode(getattr(ledgers_own, name)), (seed, name)
        parked = {name for name in ledgers_own.deadlines if name.startswith("parked:")}
        assert ours.deadlines.keys() == ledgers_own.deadlines.keys() - parked


def test_another_policy_books_recorded_fills_within_its_limits_and_nothing_else(
    ledgers: list[list[bytes]],
) -> None:
    seen: Counter[str] = Counter()
    for seed, lines in enumerate(ledgers):
        what_if = ask(lines, other_policy(lines, seed))
        recorded = [effect for line in lines for effect in decode_entry(line).effects]
        _check_fills(what_if, recorded, seen)
        _check_sums(what_if)
        _check_refusals(what_if)
        _check_ends(what_if)
        seen["differs"] += len(what_if.differences())
        seen["executions"] += len(what_if.told(fx.AdlExecuted))
    for what in ("differs", "executions", "same", "taken over", "left out"):
        assert seen[what] >= 25, what


def _check_fills(what_if: Watched, recorded: list[fx.AnyEffect], seen: Counter[str]) -> None:
    orders = {(o.liquidation_id, o.order_id): o for o in what_if.told(fx.OrderIssued)}
    theirs = {
        (o.liquidation_id, o.order_id): (o.price, o.quantity, o.expires_at_ms)
        for o in recorded
        if isinstance(o, fx.OrderIssued)
    }
    known = Counter(_what(e) for e in recorded if isinstance(e, fx.FillBooked))
    booked = Counter(map(_what, what_if.told(fx.FillBooked)))
    assert booked <= known
    seen["left out"] += (known - booked).total()
    for fill in what_if.told(fx.FillBooked):
        place = (fill.liquidation_id, fill.order_id)
        order = orders.get(place)
        if order is None:
            continue  # the exchange's own
        if theirs.get(place) == (order.price, order.quantity, order.expires_at_ms):
            seen["same"] += 1
        else:
            seen["taken over"] += 1
            assert "limit_violated" not in fill.flags
            assert fill.event_time_ms <= order.expires_at_ms


def _what(fill: fx.FillBooked) -> tuple[str, ...]:
    return fill.liquidation_id, fill.fill_id, fill.price, fill.quantity


def _check_sums(what_if: Watched) -> None:
    """Hold that the sums are those of the balances; what triggers ask for is in none of them."""
    for currency, fund in what_if.after.outcomes.funds.items():
        state = what_if.state.funds[currency]
        assert (fund.after, fund.shortfall) == (state.total, state.shortfall)
        assert fund.gains + fund.draws == state.deltas
        assert sum(fund.by_instrument.values()) == fund.draws


def _check_refusals(what_if: Watched) -> None:
    """Hold that only money that is not there, or an id that is known longer, is refused."""
    reasons = {effect.reason for effect in what_if.told(fx.Rejected)}
    allowed = {"exceeds_available", "exceeds_shortfall"}
    if what_if.recorded.state.policy.closed_max < LIVES:
        allowed |= {"conflicting_duplicate", "too_old"}
    assert reasons <= allowed, reasons


def _check_ends(what_if: Watched) -> None:
    """Hold that what an order was said to have filled by its end was booked, and to it."""
    for name, liquidation in what_if.state.liquidations.items():
        for order in liquidation.orders.values():
            if order.report == "expired" and not what_if._offers[name].life.has(order):
                assert not order.awaited, (name, order.order_id)
