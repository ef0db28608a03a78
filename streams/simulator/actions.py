"""What an exchange may say next, chosen so that most of it matters to the fund."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from insurance_fund.events import topics
from insurance_fund.events.amounts import amount_text
from insurance_fund.fund.state import Liquidation, Order, State


class Said(NamedTuple):
    """A message to a topic, or bytes that are said again, to the partition they went to before."""

    topic: str
    message: Any
    partition: int | None = None


INSTRUMENTS: Final[dict[str, dict[str, str]]] = {
    "BTCUSDT": {
        "contract_type": "linear",
        "contract_size": "0.01",
        "tick_size": "0.1",
        "quantity_step": "1",
        "closing_fee_rate": "0.0005",
        "margin_currency": "USDT",
    },
    "SOLUSDT": {
        "contract_type": "linear",
        "contract_size": "1",
        "tick_size": "0.01",
        "quantity_step": "1",
        "closing_fee_rate": "0",
        "margin_currency": "USDT",
    },
    "XBTUSD": {
        "contract_type": "inverse",
        "contract_size": "100",
        "tick_size": "0.5",
        "quantity_step": "1",
        "closing_fee_rate": "0.00075",
        "margin_currency": "XBT",
    },
}
_ENTRY: Final = {"BTCUSDT": 50_000, "SOLUSDT": 150, "XBTUSD": 50_000}
_ACTIONS_MAX: Final = 9


class Actions:
    """Chooses messages by the state that the fund is in when they are written."""

    def __init__(self, rng: random.Random, state: State) -> None:
        self._rng = rng
        self._state = state
        self._names = 0
        self._said: list[Said] = []
        self._withheld: list[Said] = []
        self._weighted: tuple[tuple[Callable[[], Said | None], int], ...] = (
            (self._take_over, 16),
            (self._fill, 34),
            (self._report, 14),
            (self._submit, 10),
            (self._deleverage, 14),
            (self._again, 8),
            (self._transfer, 7),
            (self._wrong, 4),
            (self._ordinary, 4),
            (self._adl_unfilled, 2),
            (self._conflict, 2),
            (self._define, 1),
        )

    def opening(self) -> list[Said]:
        """Return what comes first: most instruments, and money."""
        defined = [self._instrument(name) for name in ("BTCUSDT", "SOLUSDT", "XBTUSD")]
        if self._chance(30):
            self._withheld.append(defined.pop())
        deposits = [self._money("fund_deposit", c, a) for c, a in (("USDT", "80"), ("XBT", "0.01"))]
        return [*defined, *deposits]

    def some(self) -> list[Said]:
        """Return what happens at one time."""
        actions, weights = zip(*self._weighted, strict=True)
        chosen = self._rng.choices(actions, weights, k=self._rng.randint(1, _ACTIONS_MAX))
        said = [one for action in chosen if (one := action()) is not None]
        if self._withheld and self._chance(25):
            said.append(self._withheld.pop(0))
        return said

    def saw(self, topic: str, partition: int, value: bytes | None) -> None:
        """Remember what was published, to say it again."""
        self._said.append(Said(topic, value, partition))

    def _chance(self, percent: int) -> bool:
        return self._rng.randrange(100) < percent

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _message(self, topic: str, kind: str, **fields: Any) -> Said:
        return Said(topic, {"type": kind, "event_id": self._name("e"), **fields})

    def _about(self, liquidation: Liquidation, kind: str, **fields: Any) -> Said:
        return self._message(
            topics.LIQUIDATIONS,
            kind,
            margin_currency=liquidation.margin_currency,
            liquidation_id=liquidation.liquidation_id,
            **fields,
        )

    # Money and instruments.

    def _instrument(self, name: str, **changed: str) -> Said:
        terms = {**INSTRUMENTS[name], **changed}
        return self._message(topics.INSTRUMENTS, "instrument_defined", instrument_id=name, **terms)

    def _define(self) -> Said:
        name = self._rng.choice(sorted(INSTRUMENTS))
        return self._instrument(name, closing_fee_rate=self._rng.choice(("0", "0.0005", "0.001")))

    def _money(self, kind: str, currency: str, amount: str) -> Said:
        return self._message(
            topics.FUND_TRANSFERS,
            kind,
            margin_currency=currency,
            transfer_id=self._name("t"),
            amount=amount,
            memo="m",
        )

    def _transfer(self) -> Said:
        currency = self._rng.choice(("USDT", "USDT", "XBT"))
        fund = self._state.funds.get(currency)
        if fund is not None and fund.shortfall and self._chance(70):
            return self._money("shortfall_payment", currency, amount_text(-fund.shortfall))
        kind = self._rng.choice(("fund_deposit", "fund_withdrawal"))
        amount = self._rng.choice(("1", "5", "20")) if currency == "USDT" else "0.0005"
        return self._money(kind, currency, amount)

    # Takeovers.

    def _take_over(self) -> Said | None:
        instrument_id = self._rng.choice(sorted(INSTRUMENTS))
        terms = INSTRUMENTS[instrument_id]
        contracts = self._rng.randint(1, 12)
        entry = _ENTRY[instrument_id] + self._rng.randint(-20, 20)
        size = contracts * Decimal(terms["contract_size"])
        notional = size / entry if terms["contract_type"] == "inverse" else size * entry
        permille = self._rng.choice((0, 3, 10, 10, 40))
        said = self._message(
            topics.LIQUIDATIONS,
            "position_taken_over",
            margin_currency=terms["margin_currency"],
            liquidation_id=self._name("liq"),
            account_id="acc",
            instrument_id=instrument_id,
            position_side=self._rng.choice(("long", "short")),
            quantity=str(contracts),
            entry_price=str(entry),
            margin=f"{notional * permille / 1_000:.8f}",
        )
        if self._chance(12):
            self._withheld.append(said)
            return None
        return said

    # Orders and fills.

    def _liquidation(self) -> Liquidation | None:
        alive = list(self._state.liquidations.values())
        return self._rng.choice(alive[-6:]) if alive else None

    def _order(self) -> tuple[Liquidation, Order] | None:
        liquidation = self._liquidation()
        if liquidation is None or not liquidation.orders:
            return None
        return liquidation, self._rng.choice(list(liquidation.orders.values()))

    def _fill(self) -> Said | None:
        if self._withheld and self._chance(15):
            return self._early_fill()
        chosen = self._order()
        if chosen is None:
            return None
        liquidation, order = chosen
        rest = int(order.rest) if self._chance(90) else int(order.quantity)
        if rest < 1:
            return None
        quantity = rest if self._chance(40) else self._rng.randint(1, rest)
        better = 1 if liquidation.side == "long" else -1
        ticks = self._rng.choice((0, 0, 3, 40, 400, -4, -9_000))
        price = order.price + better * ticks * Decimal(liquidation.terms.tick_size)
        return self._message(
            topics.FILLS,
            "fill",
            margin_currency=liquidation.margin_currency,
            fill_id=self._name("f"),
            liquidation_id=liquidation.liquidation_id,
            order_id=order.order_id,
            instrument_id=liquidation.terms.instrument_id,
            side="sell" if liquidation.side == "long" else "buy",
            price=amount_text(max(price, order.price / 2)),
            quantity=str(quantity),
            fee=self._rng.choice(("0", "0", "0.0000012", "-0.000001")),
        )

    def _early_fill(self) -> Said | None:
        topic, coming, _ = self._rng.choice(self._withheld)
        if topic != topics.LIQUIDATIONS:
            return None
        return self._message(
            topics.FILLS,
            "fill",
            margin_currency=coming["margin_currency"],
            fill_id=self._name("f"),
            liquidation_id=coming["liquidation_id"],
            order_id=f"{coming['liquidation_id']}:1",
            instrument_id=coming["instrument_id"],
            side="sell" if coming["position_side"] == "long" else "buy",
            price=coming["entry_price"],
            quantity="1",
        )

    def _submit(self) -> Said | None:
        among = [
            one
            for one in self._state.liquidations.values()
            if one.policy.order_pricing == "exchange" and one.uncovered
        ]
        if not among:
            return None
        liquidation = self._rng.choice(among)
        most = int(liquidation.uncovered)
        return self._about(
            liquidation,
            "liquidation_order_submitted",
            order_id=f"x{liquidation.liquidation_id}:{len(liquidation.orders) + 1}",
            price=amount_text(liquidation.entry_price),
            quantity=str(self._rng.randint(1, most)),
            expires_at_ms=self._state.now_ms + self._rng.choice((10_000, 40_000)),
        )

    def _report(self) -> Said | None:
        chosen = self._order()
        if chosen is None:
            return None
        liquidation, order = chosen
        filled, reason = order.seen, self._rng.choice(("expired", "cancelled", "rejected"))
        if self._chance(25):
            filled = min(order.quantity, order.seen + 1)
        if filled == order.quantity:
            reason = "filled"
        final = {"final": False} if self._chance(25) else {}
        return self._about(
            liquidation,
            "liquidation_order_closed",
            order_id=order.order_id,
            reason=reason,
            filled_quantity=amount_text(filled),
            **final,
        )

    # Deleveraging.

    def _deleverage(self) -> Said | None:
        among = [one for one in self._state.liquidations.values() if one.trigger_target]
        if not among:
            return None
        liquidation = self._rng.choice(among)
        trigger = liquidation.trigger
        assert trigger is not None, "it has a target"
        target = int(liquidation.trigger_target)
        quantity = target if self._chance(60) else self._rng.randint(1, target + 1)
        return self._about(
            liquidation,
            "adl_executed",
            execution_id=self._name("x"),
            trigger_id=liquidation.trigger_id,
            trigger_revision=trigger.revision,
            quantity=str(quantity),
            price=trigger.price,
        )

    def _adl_unfilled(self) -> Said | None:
        liquidation = self._liquidation()
        if liquidation is None:
            return None
        return self._about(
            liquidation,
            "adl_unfilled",
            trigger_id=liquidation.trigger_id,
            quantity="1",
            reason="nobody",
        )

    # What should not be, and what does not matter.

    def _again(self) -> Said | None:
        return self._rng.choice(self._said[-40:]) if self._said else None

    def _conflict(self) -> Said | None:
        said = self._again()
        for old, other in ((b'"price":"', b'"price":"1'), (b'"amount":"', b'"amount":"1')):
            if said is not None and said.message is not None and old in said.message:
                return said._replace(message=said.message.replace(old, other))
        return None

    def _wrong(self) -> Said:
        topic = self._rng.choice(topics.INPUT_TOPICS)
        broken = b'{"liquidation_id":"broken'
        value = self._rng.choice((broken, None, b'{"liquidation_id":1,"type":"fill"}'))
        return Said(topic, value)

    def _ordinary(self) -> Said:
        # What a bus carries beside the fills of liquidations, with and without a time of its own.
        fill = {"type": "fill", "fill_id": self._name("of-nobody-"), "price": "1"}
        return Said(topics.FILLS, fill if self._chance(50) else b'{"type":"fill"}')
