"""Takeovers and liquidation orders: how one is priced, observed, ended and followed by the next."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import (
    AMOUNT_END,
    ONE,
    TWO,
    ZERO,
    amount_text,
    canonical,
    floor_scale,
    is_multiple,
    number,
)
from insurance_fund.events.effects import AdlReason
from insurance_fund.events.errors import InputError
from insurance_fund.events.terms import KeptPolicy
from insurance_fund.fund.adl import cancel_trigger, raise_trigger, shrink_trigger
from insurance_fund.fund.contracts import (
    Price,
    Takeover,
    closing_price,
    closing_side,
    contract_of,
    degenerate_limit,
)
from insurance_fund.fund.policy import concessions
from insurance_fund.fund.reservations import (
    binding,
    books_of,
    caps_of,
    caps_record,
    needed,
    release,
    release_excess,
)
from insurance_fund.fund.state import Liquidation, Order
from insurance_fund.fund.turn import Turn

_ADL_REASON: Final[dict[str, AdlReason]] = {
    "filled": "order_filled",
    "expired": "order_expired",
    "cancelled": "order_cancelled",
    "rejected": "order_rejected",
    "deadline": "deadline",
}


def check_step(quantity: Decimal, step: Decimal) -> None:
    """Raise InputError unless the quantity is a multiple of the quantity step."""
    if not is_multiple(quantity, step):
        raise InputError(
            "off_step_quantity",
            f"quantity {amount_text(quantity)} is no multiple of the quantity step "
            f"{amount_text(step)}",
        )


def take_over(turn: Turn, message: msg.PositionTakenOver, content: str, parked: str | None) -> None:
    """Take a position over; where the fund prices, send the first order at once."""
    state = turn.state
    terms = state.instruments[message.instrument_id].terms
    if terms.margin_currency != message.margin_currency:
        raise InputError(
            "currency_mismatch",
            f"instrument {message.instrument_id} has its margin in {terms.margin_currency}, "
            f"not in {message.margin_currency}",
        )
    quantity, contract = number(message.quantity), contract_of(terms)
    check_step(quantity, contract.step)
    policy = state.policy.kept(message.instrument_id, message.margin_currency)
    position = Takeover(
        contract,
        message.position_side,
        quantity,
        number(message.entry_price),
        floor_scale(number(message.margin), policy.scale),
        policy.scale,
    )
    bankruptcy = position.bankruptcy_price()
    _check_range(position, bankruptcy, policy, message.mark_price)
    turn.emit(
        fx.PositionTakenOver(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            margin_currency=message.margin_currency,
            account_id=message.account_id,
            position_side=message.position_side,
            quantity=amount_text(quantity),
            entry_price=amount_text(position.entry_price),
            margin=amount_text(position.margin),
            bankruptcy_price=None if bankruptcy is None else bankruptcy.text(),
            bankruptcy_price_given=_canonical(message.bankruptcy_price),
            mark_price=_canonical(message.mark_price),
            terms=terms,
            policy=policy,
            content=content,
            flags=_takeover_flags(message, bankruptcy, contract.tick),
        )
    )
    turn.unlocks(f"liquidation:{message.liquidation_id}")
    if policy.order_pricing == "fund":
        issue(turn, state.liquidations[message.liquidation_id], step=0)


def _check_range(
    position: Takeover, bankruptcy: Price | None, policy: KeptPolicy, mark_price: str | None
) -> None:
    # What goes out must be a price or an amount that others can read back.
    reference = number(mark_price) if mark_price else position.entry_price
    factor = number(policy.unbounded_price_factor)
    deleverage = position.bankruptcy_price(number(policy.adl_fee_rate))
    far = [
        Price(position.quantity * position.e_num, position.e_den),
        Price(factor * reference, ONE) if bankruptcy is None else bankruptcy.times(TWO),
        *([] if deleverage is None else [deleverage]),
    ]
    if any(value.at_least(AMOUNT_END) for value in far):
        raise InputError(
            "out_of_range",
            "the notional of the position, or a price at which it could be closed, has more than "
            "20 digits; see that quantity, entry_price and margin are in their units",
        )


def _canonical(amount: str | None) -> str | None:
    return None if amount is None else canonical(amount)


def _takeover_flags(
    message: msg.PositionTakenOver, bankruptcy: Price | None, tick: Decimal
) -> tuple[str, ...]:
    if message.bankruptcy_price is None:
        return ()
    given = number(message.bankruptcy_price)
    if bankruptcy is not None:
        apart = abs(bankruptcy.numerator - given * bankruptcy.denominator)
        if apart <= tick * bankruptcy.denominator:
            return ()
    return ("bankruptcy_price_differs",)


def issue(turn: Turn, liquidation: Liquidation, step: int) -> None:
    """Decide the compensation of an attempt, reserve it and send the order at its closing price."""
    position, policy = liquidation.takeover, liquidation.policy
    rest = liquidation.residual
    bankruptcy = position.bankruptcy_price()
    limit = degenerate_limit(
        position,
        bankruptcy,
        liquidation.mark_price or liquidation.entry_price,
        number(policy.unbounded_price_factor),
    )
    if limit is None and bankruptcy is not None and not _priceable(position, bankruptcy):
        raise_trigger(turn, liquidation, "no_order")
        return
    concession = concessions(policy)[step]
    cost = ZERO if limit is not None else position.concession_cost(concession, rest)
    caps = caps_of(turn.state, liquidation, turn.now_ms, cost)
    binding_cap, granted = binding(caps)
    if limit is None and bankruptcy is not None:
        limit = closing_price(position, bankruptcy, concession, granted, rest)
    else:
        granted = ZERO
    assert limit is not None
    # One unit can come from rounding V / L of an inverse contract; more than was granted is never
    # set aside (RULES.md section 4: "<= c").
    reserved = min(granted, needed(position, books_of(liquidation), limit, rest))
    attempt = len(liquidation.orders) + 1
    order_id = f"{liquidation.liquidation_id}:{attempt}"
    turn.emit(
        fx.OrderIssued(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            order_id=order_id,
            account_id=liquidation.account_id,
            instrument_id=liquidation.terms.instrument_id,
            position_side=liquidation.side,
            order_side=closing_side(liquidation.side),
            quantity=amount_text(rest),
            price=amount_text(limit),
            expires_at_ms=turn.now_ms + policy.attempts[step][1],
            attempt=attempt,
            step=step,
            bankruptcy_price=liquidation.bankruptcy_price,
            compensation=amount_text(granted),
            reserved=amount_text(reserved),
            binding_cap=binding_cap,
        )
    )
    turn.emit(
        fx.CompensationReserved(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            order_id=order_id,
            reserved=amount_text(reserved),
            granted=amount_text(granted),
            caps=caps_record(caps),
            binding_cap=binding_cap,
            unreserved="0",
        )
    )
    turn.unlocks(f"order:{liquidation.liquidation_id}/{order_id}")


def _priceable(position: Takeover, bankruptcy: Price) -> bool:
    # A short whose bankruptcy price is below one tick has no price to be bought at.
    return position.side == "long" or bankruptcy.at_least(position.contract.tick)


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
    check_step(quantity, liquidation.contract.step)
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
    check_step(filled, liquidation.contract.step)
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
    late = order.status == "overdue"
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
    release_excess(turn, liquidation, "order_ended", ended=order)
    if not liquidation.residual:
        shrink_trigger(turn, liquidation)
    elif liquidation.policy.order_pricing == "fund":
        if late:
            shrink_trigger(turn, liquidation)
        else:
            _next_attempt(turn, liquidation, order, reason)
    elif final:
        raise_trigger(turn, liquidation, _ADL_REASON[reason])
    elif late:
        cancel_trigger(turn, liquidation)
    else:
        shrink_trigger(turn, liquidation)


def _next_attempt(turn: Turn, liquidation: Liquidation, order: Order, reason: str) -> None:
    step = order.step
    first_at_step = all(
        other.step != step for other in liquidation.orders.values() if other is not order
    )
    if reason != "rejected" or not first_at_step:
        step += 1
    if step < len(liquidation.policy.attempts):
        issue(turn, liquidation, step)
    else:
        raise_trigger(turn, liquidation, _ADL_REASON[reason])
