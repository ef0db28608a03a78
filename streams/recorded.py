"""The first pass of a what-if: a ledger as it is, with the orders and fills of each liquidation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import exact, number
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import Entry, PolicyCause, decode_entry, sha256_hex
from insurance_fund.events.terms import PolicyDocument
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.state import Order, State


class RecordedFill(NamedTuple):
    """A fill that the ledger booked."""

    order_id: str
    event_time_ms: int
    price: Decimal
    quantity: Decimal


class RecordedOrder(NamedTuple):
    """What makes an order of the what-if the recorded one, beside its id."""

    price: Decimal
    quantity: Decimal
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Life:
    """What a ledger says of one liquidation; `fills` are in the order of the ledger."""

    orders: dict[str, RecordedOrder] = field(default_factory=dict)
    fills: list[RecordedFill] = field(default_factory=list)

    def has(self, order: Order) -> bool:
        """Tell whether an order of the what-if is the recorded one."""
        terms = (order.price, order.quantity, order.expires_at_ms)
        return self.orders.get(order.order_id) == terms


class Recorded:
    """Takes the lines of a ledger one by one, checks the chain and keeps what a what-if needs.

    `on_entry` is handed each entry; `currencies` are those in which the ledger had money or
    positions. Several what-ifs can be asked of it.
    """

    def __init__(self, on_entry: Callable[[Entry], None]) -> None:
        self.state = State()
        self.began_ms = 0
        self.currencies: set[str] = set()
        # By the sequence of the takeover too: an id may come again after it was forgotten.
        self.lives: dict[tuple[int, str], Life] = {}
        self.notes: list[str] = []
        self._on_entry = on_entry
        self._latest: dict[str, Life] = {}
        self._policy: PolicyDocument | None = None
        self._rules: set[int] = {RULES}

    @exact
    def take(self, line: bytes) -> None:
        """Take the next line.

        Raises CorruptionError, naming the sequence, where it does not continue the ledger.
        """
        sequence = self.state.sequence
        try:
            entry = decode_entry(line)
            apply_entry(self.state, entry, sha256_hex(line))
        except CorruptionError as error:
            raise CorruptionError(f"sequence {sequence}: {error}", sequence) from error
        if not sequence:
            self.began_ms = entry.now_ms
        if isinstance(entry.cause, PolicyCause):
            self._note_policy(entry.cause, sequence)
        for effect in entry.effects:
            self._keep(effect, sequence)
        self._on_entry(entry)

    def _note_policy(self, cause: PolicyCause, sequence: int) -> None:
        if self._policy not in (None, cause.policy):
            self.notes.append(
                f"the ledger took another policy at sequence {sequence}; the what-if holds its one "
                "policy from beginning to end"
            )
        self._policy = cause.policy
        if cause.rules not in self._rules:
            self._rules.add(cause.rules)
            self.notes.append(
                f"entries from sequence {sequence} on were decided by rules {cause.rules}, the "
                f"what-if is decided by rules {RULES}: differences may come from the rules too"
            )

    def _keep(self, effect: fx.AnyEffect, sequence: int) -> None:
        match effect:
            case fx.FundDeposited():
                self.currencies.add(effect.margin_currency)
            case fx.PositionTakenOver():
                self.currencies.add(effect.margin_currency)
                life = self._latest[effect.liquidation_id] = Life()
                self.lives[sequence, effect.liquidation_id] = life
            case fx.OrderIssued() | fx.OrderObserved():
                self._latest[effect.liquidation_id].orders[effect.order_id] = RecordedOrder(
                    number(effect.price), number(effect.quantity), effect.expires_at_ms
                )
            case fx.FillBooked():
                assert effect.event_time_ms is not None, "a fill is the first effect of its record"
                self._latest[effect.liquidation_id].fills.append(
                    RecordedFill(
                        effect.order_id,
                        effect.event_time_ms,
                        number(effect.price),
                        number(effect.quantity),
                    )
                )
