"""A world that sends messages to the fund and to the model and compares them after each entry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from insurance_fund.events.ledger import ClockCause
from tests.property.books import Books
from tests.property.model_intake import Model
from tests.property.model_money import Fact
from tests.unit.life import Life

SILENT = {"ids_forgotten"}
ZERO = Fraction(0)


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, set):
        return expected == set(found or ())
    if isinstance(expected, dict):
        return all(_same(v, found[k]) for k, v in expected.items())
    if isinstance(expected, Fraction):
        return found is not None and Fraction(found) == expected
    return bool(expected == found)


def compare(facts: list[Fact], effects: list[dict[str, Any]]) -> None:
    """Hold that the entry's effects are the facts that the model expects."""
    kinds = {f["type"] for f in facts} | {e["type"] for e in effects}
    for kind in kinds - SILENT:
        expected = [f for f in facts if f["type"] == kind]
        found = [e for e in effects if e["type"] == kind]
        assert len(expected) == len(found), f"{kind}: model {expected}, fund {found}"
        for fact, effect in zip(expected, found, strict=True):
            for name, value in fact.items():
                got = effect.get(name)
                if name == "reason" and isinstance(value, set):
                    assert not value or got in value, f"{kind}: model {value}, fund {effect}"
                else:
                    assert _same(value, got), f"{kind}.{name}: model {value}, fund {effect}"


class World(Life):
    """A life whose every entry is compared with the model, and checked by the books."""

    def __init__(self, policy: dict[str, Any], tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.tell(f"policy {json.dumps(policy)}")
        self.model = Model(policy)
        self.books = Books({c: p["scale"] for c, p in policy["currencies"].items()})
        self.seen: Counter[str] = Counter()
        self.sent_messages: list[tuple[str, dict[str, Any]]] = []
        document = {k: v for k, v in policy.items() if v is not None}
        super().__init__(document, deposit=None, instruments=())
        self.read = len(self.lines)

    def post(self, topic: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a message and compare what came of it; return the entry's effects."""
        full = {"event_id": f"e{self.offsets}", "event_time_ms": self.now_ms, **message}
        self.sent_messages.append((topic, full))
        value = json.dumps(full)
        self.tell(f"at {self.now_ms} {topic} {value}")
        self.raw(topic, value.encode())
        facts = self.model.record(f"{topic}:0:{self.offsets}", self.now_ms, full)
        return self._check(facts)

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass; each deadline that falls due is an entry and is compared."""
        end_ms = self.now_ms + milliseconds
        while (first := self.state.schedule.first()) is not None and first[0] <= end_ms:
            due_ms, name = first
            self.now_ms = max(self.now_ms, due_ms)
            cause = ClockCause(deadline=name, due_ms=due_ms, read_to={}, capped=False)
            self.tell(f"at {self.now_ms} deadline {name}")
            self._keep(self.keeper.deadline(cause, self.now_ms))
            self._check(self.model.due(name, self.now_ms))
        self.now_ms = end_ms

    def _check(self, facts: list[Fact]) -> list[dict[str, Any]]:
        entry = self.books.read(self.last.line)
        effects: list[dict[str, Any]] = entry["effects"]
        compare(facts, effects)
        self._count(effects)
        self._compare_state()
        self._compare_fills(effects)
        return effects

    def _count(self, effects: list[dict[str, Any]]) -> None:
        for effect in effects:
            self.seen[effect["type"]] += 1
            if effect["type"] == "rejected":
                self.seen[f"rejected: {effect['reason']}"] += 1
            for flag in effect.get("flags", ()):
                self.seen[flag] += 1
            if effect["type"] == "order_issued":
                self.seen[f"bound by {effect['binding_cap']}"] += 1
            if effect["type"] == "adl_triggered":
                self.seen[f"adl: {effect['reason']}"] += 1
                self.seen[f"adl at {effect['price_basis']}"] += 1
            if effect["type"] == "liquidation_closed":
                self.seen[f"closed: {effect['outcome']}"] += 1
            if effect["type"] == "reservation_released":
                self.seen[f"released: {effect['cause']}"] += 1
            if effect["type"] == "parked_expired":
                self.seen[effect["reason"]] += 1
            if effect.get("excess_quantity"):
                self.seen["excess"] += 1
            unpaid = Fraction(effect.get("shortfall_delta", 0))
            self.seen["shortfall"] += unpaid < 0
            self.seen["shortfall repaid"] += unpaid > 0

    def _compare_state(self) -> None:
        for currency, fund in self.model.funds.items():
            real = self.state.funds.get(currency)
            balances = (
                (ZERO, ZERO, ZERO)
                if real is None
                else tuple(map(Fraction, (real.available, real.reserved, real.shortfall)))
            )
            modelled = (fund.available, self.model.reserved(currency), fund.shortfall)
            assert modelled == balances, f"{currency}: model {modelled}, fund {balances}"
        expected = self._meaningful(self.model.deadlines)
        found = self._meaningful(self.state.deadlines)
        assert expected == found, f"deadlines: model {expected}, fund {found}"

    def _meaningful(self, deadlines: dict[str, int]) -> dict[str, int]:
        """Leave out those of which nothing comes: empty holds, waits for nothing."""
        idle = set()
        for liq in self.model.liquidations.values():
            name = liq.liquidation_id
            idle |= {f"hold:{name}/{o.order_id}" for o in liq.orders.values() if not o.held}
            if liq.target() <= liq.pending():
                idle.add(f"replacement:{name}")
        return {name: due_ms for name, due_ms in deadlines.items() if name not in idle}

    def _compare_fills(self, effects: list[dict[str, Any]]) -> None:
        """Hold that a fill at its limit or better takes at most two units from available.

        One is the rounding of its fee; one is lost where an earlier floor left the reservation,
        which never rises, a unit short.
        """
        for effect in effects:
            if effect["type"] != "fill_booked" or effect.get("flags"):
                continue
            liq = self.model.liquidations.get(effect["liquidation_id"])
            if liq is None or not liq.orders[effect["order_id"]].whole:
                continue
            position = liq.position
            notional = position.notional(Fraction(effect["quantity"]), Fraction(effect["price"]))
            fee = Fraction(effect.get("fee_given", effect["fee"]))
            if fee > position.fee_rate * notional:
                continue
            self.seen["fill within its reservation"] += 1
            moved = sum(
                Fraction(effect[n]) * m
                for n, m in (("delta", 1), ("reserved_delta", -1), ("shortfall_delta", -1))
            )
            unit = self.model.funds[liq.currency].unit
            assert moved >= -2 * unit, f"a fill at its limit took {moved} from available: {effect}"
