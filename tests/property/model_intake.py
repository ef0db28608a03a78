"""Intake by docs/rules.md sections 1 and 5: duplicates, early records, what is refused and why."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tests.property.model import LifeRules
from tests.property.model_liquidation import Liquidation, Order
from tests.property.model_money import Fact
from tests.property.model_prices import ZERO, Position, floor_at

AMOUNTS = {
    "quantity",
    "entry_price",
    "margin",
    "bankruptcy_price",
    "mark_price",
    "price",
    "filled_quantity",
    "fee",
    "amount",
    "contract_size",
    "tick_size",
    "quantity_step",
    "closing_fee_rate",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "position_taken_over": {"bankruptcy_price": None, "mark_price": None},
    "liquidation_order_closed": {"final": True},
    "adl_executed": {"fee": "0"},
    "fill": {"fee": "0"},
}
AHEAD_MS_MAX = 300_000
Key = tuple[str, ...]


class Refused(Exception):
    """The record is rejected, for one of these reasons (any, if the rules name none)."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = set(reasons)
        super().__init__(*reasons)


@dataclass
class Parked:
    """A record that came too early."""

    name: str
    message: dict[str, Any]


def parse(message: dict[str, Any]) -> dict[str, Any]:
    """Return the known fields with defaults and amounts by value."""
    fields = {**DEFAULTS.get(message["type"], {}), **message}
    return {
        name: Fraction(value) if name in AMOUNTS and value is not None else value
        for name, value in fields.items()
        if name != "unknown_extra"
    }


def content(message: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in ("event_id", "event_time_ms")}


def key_of(message: dict[str, Any]) -> Key | None:
    kind = message["type"]
    if kind in ("fund_deposit", "fund_withdrawal", "shortfall_payment"):
        return "transfer", message["transfer_id"]
    names = {
        "position_taken_over": ("liquidation_id",),
        "fill": ("liquidation_id", "fill_id"),
        "liquidation_order_submitted": ("liquidation_id", "order_id"),
        "liquidation_order_closed": ("liquidation_id", "order_id"),
        "adl_executed": ("execution_id",),
    }.get(kind)
    return None if names is None else (kind, *(message[n] for n in names))


