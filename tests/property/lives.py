"""Random lives: what happens next, chosen so that most of it matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from tests.property.choices import INSTRUMENTS, Chooser, random_policy, text
from tests.property.model_liquidation import Liquidation, Order
from tests.property.model_prices import ZERO, ceil_at
from tests.property.world import World

T = TypeVar("T")

# What can happen, and how often of a hundred or so.
ACTIONS = {
    "take_over": 14,
    "fill": 30,
    "submit": 16,
    "report": 12,
    "adl": 9,
    "pass_time": 14,
    "again": 4,
    "conflict": 2,
    "deposit": 2,
    "withdraw": 2,
    "pay_shortfall": 5,
    "define_instrument": 2,
    "adl_unfilled": 1,
    "wrong": 1,
}


def _silent(_line: str) -> None:
    pass


class Lives:
    """Lives of many liquidations on shared funds, one step at a time."""

    def __init__(self, choose: Chooser, tell: Callable[[str], None] = _silent) -> None:
        self.choose = choose
        self.world = World(random_policy(choose), tell)
        self.withheld: list[dict[str, Any]] = []
        self.undefined: list[str] = []
        self.names = 0
        for name, terms in INSTRUMENTS.items():
            if self.chance(8):
                self.undefined.append(name)
            else:
                self.world.post("instruments", {"type": "instrument_defined", **terms})
        for currency in ("USDT", "XBT"):
            self.transfer("fund_deposit", currency, choose.pick(("1", "0.2", "20", "0.01")))

    def act(self, choose: Chooser, action: str) -> None:
        """Do one thing, chosen about by `choose`."""
        self.choose = choose
        getattr(self, action)()

    def act_by_weight(self) -> None:
        self.act(self.choose, self.weighted(list(ACTIONS), list(ACTIONS.values())))

    def chance(self, percent: int) -> bool:
        # Simple choices come first, so that shrinking turns the odd things off.
        return self.choose.number(0, 99) >= 100 - percent

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    # -- money

    def transfer(self, kind: str, currency: str, amount: str) -> None:
        message = {
            "type": kind,
            "margin_currency": currency,
            "transfer_id": self.name("t"),
            "amount": amount,
            "memo": "m",
        }
        self.world.post("fund-transfers", message)

    def deposit(self) -> None:
        self.transfer(
            "fund_deposit",
            self.choose.pick(("USDT", "XBT")),
            self.choose.pick(("0.1", "0.55", "3", "0.0000000001")),
        )

    def withdraw(self) -> None:
        currency = self.choose.pick(("USDT", "XBT"))
        fund = self.world.model.funds[currency]
        most = max(fund.unit, fund.available - fund.floor)
        amount = self.choose.pick((most, most / 2, most + fund.unit))
        self.transfer("fund_withdrawal", currency, text(amount, fund.scale))

    def pay_shortfall(self) -> None:
        funds = self.world.model.funds
        owing = [name for name, fund in funds.items() if fund.shortfall]
        if not owing and not self.chance(15):
            return
        currency = self.choose.pick(owing or sorted(funds))
        fund = funds[currency]
        owed = max(fund.unit, -fund.shortfall)
        amount = self.choose.pick((owed, owed, owed / 2, owed + fund.unit))
        self.transfer("shortfall_payment", currency, text(amount, fund.scale))

    # -- instruments and takeovers

    def define_instrument(self) -> None:
        names = self.undefined or sorted(INSTRUMENTS)
        name = self.choose.pick(names)
        terms = dict(INSTRUMENTS[name])
        if name in self.undefined:
            self.undefined.remove(name)
        elif self.chance(50):
            terms["closing_fee_rate"] = self.choose.pick(("0.002", "0"))
        elif self.chance(30):
            terms["contract_type"] = "linear"
        self.world.post("instruments", {"type": "instrument_defined", **terms})

    def take_over(self) -> None:
        if self.withheld and self.chance(60):
            self.world.post("liquidations", self.withheld.pop(0))
            return
        terms = INSTRUMENTS[self.choose.pick(sorted(INSTRUMENTS))]
        contracts = self.choose.pick((1, 2, 3, 7, 10)) * Fraction(terms["quantity_step"])
        entry = Fraction(self.choose.pick((10_000, 9_731, 10_255)), 100)
        size = contracts * Fraction(terms["contract_size"])
        notional = size / entry if terms["contract_type"] == "inverse" else size * entry
        permille = self.choose.pick((10, 3, 0, 50, 900, 1_200, 3_000))
        if self.chance(3):
            entry, notional = Fraction(terms["tick_size"]) / 3, ZERO
        message = {
            "type": "position_taken_over",
            "margin_currency": terms["margin_currency"],
            "liquidation_id": self.name("liq"),
            "account_id": "acc",
            "instrument_id": terms["instrument_id"],
            "position_side": self.choose.pick(("long", "short")),
            "quantity": text(contracts),
            "entry_price": text(entry),
            "margin": text(notional * permille / 1_000, self.choose.pick((4, 12))),
        }
        if self.chance(20):
            message["mark_price"] = text(entry * 99 / 100)
        if self.chance(10):
            self.withheld.append(message)
        else:
            self.world.post("liquidations", message)

    # -- choosing what a message is about

    def liquidation(self) -> Liquidation | None:
        known = list(self.world.model.liquidations.values())
        alive = [q for q in known if not q.closed]
        among = known if not alive or self.chance(5) else alive
        return self.choose.pick(among[-4:]) if among else None

    def order(self, *, fitting: bool) -> tuple[Liquidation, Order] | None:
        """Choose an order; `fitting` prefers those of which something can still be filled."""
        liqs = [q for q in self.world.model.liquidations.values() if q.orders]
        known = [(q, o) for q in liqs for o in q.orders.values()]
        useful = [
            (q, o)
            for q, o in known
            if not q.closed and (self.fits(q, o) > 0 if fitting else o.report_content is None)
        ]
        if not known or (not useful and not self.chance(20)):
            return None
        return self.choose.pick((useful if useful and not self.chance(7) else known)[-6:])

    def fits(self, liq: Liquidation, order: Order) -> Fraction:
        return min(liq.rest(order), liq.residual() + liq.awaited(order))

    def some(self, most: Fraction, step: Fraction) -> Fraction:
        """Return a quantity, mostly at most `most`, mostly in steps."""
        steps = int(most / step)
        if steps <= 0 or self.chance(4):
            return self.choose.pick((1, 2, 5, 11)) * step
        if self.chance(2):
            return step / 3 if step % 3 == 0 else step / 2
        return (steps if self.chance(40) else self.choose.number(1, steps)) * step

    def price_near(self, liq: Liquidation, limit: Fraction) -> Fraction:
        """Return a price about a limit: mostly at it or better."""
        better = self.choose.pick((0, 0, 1, 5, 20, 100, -3, -60, -300))
        price = limit * (1 + liq.position.sign * Fraction(better, 1_000))
        exact = better == 0 or price <= 0
        return limit if exact else max(Fraction(1, 10_000), ceil_at(price, 4))

    def fee_for(self, liq: Liquidation, quantity: Fraction, price: Fraction) -> str:
        due = liq.position.fee_rate * liq.position.notional(quantity, price)
        tenths = self.choose.pick((10, 10, 0, 5, -3, 30))
        digits = self.choose.pick((18, liq.position.scale, liq.position.scale + 2))
        if tenths == 10 and digits != 18:
            return text(due, digits)
        return text(due * tenths / 10, digits)

    # -- fills and orders

    def fill(self) -> None:
        if self.withheld and self.chance(10):
            self.early_fill()
            return
        about = self.order(fitting=True)
        if about is None:
            return
        liq, order = about
        quantity = self.some(self.fits(liq, order), liq.position.step)
        price = self.price_near(liq, order.price)
        side = "sell" if liq.position.side == "long" else "buy"
        if self.chance(2):
            side = "buy"
        order_id = order.order_id
        if self.chance(4):
            order_id = f"{liq.liquidation_id}:{len(liq.orders) + 1}"
        self.world.post(
            "fills",
            {
                "type": "fill",
                "margin_currency": liq.currency,
                "fill_id": self.name("f"),
                "liquidation_id": liq.liquidation_id,
                "order_id": order_id,
                "instrument_id": liq.instrument_id,
                "side": side,
                "price": text(price),
                "quantity": text(quantity),
                "fee": self.fee_for(liq, quantity, price),
            },
        )

    def early_fill(self) -> None:
        coming = self.choose.pick(self.withheld)
        order_id = f"{coming['liquidation_id']}:1"
        about = {
            "margin_currency": coming["margin_currency"],
            "liquidation_id": coming["liquidation_id"],
            "order_id": order_id,
        }
        if coming["instrument_id"].endswith("-exch") and self.chance(50):
            submitted = {
                "type": "liquidation_order_submitted",
                "price": coming["entry_price"],
                "quantity": coming["quantity"],
                "expires_at_ms": self.world.now_ms + 20_000,
            }
            self.world.post("liquidations", {**about, **submitted})
            return
        step = Fraction(INSTRUMENTS[coming["instrument_id"]]["quantity_step"])
        if self.chance(20):
            report = {
                "type": "liquidation_order_closed",
                "reason": "expired",
                "filled_quantity": text(self.choose.pick((ZERO, step))),
            }
            self.world.post("liquidations", {**about, **report})
            return
        fill = {
            "type": "fill",
            "fill_id": self.name("f"),
            "instrument_id": coming["instrument_id"],
            "side": "sell" if coming["position_side"] == "long" else "buy",
            "price": coming["entry_price"],
            "quantity": text(step),
        }
        self.world.post("fills", {**about, **fill})

    def submit(self) -> None:
        known = [q for q in self.world.model.liquidations.values() if not q.closed]
        among = [
            q
            for q in known
            if q.policy["order_pricing"] == "exchange" and q.residual() > q.open_quantity()
        ]
        if self.chance(7):
            among = known
        if not among:
            return
        liq = self.choose.pick(among[-4:])
        position = liq.position
        if liq.policy["order_pricing"] == "fund" and liq.orders and self.chance(70):
            order = self.choose.pick(list(liq.orders.values()))
            order_id, price, quantity = order.order_id, order.price, order.quantity
            quantity += self.choose.pick((ZERO, position.step))
        else:
            order_id = f"{liq.liquidation_id}.x:{len(liq.orders) + 1}"
            around = position.bankruptcy_price() or position.entry
            around = max(around, position.tick)
            price = self.price_near(liq, position.to_tick(around)) or position.tick
            quantity = self.some(liq.residual() - liq.open_quantity(), position.step)
        self.world.post(
            "liquidations",
            {
                "type": "liquidation_order_submitted",
                "margin_currency": liq.currency,
                "liquidation_id": liq.liquidation_id,
                "order_id": order_id,
                "price": text(price),
                "quantity": text(quantity),
                "expires_at_ms": self.world.now_ms + self.choose.pick((20_000, 60_000, 1, -5_000)),
            },
        )

    def report(self) -> None:
        about = self.order(fitting=False)
        if about is None:
            return
        liq, order = about
        seen, step = liq.seen(order), liq.position.step
        more, filled = self.fits(liq, order), seen
        reason = self.choose.pick(("expired", "cancelled", "rejected", "expired"))
        if self.chance(45):
            filled += self.some(more, step)
        elif self.chance(5) and seen:
            filled -= step
        if filled == order.quantity or self.chance(5):
            reason = "filled"
        message: dict[str, Any] = {
            "type": "liquidation_order_closed",
            "margin_currency": liq.currency,
            "liquidation_id": liq.liquidation_id,
            "order_id": order.order_id,
            "reason": reason,
            "filled_quantity": text(filled),
        }
        if self.chance(35 if liq.policy["order_pricing"] == "exchange" else 3):
            message["final"] = False
        self.world.post("liquidations", message)

    # -- deleveraging

    def adl(self) -> None:
        alive = [q for q in self.world.model.liquidations.values() if not q.closed and q.revision]
        if not alive and not self.chance(15):
            return
        liq = self.choose.pick(alive[-4:]) if alive and self.chance(95) else self.liquidation()
        if liq is None:
            return
        position = liq.position
        most = liq.residual() if self.chance(30) else liq.pending()
        quantity = self.some(most, position.step)
        if self.chance(10):
            quantity += 2 * position.step
        price = self.price_near(liq, max(position.tick, position.adl_price(ZERO)[0]))
        self.world.post(
            "liquidations",
            {
                "type": "adl_executed",
                "margin_currency": liq.currency,
                "execution_id": self.name("x"),
                "liquidation_id": liq.liquidation_id,
                "trigger_id": f"{liq.liquidation_id}:adl",
                "trigger_revision": self.choose.number(1, max(1, liq.revision)),
                "quantity": text(quantity),
                "price": text(price),
                "fee": self.choose.pick(("0", "0.0011", "-0.0007")),
            },
        )

    def adl_unfilled(self) -> None:
        liq = self.liquidation()
        if liq is None:
            return
        self.world.post(
            "liquidations",
            {
                "type": "adl_unfilled",
                "margin_currency": liq.currency,
                "liquidation_id": liq.liquidation_id,
                "trigger_id": f"{liq.liquidation_id}:adl",
                "quantity": text(liq.position.step),
                "reason": "nobody",
            },
        )

    # -- records again, and time

    def again(self) -> None:
        """Send a message once more, with other ids and times that do not matter."""
        topic, message = self.choose.pick(self.world.sent_messages[-25:])
        message = {k: v for k, v in message.items() if k not in ("event_id", "event_time_ms")}
        if self.chance(20):
            message["unknown_extra"] = "1"
        if self.chance(10):
            message["event_time_ms"] = self.world.now_ms - 60_000
        self.world.post(topic, message)

    def conflict(self) -> None:
        """Send another message under the same key."""
        topic, message = self.choose.pick(self.world.sent_messages[-25:])
        message = {k: v for k, v in message.items() if k not in ("event_id", "event_time_ms")}
        name = next(
            (n for n in ("price", "amount", "margin", "filled_quantity") if n in message), None
        )
        if name is None:
            return
        scale = 0 if name == "filled_quantity" else 1
        message[name] = text(Fraction(message[name]) + Fraction(3, 10**scale))
        self.world.post(topic, message)

    def wrong(self) -> None:
        """Send what must be refused."""
        if not self.world.sent_messages:
            return
        topic, message = self.choose.pick(self.world.sent_messages[-10:])
        if self.chance(50):
            message = {**message, "margin_currency": "DOGE"}
        else:
            message = {**message, "event_time_ms": self.world.now_ms + 400_000}
        self.world.post(topic, message)

    def pass_time(self) -> None:
        first = self.world.state.schedule.first()
        until = 1_000 if first is None else max(0, first[0] - self.world.now_ms)
        waits = (until, until, 500, 10_000, 33_000, 700_000, 3_700_000, 10 * 3_600_000)
        weights = (30, 25, 15, 15, 7, 5, 2, 1)
        self.world.pass_time(self.weighted(waits, weights))

    def weighted(self, among: Sequence[T], weights: Sequence[int]) -> T:
        at = self.choose.number(0, sum(weights) - 1)
        for value, weight in zip(among, weights, strict=True):
            at -= weight
            if at < 0:
                return value
        raise AssertionError
