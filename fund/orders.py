"""Liquidation orders: how one is observed, reported or found dead, and what follows from it."""

from __future__ import annotations

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import (
    ZERO,
    amount_text,
    number,
)
from insurance_fund.events.errors import InputError
from insurance_fund.fund.adl import ADL_REASON, cancel_trigger, raise_trigger, shrink_trigger
from insurance_fund.fund.attempts import next_attempt
from insurance_fund.fund.reservations import (
    binding,
    books_of,
    caps_of,
    caps_record,
    coverage,
    needed,
    release,
    release_excess,
)
from insurance_fund.fund.state import Liquidation, Order
from insurance_fund.fund.turn import Turn


def observe(
    turn: Turn,
    liquidation: Liquidation,
    message: msg.LiquidationOrderSubmitted,
    content: str,
    parked: str | None,
) -> None:
    """Take note of an order that the exchange priced, and reserve what it may cost."""
    state = turn.state
    if liquidation.policy.order_pricing == "fund":
        raise InputError(
            "unexpected_order",
            f"orders of {message.liquidation_id} are priced by the fund; "
            f"{message.order_id} is none of them",
        )
    quantity, price = number(message.quantity), number(message.price)
    liquidation.contract.check_step(quantity)
    free = liquidation.residual - liquidation.open_quantity
    if quantity > free:
        raise InputError(
            "exceeds_residual",
            f"order quantity {amount_text(quantity)} is above what no open order covers, "
            f"{amount_text(max(ZERO, free))}",
        )
    turn.emit(
        fx.OrderObserved(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            order_id=message.order_id,
            price=amount_text(price),
            quantity=amount_text(quantity),
            expires_at_ms=message.expires_at_ms,
            content=content,
        )
    )
    claim = needed(liquidation.takeover, books_of(liquidation), price, quantity)
    caps = caps_of(state, liquidation, turn.now_ms, None)
    binding_cap, least = binding(caps)
    reserved = min(claim, state.funds[liquidation.margin_currency].available)
    turn.emit(
        fx.CompensationReserved(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            order_id=message.order_id,
            reserved=amount_text(reserved),
            granted=amount_text(reserved),
            caps=caps_record(caps),
            binding_cap=binding_cap if least < claim else None,
            unreserved=amount_text(claim - reserved),
        )
    )
    shrink_trigger(turn, liquidation)
    turn.unlocks(f"order:{liquidation.liquidation_id}/{message.order_id}")


def report(
    turn: Turn,
    liquidation: Liquidation,
    message: msg.LiquidationOrderClosed,
    content: str,
    parked: str | None,
) -> None:
    """Take the exchange's word on how an order ended, then decide what follows."""
    order = liquidation.orders[message.order_id]
    filled = number(message.filled_quantity)
    liquidation.contract.check_step(filled)
    if filled > order.quantity:
        raise InputError(
            "exceeds_order",
            f"filled_quantity {message.filled_quantity} is above the order's quantity "
            f"{amount_text(order.quantity)}",
        )
    if filled - order.seen > liquidation.residual:
        raise InputError(
            "overclosed_by_adl" if liquidation.deleveraged else "exceeds_residual",
            f"filled_quantity {message.filled_quantity} with {amount_text(order.seen)} seen is "
            f"more than the residual {amount_text(liquidation.residual)} allows",
        )
    late, before = order.status == "overdue", coverage(liquidation)
    turn.emit(
        fx.OrderClosed(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            order_id=message.order_id,
            reason=message.reason,
            filled_quantity=amount_text(filled),
            final=message.final,
            content=content,
        )
    )
    release_excess(turn, liquidation, before, "order_ended", ended=order)
    _after_end(turn, liquidation, order, message.reason, final=message.final, late=late)


def overdue(turn: Turn, liquidation: Liquidation, order: Order) -> None:
    """Take an order for dead: its end was due and the exchange has said nothing."""
    turn.emit(
        fx.OrderClosed(
            liquidation_id=liquidation.liquidation_id,
            order_id=order.order_id,
            reason="deadline",
            filled_quantity=amount_text(order.seen),
        )
    )
    _after_end(turn, liquidation, order, "deadline", final=True, late=False)


def hold_over(turn: Turn, liquidation: Liquidation, order: Order) -> None:
    """Give up the reservation of an order that has been dead, without a report, for too long."""
    if order.reserved:
        release(turn, liquidation, order, order.reserved, "hold_over")


def _after_end(
    turn: Turn, liquidation: Liquidation, order: Order, reason: str, *, final: bool, late: bool
) -> None:
    if not liquidation.residual:
        shrink_trigger(turn, liquidation)
    elif liquidation.policy.order_pricing == "fund":
        if late:
            shrink_trigger(turn, liquidation)
        else:
            next_attempt(turn, liquidation, order, reason)
    elif final:
        raise_trigger(turn, liquidation, ADL_REASON[reason])
    elif late:
        cancel_trigger(turn, liquidation)
    else:
        shrink_trigger(turn, liquidation)
