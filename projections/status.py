"""Status of a ledger: funds, open liquidations, triggers, and what was refused and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text
from insurance_fund.events.ledger import Entry
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import Liquidation, State
from insurance_fund.projections.outcomes import FundOutcome, Outcomes


class Status:
    """Folds entries; `rows` gives what is known so far. Amounts are strings."""

    def __init__(self) -> None:
        self.state = State()
        self.outcomes = Outcomes()
        self.rejected: Counter[str] = Counter()
        self.duplicates = 0
        self.expired = 0
        self.flags: Counter[str] = Counter()

    def apply(self, entry: Entry, sha256: str) -> None:
        """Apply the next entry, whose bytes have this hash."""
        apply_entry(self.state, entry, sha256)
        self.outcomes.apply(entry)
        for effect in entry.effects:
            self._count(effect)

    def _count(self, effect: fx.AnyEffect) -> None:
        match effect:
            case fx.Rejected():
                self.rejected[effect.reason] += 1
            case fx.DuplicateIgnored():
                self.duplicates += 1
            case fx.ParkedExpired():
                self.expired += 1
            case fx.PositionTakenOver() | fx.FillBooked() | fx.AdlExecuted():
                self.flags.update(effect.flags)
            case _:
                pass

    def rows(self) -> dict[str, Any]:
        """Return the status as plain values."""
        state = self.state
        first = state.schedule.first()
        return {
            "ledger": state.ledger,
            "entries": state.sequence,
            "head": state.head,
            "now_ms": state.now_ms,
            "clock": state.clock,
            "funds": [self._fund(currency) for currency in sorted(state.funds)],
            "open_liquidations": [_open(one) for one in state.liquidations.values()],
            "triggers": [
                _trigger(one) for one in state.liquidations.values() if one.trigger is not None
            ],
            "rejected": dict(sorted(self.rejected.items())),
            "duplicates": self.duplicates,
            "parked": len(state.parked),
            "parked_expired": self.expired,
            "flags": dict(sorted(self.flags.items())),
            "next_deadline": None if first is None else {"name": first[1], "due_ms": first[0]},
        }

    def _fund(self, currency: str) -> dict[str, Any]:
        fund = self.state.funds[currency]
        outcome = self.outcomes.funds.get(currency)
        told = FundOutcome() if outcome is None else outcome
        return {
            "margin_currency": currency,
            "available": amount_text(fund.available),
            "reserved": amount_text(fund.reserved),
            "total": amount_text(fund.total),
            "shortfall": amount_text(fund.shortfall),
            "transfers": amount_text(fund.transfers),
            "gains": amount_text(told.gains),
            "draws": amount_text(told.draws),
            "lowest": amount_text(told.lowest),
            "closed": {ended: group.liquidations for ended, group in told.ended.items()},
            "granted": amount_text(told.granted),
            "used": amount_text(told.used),
            "in_use": outcome is not None,
        }


def _open(liquidation: Liquidation) -> dict[str, Any]:
    order = liquidation.last_order
    return {
        "liquidation_id": liquidation.liquidation_id,
        "instrument_id": liquidation.terms.instrument_id,
        "margin_currency": liquidation.margin_currency,
        "position_side": liquidation.side,
        "quantity": amount_text(liquidation.quantity),
        "closed": amount_text(liquidation.closed),
        "residual": amount_text(liquidation.residual),
        "awaited": amount_text(sum((o.awaited for o in liquidation.orders.values()), ZERO)),
        "bankruptcy_price": liquidation.bankruptcy_price,
        "order_id": None if order is None else order.order_id,
        "order_status": None if order is None else order.status,
        "order_price": None if order is None else amount_text(order.price),
        "expires_at_ms": None if order is None else order.expires_at_ms,
        "reserved": amount_text(liquidation.reserved),
        "delta": amount_text(liquidation.booked),
    }


def _trigger(liquidation: Liquidation) -> dict[str, Any]:
    trigger = liquidation.trigger
    assert trigger is not None
    return {
        "trigger_id": liquidation.trigger_id,
        "liquidation_id": liquidation.liquidation_id,
        "revision": trigger.revision,
        "price": trigger.price,
        "quantity": amount_text(trigger.quantity),
        "executed": amount_text(liquidation.deleveraged),
        "open": amount_text(liquidation.trigger_target),
        "reason": trigger.reason,
    }
