"""The ADL engine: executes triggers against paper counterparties, at the price of the trigger.

The highest revision of a trigger holds: its `quantity` is what may be executed in all, so a
reduced or cancelled one leaves less to do, or nothing. Who takes how much is drawn from a hash of
the trigger, so it is the same in every run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from insurance_fund.events.amounts import ZERO, amount_text, exact, number
from insurance_fund.events.messages import AdlTrigger, AdlTriggerCancelled, AdlTriggerReduced

AdlMessage = AdlTrigger | AdlTriggerReduced | AdlTriggerCancelled

# From the arrival of a trigger to its executions, and from finding nobody to trying again.
ADL_LATENCY_MS: Final = 500
ADL_RETRY_MS: Final = 5_000
COUNTERPARTIES_MAX: Final = 3


class AdlOutcome(NamedTuple):
    """What an attempt came to: what each counterparty took, or nothing where nobody was found."""

    trigger: AdlMessage
    open_quantity: Decimal
    taken: list[Decimal]


@dataclass(slots=True)
class _Pending:
    trigger: AdlMessage
    step: Decimal
    heard_ms: int
    executed: Decimal = ZERO
    tried: bool = False

    @property
    def open_quantity(self) -> Decimal:
        return max(ZERO, number(self.trigger.quantity) - self.executed)


class AdlEngine:
    """Holds triggers until they are executed.

    About one in `unfilled_one_in` finds nobody at the first attempt; none where it is 0.
    """

    def __init__(self, unfilled_one_in: int = 0) -> None:
        self._unfilled_one_in = unfilled_one_in
        self._triggers: dict[str, _Pending] = {}
        self._due: dict[str, int] = {}

    @exact
    def receive(self, trigger: AdlMessage, quantity_step: Decimal, now_ms: int) -> None:
        """Take a revision of a trigger; an older one than is known says nothing new."""
        pending = self._triggers.get(trigger.trigger_id)
        if pending is None:
            pending = _Pending(trigger, quantity_step, now_ms)
            self._triggers[trigger.trigger_id] = pending
        elif trigger.revision > pending.trigger.revision:
            pending.trigger = trigger
        pending.heard_ms = now_ms
        if not pending.open_quantity:
            self._due.pop(trigger.trigger_id, None)
        else:
            self._due.setdefault(trigger.trigger_id, now_ms + ADL_LATENCY_MS)

    def next_ms(self) -> int | None:
        """Return when the next trigger is attempted."""
        return min(self._due.values(), default=None)

    @exact
    def work(self, now_ms: int) -> list[AdlOutcome]:
        """Attempt the triggers that are due by `now_ms`, in order of their times and ids."""
        due = sorted((due_ms, name) for name, due_ms in self._due.items() if due_ms <= now_ms)
        return [self._attempt(name, now_ms) for _, name in due]

    def forget(self, before_ms: int) -> None:
        """Forget the triggers with nothing left to do that were last heard of before then."""
        for name, pending in list(self._triggers.items()):
            if name not in self._due and pending.heard_ms < before_ms:
                del self._triggers[name]

    def _attempt(self, trigger_id: str, now_ms: int) -> AdlOutcome:
        pending = self._triggers[trigger_id]
        trigger, open_quantity = pending.trigger, pending.open_quantity
        if not pending.tried and self._finds_nobody(trigger_id):
            pending.tried = True
            self._due[trigger_id] = now_ms + ADL_RETRY_MS
            return AdlOutcome(trigger, open_quantity, [])
        del self._due[trigger_id]
        taken = _split(trigger_id, pending.executed, open_quantity, pending.step)
        pending.executed += open_quantity
        return AdlOutcome(trigger, open_quantity, taken)

    def _finds_nobody(self, trigger_id: str) -> bool:
        drawn = int.from_bytes(_digest(f"unfilled/{trigger_id}")[:4])
        return bool(self._unfilled_one_in) and drawn % self._unfilled_one_in == 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _split(
    trigger_id: str, executed: Decimal, quantity: Decimal, quantity_step: Decimal
) -> list[Decimal]:
    # One to three counterparties, each with a share drawn from the hash; none with nothing.
    digest = _digest(f"{trigger_id}/{amount_text(executed)}")
    steps = int(quantity // quantity_step)
    weights = [1 + byte for byte in digest[1 : 2 + digest[0] % COUNTERPARTIES_MAX]]
    shares = [steps * weight // sum(weights) for weight in weights]
    shares[0] += steps - sum(shares)
    return [share * quantity_step for share in shares if share]
