"""What-if: the records of a ledger under another policy, decided anew; a first-order answer.

Two passes over the same lines: `Recorded` notes the orders and fills of each liquidation, `WhatIf`
decides. What the ledger took is taken again where it took it (a record that came early, where it
left the park); what it refused, ignored or gave up is left out.

- An order that is the recorded one (id, price, quantity and expiry) keeps its fills and its report.
- Any other order is offered the recorded fills of its time: one at its limit or better is booked,
  else it counts as unfilled. What is booked fits, for less was closed than the ledger had closed.
  It ends at its own `expires_at_ms`, or when the exchange cancelled or rejected the recorded order
  of its id.
- ADL executions are kept where a trigger was sent, up to what is left. What triggers still ask for
  at the end is not booked.
- A deadline that the ledger has too is taken where the ledger took it, any other when it is due.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Final

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import ZERO, amount_text, exact, number
from insurance_fund.events.codec import Decoder, Refusal
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import (
    ClockCause,
    Entry,
    InputCause,
    PolicyCause,
    decode_entry,
    sha256_hex,
)
from insurance_fund.fund.bookkeeper import Bookkeeper, Written, apply_entry
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import Policy, policy_document
from insurance_fund.fund.state import Order, State
from insurance_fund.streams.offers import Offers
from insurance_fund.streams.recorded import Recorded

CAVEAT: Final = (
    "this is a first-order answer: the recorded prices and the recorded market are kept. Other "
    "orders would have moved the market and met other orders. A fill beyond the limit of the other "
    "order counts as unfilled; fills that only a more generous or a longer-lived order would have "
    "found are in no ledger"
)
_FOR_EVER_MS: Final = 2**62
_TOPICS: Final = {kind: topic for topic, kinds in msg.INPUTS.items() for kind in kinds}
# The effects that say that a record was taken; `adl_unfilled` changes nothing.
_TAKEN: Final = (
    fx.InstrumentDefined,
    fx.FundDeposited,
    fx.FundWithdrawn,
    fx.ShortfallPaid,
    fx.PositionTakenOver,
    fx.OrderObserved,
    fx.OrderClosed,
    fx.FillBooked,
    fx.AdlExecuted,
)


class WhatIf:
    """The second pass: takes the lines again and decides their records under another policy.

    `on_entry` is handed each entry that comes of it.
    """

    def __init__(
        self, recorded: Recorded, policy: Policy, on_entry: Callable[[Entry], None]
    ) -> None:
        """Let the policy hold from the first entry on.

        Raises SettingsError where the ledger is empty or the policy does not fit its money.
        """
        _check_fits(recorded, policy)
        self.recorded = recorded
        # What was left out or altered, by what it was.
        self.counts: Counter[str] = Counter()
        self._ledger = State()
        self._decoder = Decoder(record_bytes_max=2**40)
        self._keeper = Bookkeeper(recorded.state.ledger, State())
        self._on_entry = on_entry
        self._offers: dict[str, Offers] = {}
        # Orders that are not the recorded ones, by when they end.
        self._ends: list[tuple[int, str, str]] = []
        # What is known, and so a duplicate, was decided when the record was taken.
        policy = msgspec.structs.replace(policy, closed_max=recorded.state.policy.closed_max)
        routing = recorded.state.routing.items()
        cause = PolicyCause(
            policy=policy_document(policy),
            routing={c: ledger for c, ledger in routing if c in policy.currencies},
            # The mode tells only which records come too early, and those that were taken do not.
            clock="wall",
            rules=RULES,
            software=recorded.state.software,
        )
        self._keep(self._keeper.policy(cause, recorded.began_ms))

    @property
    def state(self) -> State:
        """Return the state of the fund under the other policy."""
        return self._keeper.state

    @exact
    def take(self, line: bytes) -> None:
        """Decide what the next line records."""
        if self._ledger.sequence == self.recorded.state.sequence:
            return  # the ledger has grown since the first pass
        entry = decode_entry(line)
        taken = list(self._taken(entry))
        self._advance(entry.now_ms)
        apply_entry(self._ledger, entry, sha256_hex(line))
        cause = entry.cause
        if isinstance(cause, ClockCause) and self._has_deadline(cause):
            self._keep(self._keeper.deadline(cause, entry.now_ms))
        for effect, message in taken:
            self._take(effect, message, entry)

    @exact
    def finish(self) -> None:
        """End the what-if.

        Raises SettingsError where the lines were not those of the first pass.
        """
        ledger = self._ledger
        if ledger.head != self.recorded.state.head:
            raise SettingsError("the ledger was changed while it was read: start again")
        # A ledger of event mode ends with its last deadline, and so does the what-if.
        ended = ledger.clock == "event" and not ledger.deadlines
        self._advance(_FOR_EVER_MS if ended else ledger.now_ms)

    @property
    def notes(self) -> list[str]:
        """Return what a reader of the figures has to know; the caveat comes first."""
        counts = [f"{what}: {count}" for what, count in sorted(self.counts.items())]
        return [CAVEAT, *self.recorded.notes, *counts]

    def _taken(self, entry: Entry) -> Iterator[tuple[fx.AnyEffect, msg.Input]]:
        # The bytes of a parked record are in the ledger's state up to the entry that takes it.
        for effect in entry.effects:
            if effect.event_time_ms is None or not isinstance(effect, _TAKEN):
                continue
            if effect.parked is not None:
                parked = self._ledger.parked[effect.parked]
                message = self._decoder.decode(parked.topic, parked.message)
            else:
                assert isinstance(entry.cause, InputCause)
                message = self._decoder.decode(entry.cause.topic, entry.cause.message())
            if isinstance(message, Refusal):
                self.counts[f"records that these rules do not read ({message.reason})"] += 1
            else:
                yield effect, message

    def _has_deadline(self, cause: ClockCause) -> bool:
        return self.state.deadlines.get(cause.deadline) == cause.due_ms

    def _advance(self, until_ms: int) -> None:
        """Take the ends of orders and the deadlines that are not the ledger's, up to a time."""
        while True:
            end, due = self._next_end(), self._next_deadline(until_ms)
            if end is not None and end[0] <= (until_ms if due is None else due[0]):
                heapq.heappop(self._ends)
                self._expire(*end)
            elif due is not None:
                due_ms, name = due
                cause = ClockCause(deadline=name, due_ms=due_ms, read_to={}, capped=False)
                self._keep(self._keeper.deadline(cause, max(self.state.now_ms, due_ms)))
            else:
                return

    def _next_end(self) -> tuple[int, str, str] | None:
        while self._ends:
            expires_at_ms, liquidation_id, order_id = self._ends[0]
            order = self._order(liquidation_id, order_id)
            if order is not None and (order.status, order.expires_at_ms) == ("open", expires_at_ms):
                return self._ends[0]
            heapq.heappop(self._ends)
        return None

    def _next_deadline(self, until_ms: int) -> tuple[int, str] | None:
        # One that the ledger has, and has not taken yet, waits for it: there it may have waited for
        # a backlog to be read.
        for due_ms, name in self.state.schedule.due(until_ms):
            if self._ledger.deadlines.get(name) != due_ms:
                return due_ms, name
        return None

    def _expire(self, time_ms: int, liquidation_id: str, order_id: str) -> None:
        liquidation = self.state.liquidations[liquidation_id]
        order = liquidation.orders[order_id]
        filled = order.seen + self._offers[liquidation_id].coming(liquidation, order)
        report = msg.LiquidationOrderClosed(
            event_id="what-if",
            event_time_ms=time_ms,
            margin_currency=liquidation.margin_currency,
            liquidation_id=liquidation_id,
            order_id=order_id,
            reason="expired",
            filled_quantity=amount_text(filled),
        )
        self._give(report, time_ms)

    def _take(self, effect: fx.AnyEffect, message: msg.Input, entry: Entry) -> None:
        match message:
            case msg.Fill():
                self._fill(message, entry.now_ms)
            case msg.LiquidationOrderClosed():
                self._report(message, entry.now_ms)
            case msg.LiquidationOrderSubmitted():
                liquidation = self.state.liquidations.get(message.liquidation_id)
                if liquidation is not None and liquidation.policy.order_pricing == "exchange":
                    self._give(message, entry.now_ms)
            case msg.AdlExecuted():
                assert isinstance(effect, fx.AdlExecuted)
                self._adl(message, number(effect.quantity), entry.now_ms)
            case msg.PositionTakenOver():
                assert isinstance(effect, fx.PositionTakenOver)
                name = message.liquidation_id
                self._offers[name] = Offers(self.recorded.lives[entry.sequence, name])
                self._give(message, entry.now_ms)
                self._count_pricing(effect)
            case _:
                self._give(message, entry.now_ms)

    def _count_pricing(self, recorded: fx.PositionTakenOver) -> None:
        liquidation = self.state.liquidations.get(recorded.liquidation_id)
        if liquidation is None or liquidation.policy.order_pricing == recorded.policy.order_pricing:
            return
        if liquidation.policy.order_pricing == "fund":
            what = "liquidations priced by the exchange before; the fund's orders are offered"
            self.counts[f"{what} the recorded fills"] += 1
        else:
            what = "liquidations priced by the fund before; no orders of the exchange are recorded"
            self.counts[f"{what}, so nothing of them fills"] += 1

    def _fill(self, message: msg.Fill, now_ms: int) -> None:
        offers = self._offers[message.liquidation_id]
        recorded = offers.take_next()
        liquidation = self.state.liquidations.get(message.liquidation_id)
        order, takes = (
            (None, False) if liquidation is None else offers.order_for(liquidation, recorded)
        )
        if order is None:
            self.counts["fills at a time when no order of the what-if was open, unfilled"] += 1
        elif not takes:
            self.counts["fills beyond the limit of the order of the what-if, unfilled"] += 1
        else:
            self._give(msgspec.structs.replace(message, order_id=order.order_id), now_ms)

    def _report(self, message: msg.LiquidationOrderClosed, now_ms: int) -> None:
        liquidation = self.state.liquidations.get(message.liquidation_id)
        order = self._order(message.liquidation_id, message.order_id)
        if liquidation is None or order is None or order.status == "closed":
            return
        offers = self._offers[message.liquidation_id]
        same = offers.life.has(order)
        if not same and message.reason in ("expired", "filled"):
            return  # it ends by its own time
        offers.end(order, message.event_time_ms)
        if not same:
            filled = order.seen + offers.coming(liquidation, order)
            message = msgspec.structs.replace(message, filled_quantity=amount_text(filled))
        self._give(message, now_ms)

    def _adl(self, message: msg.AdlExecuted, booked: Decimal, now_ms: int) -> None:
        liquidation = self.state.liquidations.get(message.liquidation_id)
        before = ZERO if liquidation is None else liquidation.deleveraged
        if liquidation is not None and liquidation.trigger is not None:
            self._give(message, now_ms)
        if liquidation is None or liquidation.deleveraged - before < booked:
            self.counts["ADL executions that were left out, or cut to what was left"] += 1

    def _order(self, liquidation_id: str, order_id: str) -> Order | None:
        liquidation = self.state.liquidations.get(liquidation_id)
        return None if liquidation is None else liquidation.orders.get(order_id)

    def _give(self, message: msg.Input, now_ms: int) -> None:
        value = msgspec.json.encode(message)
        topic = _TOPICS[type(message)]
        self._keep(self._keeper.record(topic, 0, 0, now_ms, value, now_ms, message))

    def _keep(self, written: Written) -> None:
        for effect in written.entry.effects:
            if isinstance(effect, fx.Rejected):
                self.counts[f"records that the other policy refuses ({effect.reason})"] += 1
            elif isinstance(effect, fx.OrderIssued):
                name = effect.liquidation_id
                order = self.state.liquidations[name].orders[effect.order_id]
                if not self._offers[name].life.has(order):
                    heapq.heappush(self._ends, (order.expires_at_ms, name, order.order_id))
        self._on_entry(written.entry)


def _check_fits(recorded: Recorded, policy: Policy) -> None:
    if recorded.state.clock is None:
        raise SettingsError("the ledger is empty: there is nothing to ask")
    known = recorded.state.policy.currencies
    for currency in sorted(recorded.currencies):
        if currency not in policy.currencies:
            raise SettingsError(
                f"policy: currencies.{currency} is missing: the ledger has money in {currency}"
            )
        scale, wanted = known[currency].scale, policy.currencies[currency].scale
        if scale != wanted:
            raise SettingsError(
                f"policy: currencies.{currency}.scale is {wanted}; it must be {scale}, as in the "
                "ledger"
            )
