"""Choices: where they come from, and what a policy and its instruments may be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar

from tests.property.model_prices import ceil_at

T = TypeVar("T")
DAY_MS = 86_400_000


class Chooser(Protocol):
    """Where choices come from: hypothesis, or a seed."""

    def pick(self, among: Sequence[T]) -> T: ...
    def number(self, low: int, high: int) -> int: ...


class Seeded:
    """Choices from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - lives, not secrets

    def pick(self, among: Sequence[T]) -> T:
        return self.random.choice(among)

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


def text(value: Fraction, digits: int = 18) -> str:
    """Write a fraction as an amount, rounded up where it does not end."""
    value = ceil_at(value, digits)
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value.numerator) * 10**digits // value.denominator, 10**digits)
    tail = f"{part:0{digits}d}".rstrip("0") if digits else ""
    return f"{sign}{whole}" + (f".{tail}" if tail else "")


INSTRUMENTS: dict[str, dict[str, str]] = {
    name + pricing: {
        "instrument_id": name + pricing,
        "contract_type": kind,
        "contract_size": size,
        "tick_size": tick,
        "quantity_step": step,
        "closing_fee_rate": rate,
        "margin_currency": currency,
    }
    for name, kind, size, tick, step, rate, currency in (
        ("LIN", "linear", "0.01", "0.1", "1", "0.0007", "USDT"),
        ("INV", "inverse", "100", "0.05", "0.5", "0.00075", "XBT"),
        ("QUA", "quanto", "0.007", "0.01", "3", "0.01", "XBT"),
    )
    for pricing in ("-fund", "-exch")
}


def random_policy(choose: Chooser) -> dict[str, Any]:
    """Return a policy written out whole."""
    attempts = choose.pick(
        (
            [["0.01", 30_000]],
            [["0", 5_000], ["0.01", 25_000]],
            [["0.02", 10_000], ["0.02", 10_000], ["0.05", 20_000]],
        )
    )
    return {
        "currencies": {
            "USDT": {"scale": choose.pick((6, 2)), "floor": choose.pick(("0", "0.03"))},
            "XBT": {"scale": choose.pick((8, 3)), "floor": choose.pick(("0", "0.05"))},
        },
        "default": {
            "order_pricing": "fund",
            "attempts": attempts,
            "adl_fee_rate": choose.pick(("0", "0.0005")),
            "unbounded_price_factor": choose.pick(("2", "1.5")),
            "liquidation_limit": choose.pick((None, None, "0.05")),
            "instrument_share": choose.pick(("0.3", "1", "0.05")),
            "instrument_window_ms": choose.pick((28_800_000, 120_000)),
        },
        "instruments": {
            name: {"order_pricing": "exchange"} for name in INSTRUMENTS if name.endswith("-exch")
        },
        "grace_ms": 2_000,
        "reservation_hold_ms": choose.pick((600_000, 20_000)),
        "replacement_wait_ms": 5_000,
        "first_order_wait_ms": 60_000,
        "missing_fills_alert_ms": 60_000,
        "parked_ms": choose.pick((3_600_000, 30_000)),
        "parked_max": choose.pick((10_000, 1)),
        "closed_max": choose.pick((100_000, 100_000, 2)),
        "event_jump_ms_max": 7 * DAY_MS,
    }
