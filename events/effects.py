"""Effects: the facts that an entry records, a closed union.

An effect carries all that `evolve` needs, as text; money effects carry their `margin_currency`.
Fields that have their default are left out on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec

from insurance_fund.events import topics
from insurance_fund.events.fields import (
    Clock,
    CloseReason,
    ContractType,
    OrderSide,
    PositionSide,
)
from insurance_fund.events.messages import Evidence, snake_case
from insurance_fund.events.terms import Caps, KeptPolicy, PolicyDocument, Terms

AdlReason = Literal[
    "order_expired",
    "order_rejected",
    "order_cancelled",
    "order_filled",
    "deadline",
    "no_order",
]
PriceBasis = Literal["bankruptcy_price", "order_price"]
ReleaseCause = Literal["order_ended", "hold_over", "adl", "other_fill", "report"]
Outcome = Literal["better_than_bankruptcy", "compensated", "deleveraged"]


class Effect(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag=snake_case,
):
    """What effects share.

    The first effect of a record carries its `event_time_ms`; `parked` names the parked record
    (`topic:partition:offset`) that this effect takes out of the park.
    """

    event_time_ms: int | None = None
    parked: str | None = None


class ShardOpened(Effect, frozen=True):
    """Entry 0: this ledger exists, with this clock."""

    ledger: str
    clock: Clock


class PolicySet(Effect, frozen=True):
    """From here on this policy and this routing of currencies hold."""

    policy: PolicyDocument
    routing: dict[str, str]
    rules: int
    software: str


class InstrumentDefined(Effect, frozen=True):
    """An instrument is known, or its terms changed for liquidations to come."""

    terms: Terms


class _Transfer(Effect, frozen=True):
    margin_currency: str
    transfer_id: str
    amount: str
    memo: str
    content: str


class FundDeposited(_Transfer, frozen=True):
    """Treasury money came into the fund."""


class FundWithdrawn(_Transfer, frozen=True):
    """Fund money went back to the treasury."""


class ShortfallPaid(_Transfer, frozen=True):
    """The treasury paid what the fund could not."""


class PositionTakenOver(Effect, frozen=True):
    """A liquidation began; `margin` is floored to the scale, `bankruptcy_price` is ours."""

    liquidation_id: str
    margin_currency: str
    account_id: str
    position_side: PositionSide
    quantity: str
    entry_price: str
    margin: str
    bankruptcy_price: str | None
    terms: Terms
    policy: KeptPolicy
    content: str
    bankruptcy_price_given: str | None = None
    mark_price: str | None = None
    flags: tuple[str, ...] = ()


class CompensationReserved(Effect, frozen=True):
    """Money was set aside for one order; `granted` is what the caps (or the claim) allow."""

    liquidation_id: str
    margin_currency: str
    order_id: str
    reserved: str
    granted: str
    caps: Caps
    binding_cap: str | None
    unreserved: str


class OrderIssued(Effect, frozen=True):
    """The fund sends a liquidation order; `step` is its place in the policy's attempts."""

    liquidation_id: str
    margin_currency: str
    order_id: str
    account_id: str
    instrument_id: str
    position_side: PositionSide
    order_side: OrderSide
    quantity: str
    price: str
    expires_at_ms: int
    attempt: int
    step: int
    bankruptcy_price: str | None
    compensation: str
    reserved: str
    binding_cap: str | None


class OrderObserved(Effect, frozen=True):
    """The exchange submitted an order of its own."""

    liquidation_id: str
    order_id: str
    price: str
    quantity: str
    expires_at_ms: int
    content: str


class OrderClosed(Effect, frozen=True):
    """An order ended: by the exchange's report, by its last fill, or by our deadline."""

    liquidation_id: str
    order_id: str
    reason: CloseReason | Literal["deadline"]
    filled_quantity: str
    final: bool = True
    content: str | None = None


class FillBooked(Effect, frozen=True):
    """A fill was booked.

    `notional` is in the margin currency; `pnl`, `fee` and `delta` are differences of the rounded
    running sums; `filled` is closed so far
    (ADL included), `residual` what is neither closed nor reported as filled.
    """

    liquidation_id: str
    margin_currency: str
    order_id: str
    fill_id: str
    price: str
    quantity: str
    notional: str
    pnl: str
    fee: str
    delta: str
    reserved_delta: str
    shortfall_delta: str
    filled: str
    residual: str
    flags: tuple[str, ...]
    content: str
    fee_given: str | None = None


class AdlExecuted(Effect, frozen=True):
    """A counterparty took a part of the position; booked like a fill."""

    liquidation_id: str
    margin_currency: str
    trigger_id: str
    trigger_revision: int
    execution_id: str
    price: str
    quantity: str
    notional: str
    pnl: str
    fee: str
    delta: str
    reserved_delta: str
    shortfall_delta: str
    filled: str
    residual: str
    flags: tuple[str, ...]
    content: str
    fee_given: str | None = None
    excess_quantity: str | None = None