class Model(LifeRules):
    """The whole fund: what each record must bring about."""

    def __init__(self, policy: dict[str, Any]) -> None:
        super().__init__(policy)
        self.instruments: dict[str, dict[str, Any]] = {}
        self.known: dict[Key, dict[str, Any]] = {}
        self.parked: list[Parked] = []
        self.ring: list[str] = []
        self.forgotten_ms = -1
        self.transfers: list[dict[str, Any]] = []
        self.transfers_forgotten_ms = -1

    def record(self, name: str, now_ms: int, raw: dict[str, Any]) -> list[Fact]:
        """Take a record; `name` is its `topic:partition:offset`."""
        self.now_ms = now_ms
        self.facts = []
        message = parse(raw)
        try:
            self._take(name, message)
        except Refused as refused:
            self.say("rejected", reason=refused.reasons)
        self.settle()
        return self.facts

    def settle(self) -> None:
        self._take_parked()
        self._forget()

    def _take(self, name: str, message: dict[str, Any], *, parked: bool = False) -> None:
        if message["margin_currency"] not in self.funds:
            raise Refused("unknown_currency")
        if not parked and message["event_time_ms"] > self.now_ms + AHEAD_MS_MAX:
            raise Refused
        if not self._is_known(message):
            liquidation_id = message.get("liquidation_id")
            unknown = liquidation_id is not None and liquidation_id not in self.liquidations
            if unknown and message["event_time_ms"] <= self.forgotten_ms:
                raise Refused("too_old")
            if not parked and self._is_early(message):
                self._park(name, message)
                return
            self._apply(message)
        liq = self.liquidations.get(message.get("liquidation_id", ""))
        if liq is not None:
            liq.newest_event_ms = max(liq.newest_event_ms, message["event_time_ms"])

    def _is_known(self, message: dict[str, Any]) -> bool:
        """Ignore a duplicate, refuse a conflicting one."""
        if message["type"] == "liquidation_order_submitted" and self._acknowledges(message):
            return True
        if message["type"] == "liquidation_order_closed" and self._closed_by_fill(message):
            return True
        key = key_of(message)
        if key is None:
            return False
        waiting = [p.message for p in self.parked if key_of(p.message) == key]
        before = self.known.get(key) or (content(waiting[0]) if waiting else None)
        if before is None:
            return False
        if before == content(message):
            self.say("duplicate_ignored")
            return True
        if message["type"] == "liquidation_order_closed":
            raise Refused("conflicting_close")
        raise Refused("conflicting_duplicate")

    def _order(self, message: dict[str, Any]) -> Order | None:
        liq = self.liquidations.get(message["liquidation_id"])
        return None if liq is None else liq.orders.get(message["order_id"])

    def _acknowledges(self, message: dict[str, Any]) -> bool:
        order = self._order(message)
        if order is None or order.content is not None:
            return False
        if (order.price, order.quantity) != (message["price"], message["quantity"]):
            raise Refused("conflicting_duplicate")
        self.say("duplicate_ignored")
        return True

    def _closed_by_fill(self, message: dict[str, Any]) -> bool:
        """Ignore the report of an order that ended with its last fill, or its liquidation."""
        order = self._order(message)
        if order is None or order.report_content is not None:
            return False
        liq = self.liquidations[message["liquidation_id"]]
        if order.status != "closed" and not liq.closed:
            return False
        if liq.counted(order) != message["filled_quantity"]:
            raise Refused("conflicting_close")
        self.say("duplicate_ignored")
        return True

    # -- early records

    def _is_early(self, message: dict[str, Any]) -> bool:
        kind = message["type"]
        if kind == "position_taken_over":
            return message["instrument_id"] not in self.instruments
        if "liquidation_id" not in message:
            return False
        if message["liquidation_id"] not in self.liquidations:
            return True
        # Of a closed liquidation no order can come any more.
        closed = self.liquidations[message["liquidation_id"]].closed
        needs_order = kind in ("fill", "liquidation_order_closed") and not closed
        return needs_order and self._order(message) is None

    def _park(self, name: str, message: dict[str, Any]) -> None:
        if len(self.parked) >= self.policy["parked_max"]:
            self._parked_due(self.parked[0].name)
        self.parked.append(Parked(name, message))
        self.deadlines[f"parked:{name}"] = self.now_ms + self.policy["parked_ms"]
        self.say("record_parked")

    def _parked_due(self, rest: str) -> None:
        self.deadlines.pop(f"parked:{rest}", None)
        self.parked = [p for p in self.parked if p.name != rest]
        self.say("parked_expired")

    def _take_parked(self) -> None:
        while ready := [p for p in self.parked if not self._is_early(p.message)]:
            parked = ready[0]
            self.parked.remove(parked)
            self.deadlines.pop(f"parked:{parked.name}", None)
            try:
                self._take(parked.name, parked.message, parked=True)
            except Refused as refused:
                self.say("rejected", reason=refused.reasons)

    # -- what a record does

    def _apply(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "instrument_defined":
            self._define(message)
        elif kind == "position_taken_over":
            self._take_over(message)
        elif "transfer_id" in message:
            self._transfer(message)
        else:
            self._about_liquidation(kind, self.liquidations[message["liquidation_id"]], message)
        key = key_of(message)
        if key is not None:
            self.known[key] = content(message)
        liquidation_id = message.get("liquidation_id")
        if (
            liquidation_id
            and self.liquidations[liquidation_id].closed
            and liquidation_id not in self.ring
        ):
            self.ring.append(liquidation_id)

    def _define(self, message: dict[str, Any]) -> None:
        before = self.instruments.get(message["instrument_id"])
        if before is not None:
            if content(before) == content(message):
                self.say("duplicate_ignored")
                return
            if any(before[n] != message[n] for n in ("contract_type", "margin_currency")):
                raise Refused
        self.instruments[message["instrument_id"]] = message
        self.say("instrument_defined")

    def _transfer(self, message: dict[str, Any]) -> None:
        if message["event_time_ms"] <= self.transfers_forgotten_ms:
            raise Refused("too_old")
        currency, amount = message["margin_currency"], message["amount"]
        fund = self.funds[currency]
        if floor_at(amount, fund.scale) != amount:
            raise Refused
        if message["type"] == "fund_deposit":
            fund.available += amount
            kind = "fund_deposited"
        elif message["type"] == "fund_withdrawal":
            if amount > fund.available - fund.floor:
                raise Refused
            fund.available -= amount
            fund.withdrawn += amount
            kind = "fund_withdrawn"
        else:
            if amount > -fund.shortfall:
                raise Refused
            fund.shortfall += amount
            kind = "shortfall_paid"
        self.note(currency)
        self.transfers.append(message)
        self.say(kind, transfer_id=message["transfer_id"], amount=amount)

    def _take_over(self, message: dict[str, Any]) -> None:
        terms = self.instruments[message["instrument_id"]]
        currency = message["margin_currency"]
        if terms["margin_currency"] != currency or message["quantity"] % terms["quantity_step"]:
            raise Refused
        instruments = self.policy["instruments"]
        policy = {
            **self.policy,
            **self.policy["default"],
            **instruments.get(message["instrument_id"], {}),
        }
        scale = self.funds[currency].scale
        position = Position(
            contract_type=terms["contract_type"],
            contract_size=terms["contract_size"],
            tick=terms["tick_size"],
            step=terms["quantity_step"],
            fee_rate=terms["closing_fee_rate"],
            scale=scale,
            side=message["position_side"],
            quantity=message["quantity"],
            entry=message["entry_price"],
            margin=floor_at(message["margin"], scale),
            mark=message["mark_price"],
            unbounded_price_factor=Fraction(policy["unbounded_price_factor"]),
        )
        liq = Liquidation(
            liquidation_id=message["liquidation_id"],
            currency=currency,
            instrument_id=message["instrument_id"],
            position=position,
            policy=policy,
            content=content(message),
        )
        self.liquidations[liq.liquidation_id] = liq
        price = position.bankruptcy_price()
        self.say(
            "position_taken_over",
            liquidation_id=liq.liquidation_id,
            margin=position.margin,
            bankruptcy_price=None if price is None else floor_at(price, 18),
        )
        if policy["order_pricing"] == "exchange":
            name = f"first_order:{liq.liquidation_id}"
            self.deadlines[name] = self.now_ms + policy["first_order_wait_ms"]
        elif position.has_no_order_price():
            self.retarget(liq, "no_order")
        else:
            self.attempt(liq, 0)

    def _about_liquidation(self, kind: str, liq: Liquidation, message: dict[str, Any]) -> None:
        if message["margin_currency"] != liq.currency:
            raise Refused
        if message.get("quantity", ZERO) % liq.position.step:
            raise Refused
        if kind == "fill":
            self._fill(liq, message)
        elif kind == "liquidation_order_submitted":
            self._submitted(liq, message)
        elif kind == "liquidation_order_closed":
            self._reported(liq, message)
        elif kind == "adl_executed":
            self._adl_executed(liq, message)
        else:
            if liq.closed or liq.revision == 0:
                raise Refused
            self.say("adl_unfilled", quantity=message["quantity"])

    def _fill(self, liq: Liquidation, message: dict[str, Any]) -> None:
        side = "sell" if liq.position.side == "long" else "buy"
        if message["side"] != side or message["instrument_id"] != liq.instrument_id:
            raise Refused
        order = liq.orders.get(message["order_id"])
        quantity = message["quantity"]
        fits = liq.residual() + (liq.awaited(order) if order else ZERO)
        reasons = set()
        if order and quantity > order.quantity - liq.seen(order):
            reasons.add("exceeds_order")
        if quantity > fits:
            taken = liq.deleveraged()
            if taken:
                reasons.add("overclosed_by_adl")
            if quantity > fits + taken:
                reasons.add("exceeds_residual")
        if order is None or reasons:
            raise Refused(*reasons)
        self.fill(liq, order, message)

    def _submitted(self, liq: Liquidation, message: dict[str, Any]) -> None:
        if liq.policy["order_pricing"] != "exchange" or liq.closed:
            raise Refused
        if message["quantity"] + liq.open_quantity() > liq.residual():
            raise Refused
        order = Order(
            order_id=message["order_id"],
            price=message["price"],
            quantity=message["quantity"],
            content=content(message),
        )
        self.observe(liq, order, message["expires_at_ms"])

    def _reported(self, liq: Liquidation, message: dict[str, Any]) -> None:
        order = liq.orders.get(message["order_id"])
        if order is None or liq.closed:
            raise Refused
        filled = message["filled_quantity"]
        if filled % liq.position.step or filled > order.quantity:
            raise Refused
        if filled - liq.counted(order) > liq.residual():
            raise Refused
        self.report(liq, order, message)

    def _adl_executed(self, liq: Liquidation, message: dict[str, Any]) -> None:
        if liq.revision == 0 or message["trigger_id"] != f"{liq.liquidation_id}:adl":
            raise Refused
        if liq.residual() == 0:
            raise Refused("no_residual")
        self.adl(liq, message)

    def _forget(self) -> None:
        while len(self.ring) > self.policy["closed_max"]:
            gone = self.ring.pop(0)
            liq = self.liquidations.pop(gone)
            self.forgotten_ms = max(self.forgotten_ms, liq.newest_event_ms)
            self.known = {k: v for k, v in self.known.items() if v.get("liquidation_id") != gone}
        while len(self.transfers) > self.policy["closed_max"]:
            message = self.transfers.pop(0)
            newest = max(self.transfers_forgotten_ms, message["event_time_ms"])
            self.transfers_forgotten_ms = newest
            del self.known["transfer", message["transfer_id"]]
