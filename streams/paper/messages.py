"""What the paper exchange says: its messages, and the fees in them.

Amounts on the wire have at most SCALE_MAX decimals, whatever the currency's scale is.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import SCALE_MAX, amount_text, exact, floor_scale
from insurance_fund.events.fields import CloseReason, OrderSide, PositionSide
from insurance_fund.fund.contracts import Contract
from insurance_fund.streams.paper.adl import AdlMessage, AdlOutcome
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.matching import Ended, Execution
from insurance_fund.streams.paper.tape import Trade

NOBODY: Final = "no counterparty in profit"

# A message, and the topic it is said on.
Said = tuple[str, msg.Message]


class OrdinaryFill(msg.Message, frozen=True, tag="fill"):
    """A fill of no liquidation, as most that a bus carries are."""

    fill_id: str
    order_id: str
    instrument_id: str
    side: OrderSide
    price: str
    quantity: str
    fee: str = "0"


def script_of(market: Market) -> list[Said]:
    """Return what is said whatever the fund does, by topic, in order of its times."""
    script: list[Said] = [(topics.INSTRUMENTS, i) for i in market.instruments]
    script += [(topics.FUND_TRANSFERS, deposit) for deposit in market.deposits]
    script += [(topics.LIQUIDATIONS, takeover) for takeover in market.takeovers]
    return sorted(script, key=lambda one: one[1].event_time_ms)


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


def ordinary_fill_of(name: str, trade: Trade, margin_currency: str) -> OrdinaryFill:
    """Return the fill of whoever sold in a trade."""
    return OrdinaryFill(
        event_id=name,
        event_time_ms=trade.time_ms,
        margin_currency=margin_currency,
        fill_id=name,
        order_id=name,
        instrument_id=trade.instrument_id,
        side="sell",
        price=amount_text(trade.price),
        quantity=amount_text(trade.quantity),
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
