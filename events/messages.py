"""Messages in and out, as docs/rules.md section 1 names them.

Amounts are decimal strings, times milliseconds, `quantity` always contracts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from insurance_fund.events import topics
from insurance_fund.events.fields import (
    CloseReason,
    CompoundId,
    ContractType,
    Id,
    NonNegative,
    OrderSide,
    PositionSide,
    Positive,
    Rate,
    Revision,
    Signed,
    Text,
    TimeMs,
)
from insurance_fund.events.terms import Caps


def snake_case(name: str) -> str:
    """Turn a class name into the name that stands on the wire: `FillBooked` is `fill_booked`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


class Message(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag=snake_case
):
    """What every input carries; unknown further fields are accepted."""

    event_id: Id
    event_time_ms: TimeMs
    margin_currency: Id


class PositionTakenOver(Message, frozen=True):
    """The engine took over a position with the margin that is left, before PnL."""

    liquidation_id: Id
    account_id: Id
    instrument_id: Id
    position_side: PositionSide
    quantity: Positive
    entry_price: Positive
    margin: NonNegative
    bankruptcy_price: Positive | None = None
    mark_price: Positive | None = None


class LiquidationOrderSubmitted(Message, frozen=True):
    """The exchange priced and sent a liquidation order itself."""

    liquidation_id: Id
    order_id: CompoundId
    price: Positive
    quantity: Positive
    expires_at_ms: TimeMs


class LiquidationOrderClosed(Message, frozen=True):
    """The matching engine ended an order; `filled_quantity` is cumulative, its own word."""

    liquidation_id: Id
    order_id: CompoundId
    reason: CloseReason
    filled_quantity: NonNegative
    final: bool = True


class AdlExecuted(Message, frozen=True):
    """One counterparty was deleveraged against a trigger."""

    execution_id: Id
    liquidation_id: Id
    trigger_id: CompoundId
    trigger_revision: Revision
    quantity: Positive
    price: Positive
    fee: Signed = "0"


class AdlUnfilled(Message, frozen=True):
    """The ADL engine found no counterparty for `quantity`."""

    liquidation_id: Id
    trigger_id: CompoundId
    quantity: Positive
    reason: Text


class Fill(Message, frozen=True):
    """An execution of a liquidation order; `fee` is signed and in the margin currency."""

    fill_id: Id
    liquidation_id: Id
    order_id: CompoundId
    instrument_id: Id
    side: OrderSide
    price: Positive
    quantity: Positive
    fee: Signed = "0"


class InstrumentDefined(Message, frozen=True):
    """Terms of an instrument as of now; type and margin currency never change."""

    instrument_id: Id
    contract_type: ContractType
    contract_size: Positive
    tick_size: Positive
    quantity_step: Positive
    closing_fee_rate: Rate


class FundDeposit(Message, frozen=True):
    """Money from the treasury into the fund."""

    transfer_id: Id
    amount: Positive
    memo: Text


class FundWithdrawal(Message, frozen=True):
    """Money from the fund back to the treasury, at most available - floor."""

    transfer_id: Id
    amount: Positive
    memo: Text


class ShortfallPayment(Message, frozen=True):
    """Money from the treasury toward losses that the fund could not pay."""

    transfer_id: Id
    amount: Positive
    memo: Text


Transfer = FundDeposit | FundWithdrawal | ShortfallPayment
LiquidationMessage = (
    PositionTakenOver
    | LiquidationOrderSubmitted
    | LiquidationOrderClosed
    | AdlExecuted
    | AdlUnfilled
)
Input = InstrumentDefined | Transfer | LiquidationMessage | Fill

INPUTS: Final[dict[str, tuple[type[Message], ...]]] = {
    topics.INSTRUMENTS: (InstrumentDefined,),
    topics.FUND_TRANSFERS: (FundDeposit, FundWithdrawal, ShortfallPayment),
    topics.LIQUIDATIONS: (
        PositionTakenOver,
        LiquidationOrderSubmitted,
        LiquidationOrderClosed,
        AdlExecuted,
        AdlUnfilled,
    ),
    topics.FILLS: (Fill,),
}


class Output(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=snake_case):
    """What every output carries: its own id and time, and the ledger entry that it came with."""

    event_id: str
    event_time_ms: TimeMs
    margin_currency: str | None
    ledger: str
    sequence: int


class LiquidationOrder(Output, frozen=True):
    """An order to the matching engine: reduce-only, good till date, ended there at expiry."""

    order_id: str
    liquidation_id: str
    account_id: str
    instrument_id: str
    position_side: PositionSide
    order_side: OrderSide
    quantity: str
    price: str
    expires_at_ms: int
    attempt: int
    bankruptcy_price: str | None
    compensation: str
    reserved: str
    binding_cap: str | None


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a position is deleveraged: the last order, what it was priced from, what was left.

    `compensation_needed` is what closing the rest at the mark price would have cost the fund.
    """

    order_id: str | None
    order_price: str | None
    expires_at_ms: int | None
    filled_quantity: str
    entry_price: str
    margin_remaining: str
    bankruptcy_price: str | None
    mark_price: str | None = None
    compensation: str
    caps: Caps | None
    binding_cap: str | None
    compensation_needed: str | None = None
    fund_available: str
    fund_reserved: str


class _AdlMessage(Output, frozen=True):
    trigger_id: str
    revision: int
    liquidation_id: str
    account_id: str
    instrument_id: str
    contract_type: ContractType
    contract_size: str
    tick_size: str
    position_side: PositionSide
    order_side: OrderSide
    quantity: str
    price: str
    price_basis: str
    reason: str
    evidence: Evidence


class AdlTrigger(_AdlMessage, frozen=True):
    """Deleverage up to `quantity` in all, at `price`; a later revision replaces it."""


class AdlTriggerReduced(_AdlMessage, frozen=True):
    """Less is to be deleveraged than the revision before said."""


class AdlTriggerCancelled(_AdlMessage, frozen=True):
    """Nothing more is to be deleveraged; `quantity` is what was executed."""


class DeadLetter(Output, frozen=True):
    """A record that was refused, with its bytes (at most the first 64 KiB of an oversized one)."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    value_base64: str | None


OUTPUTS: Final[dict[str, tuple[type[Output], ...]]] = {
    topics.LIQUIDATION_ORDERS: (LiquidationOrder,),
    topics.ADL_TRIGGERS: (AdlTrigger, AdlTriggerReduced, AdlTriggerCancelled),
    topics.DEAD_LETTERS: (DeadLetter,),
}
