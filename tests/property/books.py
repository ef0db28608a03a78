"""Invariants of docs/rules.md section 3, kept from the JSON of entries alone."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from typing import Any

ZERO = Fraction(0)
OUTSIDE = {"margin", "market", "fees", "treasury"}


class Books:
    """Balances, reservations and sums over all entries."""

    def __init__(self, scales: dict[str, int]) -> None:
        self.scales = scales
        self.balances: dict[str, Fraction] = defaultdict(Fraction)
        self.reservations: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
        self.currency_of: dict[str, str] = {}
        self.flows: dict[str, Fraction] = defaultdict(Fraction)

    def read(self, line: bytes) -> dict[str, Any]:
        """Add an entry and hold every invariant after it."""
        entry: dict[str, Any] = json.loads(line)
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for account, text in entry["postings"].items():
            amount = Fraction(text)
            kind, currency, *_ = account.split(":")
            assert kind in OUTSIDE | {"fund", "shortfall", "liquidation"}
            assert amount != 0
            assert (amount * 10 ** self.scales[currency]).denominator == 1, (account, text)
            sums[currency] += amount
            self.balances[account] += amount
        assert not any(sums.values()), "postings do not sum to zero"
        expected: dict[str, Fraction] = defaultdict(Fraction)
        for effect in entry["effects"]:
            for account, amount in postings_of(effect).items():
                expected[account] += amount
            self._count(effect)
        assert {a: v for a, v in expected.items() if v} == {
            a: Fraction(v) for a, v in entry["postings"].items()
        }, "postings are not those of the effects"
        self._hold(entry)
        return entry

    def _count(self, effect: dict[str, Any]) -> None:
        kind = effect["type"]
        currency = effect.get("margin_currency", "")
        key = (effect.get("liquidation_id", ""), effect.get("order_id", ""))
        if kind in ("fund_deposited", "shortfall_paid"):
            self.flows[currency] += Fraction(effect["amount"])
        elif kind == "fund_withdrawn":
            self.flows[currency] -= Fraction(effect["amount"])
        elif kind == "compensation_reserved":
            self.currency_of[key[0]] = currency
            self.reservations[key] += Fraction(effect["reserved"])
        elif kind == "reservation_released":
            self.reservations[key] -= Fraction(effect["amount"])
        elif kind == "fill_booked":
            self.reservations[key] += Fraction(effect["reserved_delta"])
            self.flows[currency] += Fraction(effect["delta"])
        elif kind == "adl_executed":
            assert effect["reserved_delta"] == "0"
            self.flows[currency] += Fraction(effect["delta"])

    def _hold(self, entry: dict[str, Any]) -> None:
        assert all(v >= 0 for v in self.reservations.values()), "an order holds less than nothing"
        for currency in self.scales:
            available = self.balances[f"fund:{currency}:available"]
            reserved = self.balances[f"fund:{currency}:reserved"]
            shortfall = self.balances[f"shortfall:{currency}"]
            assert available >= 0
            assert reserved >= 0
            assert shortfall <= 0
            held = sum(
                (v for k, v in self.reservations.items() if self.currency_of[k[0]] == currency),
                ZERO,
            )
            assert reserved == held, "reserved is not the sum of all reservations"
            assert available + reserved + shortfall == self.flows[currency]
        for effect in entry["effects"]:
            if effect["type"] == "liquidation_closed":
                name = effect["liquidation_id"]
                account = f"liquidation:{effect['margin_currency']}:{name}"
                assert self.balances[account] == 0, "a closed liquidation's account is not zero"
                assert not any(v for k, v in self.reservations.items() if k[0] == name)


def postings_of(effect: dict[str, Any]) -> dict[str, Fraction]:
    """Return the postings that the table of docs/rules.md section 3 gives an effect."""
    kind, currency = effect["type"], effect.get("margin_currency", "")
    available, reserved = f"fund:{currency}:available", f"fund:{currency}:reserved"
    if kind in ("fund_deposited", "fund_withdrawn", "shortfall_paid"):
        amount = Fraction(effect["amount"]) * (-1 if kind == "fund_withdrawn" else 1)
        to = f"shortfall:{currency}" if kind == "shortfall_paid" else available
        return {f"treasury:{currency}": -amount, to: amount}
    clearing = f"liquidation:{currency}:{effect.get('liquidation_id')}"
    if kind == "position_taken_over":
        margin = Fraction(effect["margin"])
        return {f"margin:{currency}": -margin, clearing: margin}
    if kind == "compensation_reserved":
        amount = Fraction(effect["reserved"])
        return {available: -amount, reserved: amount}
    if kind == "reservation_released":
        amount = Fraction(effect["amount"])
        return {reserved: -amount, available: amount}
    if kind in ("fill_booked", "adl_executed"):
        pnl, fee, delta, held, short = (
            Fraction(effect[name])
            for name in ("pnl", "fee", "delta", "reserved_delta", "shortfall_delta")
        )
        return {
            f"market:{currency}": -pnl,
            f"fees:{currency}": fee,
            clearing: pnl - fee - delta,
            reserved: held,
            f"shortfall:{currency}": short,
            available: delta - held - short,
        }
    return {}
