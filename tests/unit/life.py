"""A life: given these facts, when this comes, then these effects. Drives a real bookkeeper."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypeVar

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import ClockCause, PolicyCause, decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import Bookkeeper, Written, apply_entry
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import parse_policy, policy_document
from insurance_fund.fund.state import State, snapshot_bytes

START_MS = 1_767_312_000_000
EffectType = TypeVar("EffectType", bound=fx.Effect)

BTCUSDT = {
    "instrument_id": "BTCUSDT",
    "contract_type": "linear",
    "contract_size": "0.01",
    "tick_size": "0.1",
    "quantity_step": "1",
    "closing_fee_rate": "0.0005",
}
XBTUSD = {
    "instrument_id": "XBTUSD",
    "contract_type": "inverse",
    "contract_size": "1",
    "tick_size": "0.5",
    "quantity_step": "1",
    "closing_fee_rate": "0.00075",
    "margin_currency": "XBT",
}
ETHUSD = {
    "instrument_id": "ETHUSD",
    "contract_type": "quanto",
    "contract_size": "0.000001",
    "tick_size": "0.05",
    "quantity_step": "1",
    "closing_fee_rate": "0",
    "margin_currency": "XBT",
}


class Life:
    """Sends messages to a fund one by one; every entry is also evolved and decided again."""

    def __init__(
        self,
        policy: dict[str, Any] | None = None,
        *,
        clock: str = "wall",
        deposit: str | None = "1000",
        instruments: tuple[dict[str, str], ...] = (BTCUSDT,),
    ) -> None:
        self.now_ms = START_MS
        self.offsets = 0
        self.lines: list[bytes] = []
        self.keeper = Bookkeeper("main", State())
        self._evolved = State()
        self._again = Bookkeeper("main", State())
        self.clock = clock
        self.set_policy(policy or {})
        for instrument in instruments:
            self.send("instruments", "instrument_defined", **instrument)
        if deposit is not None:
            self.deposit(deposit)

    def set_policy(self, policy: dict[str, Any]) -> Written:
        """Let a policy hold from here on; the first one is entry 0."""
        document = policy_document(parse_policy(policy))
        cause = PolicyCause(
            policy=document,
            routing=dict.fromkeys(document["currencies"], "main"),
            clock=self.clock,  # type: ignore[arg-type]
            rules=RULES,
            software="test",
        )
        return self._keep(self.keeper.policy(cause, self.now_ms))

    @property
    def state(self) -> State:
        return self.keeper.state

    def _keep(self, written: Written) -> Written:
        self.lines.append(written.line)
        entry = decode_entry(written.line)
        apply_entry(self._evolved, entry, sha256_hex(written.line))
        assert snapshot_bytes(self._evolved) == snapshot_bytes(self.state)
        assert self._again.again(entry).line == written.line
        self.last = written
        return written

    def raw(self, topic: str, value: bytes | None) -> Written:
        self.offsets += 1
        return self._keep(
            self.keeper.record(topic, 0, self.offsets, self.now_ms, value, self.now_ms)
        )

    def send(self, topic: str, kind: str, **fields: Any) -> Written:
        message = {
            "type": kind,
            "event_id": f"e{self.offsets}",
            "event_time_ms": self.now_ms,
            "margin_currency": "USDT",
            **fields,
        }
        return self.raw(topic, json.dumps(message).encode())

    def deposit(self, amount: str, currency: str = "USDT", name: str = "d1") -> Written:
        return self.transfer("fund_deposit", amount, name, currency)

    def transfer(self, kind: str, amount: str, name: str, currency: str = "USDT") -> Written:
        return self.send(
            "fund-transfers",
            kind,
            transfer_id=name,
            amount=amount,
            memo="m",
            margin_currency=currency,
        )

    def take_over(self, name: str = "liq-7", **fields: Any) -> Written:
        message = {
            "account_id": "acc",
            "instrument_id": "BTCUSDT",
            "position_side": "long",
            "quantity": "10",
            "entry_price": "50000",
            "margin": "500",
            **fields,
        }
        return self.send("liquidations", "position_taken_over", liquidation_id=name, **message)

    def fill(
        self,
        quantity: str,
        price: str = "44700",
        name: str = "f1",
        order: str = "liq-7:1",
        fee: str = "0",
        **fields: Any,
    ) -> Written:
        message = {
            "instrument_id": "BTCUSDT",
            "side": "sell",
            "liquidation_id": order.partition(":")[0],
            **fields,
        }
        return self.send(
            "fills",
            "fill",
            fill_id=name,
            order_id=order,
            price=price,
            quantity=quantity,
            fee=fee,
            **message,
        )

    def submit(self, order: str, price: str, quantity: str, **fields: Any) -> Written:
        message = {"liquidation_id": "liq-7", "expires_at_ms": self.now_ms + 30_000, **fields}
        return self.send(
            "liquidations",
            "liquidation_order_submitted",
            order_id=order,
            price=price,
            quantity=quantity,
            **message,
        )

    def report(self, order: str, reason: str, filled: str, **fields: Any) -> Written:
        message = {"liquidation_id": order.partition(":")[0], **fields}
        return self.send(
            "liquidations",
            "liquidation_order_closed",
            order_id=order,
            reason=reason,
            filled_quantity=filled,
            **message,
        )

    def adl(self, quantity: str, price: str = "45000", name: str = "x1", **fields: Any) -> Written:
        message = {
            "liquidation_id": "liq-7",
            "trigger_id": "liq-7:adl",
            "trigger_revision": 1,
            **fields,
        }
        return self.send(
            "liquidations",
            "adl_executed",
            execution_id=name,
            quantity=quantity,
            price=price,
            **message,
        )

    def wait(self, milliseconds: int) -> list[Written]:
        """Let time pass and take each deadline that falls due, at its time."""
        end_ms = self.now_ms + milliseconds
        taken = []
        while (first := self.state.schedule.first()) is not None and first[0] <= end_ms:
            due_ms, name = first
            self.now_ms = max(self.now_ms, due_ms)
            cause = ClockCause(deadline=name, due_ms=due_ms, read_to={}, capped=False)
            taken.append(self._keep(self.keeper.deadline(cause, self.now_ms)))
        self.now_ms = end_ms
        return taken

    def only(self, kind: type[EffectType], written: Written | None = None) -> EffectType:
        """Return the one effect of this type in an entry (the last one)."""
        (found,) = [e for e in (written or self.last).entry.effects if isinstance(e, kind)]
        return found

    def kinds(self, written: Written | None = None) -> list[str]:
        """Return the types of an entry's effects, in order."""
        return [str(type(e).__struct_config__.tag) for e in (written or self.last).entry.effects]

    def sent(self, written: Written | None = None) -> list[dict[str, Any]]:
        """Return the messages that went out with an entry."""
        return [json.loads(m.value) for m in (written or self.last).messages]

    def available(self, currency: str = "USDT") -> Decimal:
        return self.state.funds[currency].available

    def reserved(self, currency: str = "USDT") -> Decimal:
        return self.state.funds[currency].reserved