class ReservationReleased(Effect, frozen=True):
    """Money set aside for an order is free again."""

    liquidation_id: str
    margin_currency: str
    order_id: str
    amount: str
    cause: ReleaseCause


class _Adl(Effect, frozen=True):
    liquidation_id: str
    margin_currency: str
    trigger_id: str
    revision: int
    account_id: str
    instrument_id: str
    contract_type: ContractType
    contract_size: str
    tick_size: str
    position_side: PositionSide
    order_side: OrderSide
    quantity: str
    price: str
    price_basis: PriceBasis
    reason: AdlReason
    evidence: Evidence


class AdlTriggered(_Adl, frozen=True):
    """The residual goes to auto-deleveraging, or more of it than before."""


class AdlReduced(_Adl, frozen=True):
    """Less goes to auto-deleveraging than before."""


class AdlCancelled(_Adl, frozen=True):
    """Nothing more goes to auto-deleveraging."""


class AdlUnfilled(Effect, frozen=True):
    """The ADL engine found nobody for `quantity`; the liquidation stays open."""

    liquidation_id: str
    trigger_id: str
    quantity: str
    reason: str


class FillsMissing(Effect, frozen=True):
    """The exchange reported more filled than fills have shown, for too long."""

    liquidation_id: str
    order_id: str
    awaited: str


class LiquidationClosed(Effect, frozen=True):
    """The whole position is closed; totals over its life, `delta` is what the fund got."""

    liquidation_id: str
    margin_currency: str
    outcome: Outcome
    quantity: str
    deleveraged: str
    margin: str
    pnl: str
    fee: str
    delta: str
    granted: str
    shortfall: str


class RecordParked(Effect, frozen=True):
    """A record came before what it is about; it waits for `awaits`.

    `value_base64` are its own bytes, `adapted_base64` the message that an adapter made of them.
    """

    topic: str
    partition: int
    offset: int
    awaits: str
    key: str | None
    content: str
    expires_at_ms: int
    value_base64: str
    margin_currency: str
    liquidation_id: str | None = None
    adapted_base64: str | None = None


class ParkedExpired(Effect, frozen=True):
    """A parked record was given up; its bytes are in the dead letters."""

    topic: str
    partition: int
    offset: int
    reason: Literal["parked_expired", "parked_full"]
    detail: str
    liquidation_id: str | None = None


class DuplicateIgnored(Effect, frozen=True):
    """A record that says again what is known."""

    key: str
    liquidation_id: str | None = None


class Rejected(Effect, frozen=True):
    """A record was refused; its bytes are in the dead letters, nothing else changed."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    liquidation_id: str | None = None


class IdsForgotten(Effect, frozen=True):
    """Ids of closed liquidations, or of transfers, left the memory for duplicates."""

    liquidations: tuple[str, ...] = ()
    transfers: tuple[str, ...] = ()


class Checkpoint(Effect, frozen=True):
    """Positions moved over skipped records; they are in the cause."""


AnyEffect = (
    ShardOpened
    | PolicySet
    | InstrumentDefined
    | FundDeposited
    | FundWithdrawn
    | ShortfallPaid
    | PositionTakenOver
    | CompensationReserved
    | OrderIssued
    | OrderObserved
    | OrderClosed
    | FillBooked
    | AdlExecuted
    | ReservationReleased
    | AdlTriggered
    | AdlReduced
    | AdlCancelled
    | AdlUnfilled
    | FillsMissing
    | LiquidationClosed
    | RecordParked
    | ParkedExpired
    | DuplicateIgnored
    | Rejected
    | IdsForgotten
    | Checkpoint
)


def record_name(record: Any) -> str:
    """Name a record by where it stands: `topic:partition:offset`, of anything that has these."""
    return f"{record.topic}:{record.partition}:{record.offset}"


# The effects that are told to others: on which topic, and under which id.
SENT: Final[dict[type[Effect], tuple[str, Callable[[Any], str]]]] = {
    OrderIssued: (topics.LIQUIDATION_ORDERS, attrgetter("order_id")),
    AdlTriggered: (topics.ADL_TRIGGERS, attrgetter("trigger_id")),
    AdlReduced: (topics.ADL_TRIGGERS, attrgetter("trigger_id")),
    AdlCancelled: (topics.ADL_TRIGGERS, attrgetter("trigger_id")),
    Rejected: (topics.DEAD_LETTERS, record_name),
    ParkedExpired: (topics.DEAD_LETTERS, record_name),
}
