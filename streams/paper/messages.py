"""What the paper exchange says: its messages, the fees in them, and the records they travel in.

Amounts on the wire have at most SCALE_MAX decimals, whatever the currency's scale is.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import SCALE_MAX, amount_text, exact, floor_scale
from insurance_fund.events.fields import CloseReason, PositionSide
from insurance_fund.fund.contracts import Contract
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.paper.adl import AdlMessage, AdlOutcome
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.matching import Ended, Execution

NOBODY: Final = "no counterparty in profit"

# Of the topics whose records are not keyed by liquidation.
_KEYS: Final = {topics.INSTRUMENTS: "instrument_id", topics.FUND_TRANSFERS: "margin_currency"}
_encoder = msgspec.json.Encoder()


def script_of(market: Market) -> list[tuple[str, msg.Message]]:
    """Return what is said whatever the fund does, by topic, in order of its times."""
    script: list[tuple[str, msg.Message]] = [(topics.INSTRUMENTS, i) for i in market.instruments]
    script += [(topics.FUND_TRANSFERS, deposit) for deposit in market.deposits]
    script += [(topics.LIQUIDATIONS, takeover) for takeover in market.takeovers]
    return sorted(script, key=lambda one: one[1].event_time_ms)


def record_of(topic: str, message: msg.Message) -> NewRecord:
    """Return the record of a message, under the key of its topic and at the time it names."""
    key: str = getattr(message, _KEYS.get(topic, "liquidation_id"))
    value = _encoder.encode(message)
    return NewRecord(0, key.encode(), value, timestamp_ms=message.event_time_ms)


@exact
def fee_of(
    rate: Decimal, contract: Contract, quantity: Decimal, price: Decimal, side: PositionSide
) -> Decimal:
    """Return `rate` times the notional, in the margin currency, floored to SCALE_MAX decimals."""
    return floor_scale(rate * contract.notional(quantity, price, side, SCALE_MAX), SCALE_MAX)


def fill_of(name: str, execution: Execution, fee: Decimal, now_ms: int) -> msg.Fill:
    """Return the fill that an execution is."""
    order = execution.order
    return msg.Fill(
        event_id=name,
        event_time_ms=now_ms,
        margin_currency=str(order.margin_currency),
        fill_id=name,
        liquidation_id=order.liquidation_id,
        order_id=order.order_id,
        instrument_id=order.instrument_id,
        side=order.order_side,
        price=amount_text(execution.price),
        quantity=amount_text(execution.quantity),
        fee=amount_text(fee),
    )


def report_of(
    name: str, ended: Ended, reason: CloseReason, now_ms: int
) -> msg.LiquidationOrderClosed:
    """Return the report on an order that ended."""
    order = ended.order
    return msg.LiquidationOrderClosed(
        event_id=name,
        event_time_ms=now_ms,
        margin_currency=str(order.margin_currency),
        liquidation_id=order.liquidation_id,
        order_id=order.order_id,
        reason=reason,
        filled_quantity=amount_text(ended.filled),
    )


def unfilled_of(name: str, outcome: AdlOutcome, now_ms: int) -> msg.AdlUnfilled:
    """Return what is said of a trigger that found nobody."""
    trigger = outcome.trigger
    return msg.AdlUnfilled(
        event_id=name,
        event_time_ms=now_ms,
        margin_currency=str(trigger.margin_currency),
        liquidation_id=trigger.liquidation_id,
        trigger_id=trigger.trigger_id,
        quantity=amount_text(outcome.open_quantity),
        reason=NOBODY,
    )


def executed_of(
    name: str, trigger: AdlMessage, quantity: Decimal, fee: Decimal, now_ms: int
) -> msg.AdlExecuted:
    """Return that one counterparty was deleveraged, at the price of the trigger."""
    return msg.AdlExecuted(
        event_id=name,
        event_time_ms=now_ms,
        margin_currency=str(trigger.margin_currency),
        execution_id=name,
        liquidation_id=trigger.liquidation_id,
        trigger_id=trigger.trigger_id,
        trigger_revision=trigger.revision,
        quantity=amount_text(quantity),
        price=trigger.price,
        fee=amount_text(fee),
    )
