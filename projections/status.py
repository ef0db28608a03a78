"""Status of a ledger: funds, open liquidations, triggers, and what was refused and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text, number
from insurance_fund.events.ledger import Entry
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import Liquidation, State


class Status:
    """Folds entries; `rows` gives what is known so far. Amounts are strings."""

    def __init__(self) -> None:
        self.state = State()
        self.rejected: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.duplicates = 0
        self.expired = 0
        self.gains: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.draws: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.granted: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.used: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.flags: Counter[str] = Counter()
        self.lowest: dict[str, Decimal] = {}

    def apply(self, entry: Entry, sha256: str) -> None:
        """Apply the next entry, whose bytes have this hash."""
        apply_entry(self.state, entry, sha256)
        for effect in entry.effects:
            self._count(effect)
        for account in entry.postings:
            kind, _, currency = account.partition(":")
            if kind == "fund" and currency.endswith(":available"):
                self._note_lowest(currency.removesuffix(":available"))

    def _note_lowest(self, currency: str) -> None:
        total = self.state.funds[currency].total
        known = self.lowest.get(currency)
        self.lowest[currency] = total if known is None else min(known, total)

    def _count(self, effect: fx.AnyEffect) -> None:
        match effect:
            case fx.Rejected():
                self.rejected[effect.reason] += 1
            case fx.DuplicateIgnored():
                self.duplicates += 1
            case fx.ParkedExpired():
                self.expired += 1
            case fx.LiquidationClosed():
                currency = effect.margin_currency
                self.outcomes[currency, effect.outcome] += 1
                self.granted[currency] += number(effect.granted)
                used = max(ZERO, -number(effect.delta) - number(effect.shortfall))
                self.used[currency] += used
            case fx.FillBooked() | fx.AdlExecuted():
                delta = number(effect.delta)
                side = self.gains if delta > ZERO else self.draws
                side[effect.margin_currency] += delta
                self.flags.update(effect.flags)
            case fx.PositionTakenOver():
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
        ended = {outcome: count for (of, outcome), count in self.outcomes.items() if of == currency}
        return {
            "margin_currency": currency,
            "available": amount_text(fund.available),
            "reserved": amount_text(fund.reserved),
            "total": amount_text(fund.total),
            "shortfall": amount_text(fund.shortfall),
            "transfers": amount_text(fund.transfers),
            "gains": amount_text(self.gains[currency]),
            "draws": amount_text(self.draws[currency]),
            "lowest": amount_text(self.lowest.get(currency, ZERO)),
            "closed": {
                outcome: ended.get(outcome, 0)
                for outcome in ("better_than_bankruptcy", "compensated", "deleveraged")
            },
            "granted": amount_text(self.granted[currency]),
            "used_of_granted": amount_text(self.used[currency]),
            "used": bool(fund.transfers or fund.deltas or ended),
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
