"""A turn: one cause being decided, effect by effect.

Each effect is applied as soon as it is decided, so every rule sees what the rules before it did.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.codec import TOO_LARGE
from insurance_fund.events.ledger import DEAD_LETTER_BYTES_MAX
from insurance_fund.events.messages import (
    AdlTrigger,
    AdlTriggerCancelled,
    AdlTriggerReduced,
    DeadLetter,
    LiquidationOrder,
    Output,
)
from insurance_fund.fund.evolve import evolve
from insurance_fund.fund.state import State


class Origin(NamedTuple):
    """Where the record that is being decided came from, and its bytes for a dead letter."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    parked: str | None = None


class Outgoing(NamedTuple):
    """A message to be committed with the entry; `id` is its order's, trigger's or record's."""

    topic: str
    key: str
    id: str
    message: Output


_ADL = {
    fx.AdlTriggered: AdlTrigger,
    fx.AdlReduced: AdlTriggerReduced,
    fx.AdlCancelled: AdlTriggerCancelled,
}


class Turn:
    """Collects the effects and the outgoing messages of one entry."""

    __slots__ = ("effects", "now_ms", "outgoing", "state", "unlocked")

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms
        self.effects: list[fx.AnyEffect] = []
        self.outgoing: list[Outgoing] = []
        self.unlocked: list[str] = []

    def emit(self, effect: fx.AnyEffect) -> None:
        """Record an effect and apply it; an order or trigger in it goes out."""
        self.effects.append(effect)
        evolve(self.state, effect, self.now_ms, self.state.sequence)
        kind = type(effect)
        if kind is fx.OrderIssued:
            self._send_order(effect)  # type: ignore[arg-type]
        elif kind in _ADL:
            self._send_adl(effect)  # type: ignore[arg-type]

    def unlocks(self, key: str) -> None:
        """Note what happened that parked records may have been waiting for."""
        if self.state.parked:
            self.unlocked.append(key)

    def _event_id(self) -> str:
        return f"{self.state.ledger}-{self.state.sequence}-{len(self.outgoing)}"

    def _send_order(self, effect: fx.OrderIssued) -> None:
        message = LiquidationOrder(
            event_id=self._event_id(),
            event_time_ms=self.now_ms,
            margin_currency=effect.margin_currency,
            ledger=self.state.ledger,
            sequence=self.state.sequence,
            order_id=effect.order_id,
            liquidation_id=effect.liquidation_id,
            account_id=effect.account_id,
            instrument_id=effect.instrument_id,
            position_side=effect.position_side,
            order_side=effect.order_side,
            quantity=effect.quantity,
            price=effect.price,
            expires_at_ms=effect.expires_at_ms,
            attempt=effect.attempt,
            bankruptcy_price=effect.bankruptcy_price,
            compensation=effect.compensation,
            reserved=effect.reserved,
            binding_cap=effect.binding_cap,
        )
        self.outgoing.append(
            Outgoing(topics.LIQUIDATION_ORDERS, effect.liquidation_id, effect.order_id, message)
        )

    def _send_adl(self, effect: fx.AdlTriggered | fx.AdlReduced | fx.AdlCancelled) -> None:
        message = _ADL[type(effect)](
            event_id=self._event_id(),
            event_time_ms=self.now_ms,
            margin_currency=effect.margin_currency,
            ledger=self.state.ledger,
            sequence=self.state.sequence,
            trigger_id=effect.trigger_id,
            revision=effect.revision,
            liquidation_id=effect.liquidation_id,
            account_id=effect.account_id,
            instrument_id=effect.instrument_id,
            contract_type=effect.contract_type,
            contract_size=effect.contract_size,
            tick_size=effect.tick_size,
            position_side=effect.position_side,
            order_side=effect.order_side,
            quantity=effect.quantity,
            price=effect.price,
            price_basis=effect.price_basis,
            reason=effect.reason,
            evidence=effect.evidence,
        )
        self.outgoing.append(
            Outgoing(topics.ADL_TRIGGERS, effect.liquidation_id, effect.trigger_id, message)
        )

    def dead_letter(
        self, origin: Origin, reason: str, detail: str, margin_currency: str | None
    ) -> None:
        """Send a record's bytes to the dead letters; of one that is too large, the beginning."""
        value = origin.value
        if value is not None and reason == TOO_LARGE:
            value = value[:DEAD_LETTER_BYTES_MAX]
        message = DeadLetter(
            event_id=self._event_id(),
            event_time_ms=self.now_ms,
            margin_currency=margin_currency,
            ledger=self.state.ledger,
            sequence=self.state.sequence,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            reason=reason,
            detail=detail,
            value_base64=None if value is None else base64.b64encode(value).decode(),
        )
        where = f"{origin.topic}:{origin.partition}:{origin.offset}"
        self.outgoing.append(Outgoing(topics.DEAD_LETTERS, where, where, message))
