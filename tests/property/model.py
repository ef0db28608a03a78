"""The life of a liquidation, naively: what orders, reports and time do (docs/rules.md 5)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests.property.model_liquidation import Liquidation, Order
from tests.property.model_money import Fact, Money
from tests.property.model_prices import ZERO

ENDS = {
    "expired": "order_expired",
    "cancelled": "order_cancelled",
    "rejected": "order_rejected",
    "filled": "order_filled",
    "deadline": "deadline",
}


class LifeRules(Money):
    """Orders, their ends, triggers and deadlines."""

    def open_order(self, liq: Liquidation, order: Order, expires_at_ms: int) -> None:
        liq.orders[order.order_id] = order
        name = f"order:{liq.liquidation_id}/{order.order_id}"
        self.deadlines[name] = expires_at_ms + liq.policy["grace_ms"]

    def hold(self, liq: Liquidation, order: Order, amount: Fraction) -> None:
        order.held = amount
        order.covers = liq.reserving_quantity(order)
        self.funds[liq.currency].available -= amount

    def attempt(self, liq: Liquidation, step: int) -> None:
        """Decide c for the residual and send an order of the fund."""
        position, rest = liq.position, liq.residual()
        concession, lifetime_ms = liq.policy["attempts"][step]
        caps = self.caps(liq, rest, Fraction(concession))
        granted, binding = self.least(caps)
        if position.is_degenerate():
            granted = ZERO
        number = len(liq.orders) + 1
        order = Order(
            order_id=f"{liq.liquidation_id}:{number}",
            price=position.closing_price(rest, granted, Fraction(concession)),
            quantity=rest,
            step=step,
        )
        self.open_order(liq, order, self.now_ms + lifetime_ms)
        # Rounding V / L of an inverse contract can cost a unit more than was granted.
        needed = liq.needs(order, rest)
        assert needed <= granted + self.funds[liq.currency].unit
        order.whole = needed <= granted
        needed = min(needed, granted)
        self.hold(liq, order, needed)
        self.say(
            "compensation_reserved",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            reserved=needed,
            granted=granted,
            caps=caps,
            binding_cap=binding,
            unreserved=ZERO,
        )
        self.say(
            "order_issued",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            quantity=rest,
            price=order.price,
            order_side="sell" if position.side == "long" else "buy",
            attempt=number,
            step=step,
            expires_at_ms=self.now_ms + lifetime_ms,
        )

    def observe(self, liq: Liquidation, order: Order, expires_at_ms: int) -> None:
        """Reserve for an order that the exchange sent."""
        for wait in ("first_order", "replacement"):
            self.deadlines.pop(f"{wait}:{liq.liquidation_id}", None)
        self.open_order(liq, order, expires_at_ms)
        needed = liq.needs(order, order.quantity)
        caps = self.caps(liq, order.quantity, None)
        least, binding = self.least(caps)
        reserved = min(needed, self.funds[liq.currency].available)
        self.hold(liq, order, reserved)
        order.whole = reserved == needed
        self.say("order_observed", liquidation_id=liq.liquidation_id, order_id=order.order_id)
        self.say(
            "compensation_reserved",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            reserved=reserved,
            caps=caps,
            binding_cap=binding if least < needed else None,
            unreserved=needed - reserved,
        )
        self.retarget(liq)

    def retarget(
        self, liq: Liquidation, reason: str | None = None, *, cancel: bool = False
    ) -> None:
        """Bring the trigger to residual - open quantity; with a reason it may rise."""
        pending = liq.pending()
        target = ZERO if cancel else liq.target()
        if reason is None:
            target = min(target, pending)
        if target == pending:
            return
        liq.revision += 1
        liq.trigger_total = liq.deleveraged() + target
        # The rules do not say whether less to deleverage keeps its reason or takes the report's.
        liq.reasons = (
            {reason or ""} if target > pending else liq.reasons | ({reason} if reason else set())
        )
        less = "adl_reduced" if target else "adl_cancelled"
        kind = "adl_triggered" if target > pending else less
        price, basis = liq.position.adl_price(Fraction(liq.policy["adl_fee_rate"]))
        self.say(
            kind,
            liquidation_id=liq.liquidation_id,
            revision=liq.revision,
            quantity=liq.trigger_total,
            reason=set(liq.reasons),
            price=price,
            price_basis=basis,
        )

    def order_over(self, liq: Liquidation, order: Order, how: str, *, final: bool = True) -> None:
        """Go on after the end of an open order."""
        if liq.policy["order_pricing"] == "exchange":
            if final:
                self.deadlines.pop(f"replacement:{liq.liquidation_id}", None)
                self.retarget(liq, ENDS[how])
            else:
                self.await_replacement(liq)
            return
        if liq.residual() == 0:
            return
        tries = sum(o.step == order.step for o in liq.orders.values())
        step = order.step if how == "rejected" and tries == 1 else order.step + 1
        if step < len(liq.policy["attempts"]):
            self.attempt(liq, step)
        else:
            self.retarget(liq, ENDS[how])

    def await_replacement(self, liq: Liquidation) -> None:
        name = f"replacement:{liq.liquidation_id}"
        self.deadlines[name] = self.now_ms + liq.policy["replacement_wait_ms"]

    def close_if_done(self, liq: Liquidation) -> None:
        if liq.filled() != liq.position.quantity:
            return
        assert liq.held() == 0
        liq.closed = True
        self.deadlines = {
            name: due_ms
            for name, due_ms in self.deadlines.items()
            if name.partition(":")[2].split("/")[0] != liq.liquidation_id
        }
        assert liq.fund_result() == liq.position.margin + liq.pnl_floor() - liq.fees()
        self.say(
            "liquidation_closed",
            liquidation_id=liq.liquidation_id,
            quantity=liq.position.quantity,
            deleveraged=liq.deleveraged(),
            margin=liq.position.margin,
            pnl=liq.pnl_floor(),
            fee=liq.fees(),
            delta=liq.fund_result(),
        )

    def fill(self, liq: Liquidation, order: Order, message: dict[str, Any]) -> None:
        money = self.book(liq, order, message)
        self.say(
            "fill_booked",
            **money,
            order_id=order.order_id,
            fill_id=message["fill_id"],
            flags=self.flags(liq, order, message),
        )
        if liq.awaited(order) == 0:
            self.deadlines.pop(f"missing_fills:{liq.liquidation_id}/{order.order_id}", None)
        if liq.residual() == 0 and order.status == "open":
            self.end(liq, order, "filled", liq.seen(order))
        self.release_excess(liq)
        self.retarget(liq)
        self.close_if_done(liq)

    def end(self, liq: Liquidation, order: Order, how: str, filled: Fraction) -> None:
        order.status = "closed"
        order.reported = filled
        self.say(
            "order_closed",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            reason=how,
            filled_quantity=filled,
        )
        for kind in ("order", "hold"):
            self.deadlines.pop(f"{kind}:{liq.liquidation_id}/{order.order_id}", None)

    def report(self, liq: Liquidation, order: Order, message: dict[str, Any]) -> None:
        late = order.status == "dead"
        self.end(liq, order, message["reason"], message["filled_quantity"])
        order.report_content = message
        self.release_excess(liq)
        if liq.closed:
            return
        if liq.awaited(order) > 0:
            name = f"missing_fills:{liq.liquidation_id}/{order.order_id}"
            self.deadlines[name] = self.now_ms + liq.policy["missing_fills_alert_ms"]
        if not late:
            self.order_over(liq, order, message["reason"], final=message["final"])
        elif liq.policy["order_pricing"] == "fund":
            self.retarget(liq)
        elif message["final"]:
            self.order_over(liq, order, message["reason"])
        else:
            self.retarget(liq, cancel=True)
            self.await_replacement(liq)

    def adl(self, liq: Liquidation, message: dict[str, Any]) -> None:
        asked = message["quantity"]
        booked = min(asked, liq.residual())
        self.release_excess(liq, taken=booked)
        fee = message["fee"] * booked / asked
        money = self.book(liq, None, {**message, "quantity": booked, "fee": fee})
        self.say(
            "adl_executed",
            **money,
            execution_id=message["execution_id"],
            excess_quantity=asked - booked if asked > booked else None,
        )
        self.close_if_done(liq)

    # -- deadlines

    def due(self, name: str, now_ms: int) -> list[Fact]:
        """Take a deadline."""
        self.now_ms = now_ms
        self.facts = []
        self.deadlines.pop(name, None)
        kind, _, rest = name.partition(":")
        takers: dict[str, Callable[[str], None]] = {
            "order": self._order_due,
            "hold": self._hold_due,
            "missing_fills": self._fills_due,
            "replacement": self._replacement_due,
            "first_order": self._first_order_due,
            "parked": self._parked_due,
        }
        takers[kind](rest)
        self.settle()
        return self.facts

    def settle(self) -> None:
        """Do what an entry does at its end."""
        raise NotImplementedError

    def _named(self, rest: str) -> tuple[Liquidation, Order]:
        liquidation_id, _, order_id = rest.partition("/")
        liq = self.liquidations[liquidation_id]
        return liq, liq.orders[order_id]

    def _order_due(self, rest: str) -> None:
        liq, order = self._named(rest)
        order.status = "dead"
        self.say(
            "order_closed",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            reason="deadline",
            filled_quantity=liq.seen(order),
        )
        self.deadlines[f"hold:{rest}"] = self.now_ms + liq.policy["reservation_hold_ms"]
        self.order_over(liq, order, "deadline")

    def _hold_due(self, rest: str) -> None:
        liq, order = self._named(rest)
        order.hold_over = True
        self.release_excess(liq)

    def _fills_due(self, rest: str) -> None:
        liq, order = self._named(rest)
        self.say(
            "fills_missing",
            liquidation_id=liq.liquidation_id,
            order_id=order.order_id,
            awaited=liq.awaited(order),
        )

    def _replacement_due(self, rest: str) -> None:
        self.retarget(self.liquidations[rest], "no_order")

    def _first_order_due(self, rest: str) -> None:
        self.retarget(self.liquidations[rest], "no_order")

    def _parked_due(self, rest: str) -> None:
        raise NotImplementedError
