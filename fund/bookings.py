"""Bookings: what a fill or a deleveraging brings or costs the fund, and who pays it.

docs/rules.md section 3: over n of N contracts, F = floor(M n / N + sum of PnL) - Phi is what the
fund has got so far; a booking's `delta` is the difference in F.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import (
    ZERO,
    amount_text,
    canonical,
    ceil_scale,
    ceil_to,
    number,
    unit,
)
from insurance_fund.events.errors import InputError
from insurance_fund.fund.adl import shrink_trigger
from insurance_fund.fund.contracts import closing_side
from insurance_fund.fund.reservations import Books, coverage, needed, release_excess
from insurance_fund.fund.state import Fund, Liquidation, Order
from insurance_fund.fund.turn import Turn


class Booking(msgspec.Struct, frozen=True, gc=False):
    """The books after a closing, and what it changed: amounts of the margin currency."""

    books: Books
    notional: Decimal
    pnl: Decimal
    fee: Decimal
    delta: Decimal
    fee_above_rate: bool


def book(liquidation: Liquidation, quantity: Decimal, price: Decimal, fee: Decimal) -> Booking:
    """Compute what closing `quantity` at `price` for `fee` does to a liquidation's books."""
    position = liquidation.takeover
    closed = liquidation.closed + quantity
    own_notional = position.notional(quantity, price)
    notional = liquidation.notional + own_notional
    rounded_fee = ceil_scale(fee, position.scale)
    fees = liquidation.fees + rounded_fee
    booked = position.worth(closed, notional) - fees
    return Booking(
        Books(closed, notional, fees, booked),
        own_notional,
        position.pnl(closed, notional) - liquidation.pnl,
        rounded_fee,
        booked - liquidation.booked,
        fee > position.contract.fee_rate * own_notional + unit(position.scale),
    )


class Payment(msgspec.Struct, frozen=True, gc=False):
    """Where a delta is paid from or goes: changes of the reservation and of the shortfall."""

    reserved_delta: Decimal
    shortfall_delta: Decimal


def pay(
    fund: Fund, liquidation: Liquidation, delta: Decimal, held: Decimal, kept: Decimal
) -> Payment:
    """Pay a draw or place a gain.

    `held` is the reservation of the order before, `kept` what it may keep after. A draw comes from
    what is freed, then available, then what was kept, then shortfall; a gain first repays the
    shortfall of its own liquidation, as far as the currency still owes it.
    """
    freed = held - kept
    if delta >= ZERO:
        repaid = min(delta, liquidation.shortfall, -fund.shortfall)
        return Payment(-freed, repaid)
    lacking = -delta - freed - fund.available
    if lacking <= ZERO:
        return Payment(-freed, ZERO)
    from_kept = min(lacking, kept)
    return Payment(-(freed + from_kept), -(lacking - from_kept))


def fill(
    turn: Turn, liquidation: Liquidation, message: msg.Fill, content: str, parked: str | None
) -> None:
    """Book a fill of a known order, then settle what follows from it."""
    order = liquidation.orders[message.order_id]
    quantity, price, fee = number(message.quantity), number(message.price), number(message.fee)
    _check_fill(message, liquidation, order, quantity)
    booking = book(liquidation, quantity, price, fee)
    after = msgspec.structs.replace(order, seen=order.seen + quantity)
    residual = liquidation.residual + order.accounted - after.accounted
    kept = order.reserved
    if kept:
        rest = min(after.claim, residual + after.awaited)
        kept = min(kept, needed(liquidation.takeover, booking.books, order.price, rest))
    payment = pay(
        turn.state.funds[liquidation.margin_currency],
        liquidation,
        booking.delta,
        order.reserved,
        kept,
    )
    flags = []
    if price < order.price if liquidation.side == "long" else price > order.price:
        flags.append("limit_violated")
    if booking.fee_above_rate:
        flags.append("fee_above_rate")
    before = coverage(liquidation, but=order)
    turn.emit(
        fx.FillBooked(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            margin_currency=liquidation.margin_currency,
            order_id=message.order_id,
            fill_id=message.fill_id,
            price=canonical(message.price),
            quantity=canonical(message.quantity),
            notional=amount_text(booking.notional),
            pnl=amount_text(booking.pnl),
            fee=amount_text(booking.fee),
            fee_given=None if booking.fee == fee else canonical(message.fee),
            delta=amount_text(booking.delta),
            reserved_delta=amount_text(payment.reserved_delta),
            shortfall_delta=amount_text(payment.shortfall_delta),
            filled=amount_text(booking.books.closed),
            residual=amount_text(residual),
            content=content,
            flags=tuple(flags),
        )
    )
    if before:
        release_excess(turn, liquidation, before, "other_fill")
    if not residual and order.status == "open":
        turn.emit(
            fx.OrderClosed(
                liquidation_id=message.liquidation_id,
                order_id=message.order_id,
                reason="filled",
                filled_quantity=amount_text(after.seen),
            )
        )
    shrink_trigger(turn, liquidation)
    close_if_done(turn, liquidation)


def _check_fill(
    message: msg.Fill, liquidation: Liquidation, order: Order, quantity: Decimal
) -> None:
    if message.instrument_id != liquidation.terms.instrument_id:
        raise InputError(
            "instrument_mismatch",
            f"{message.liquidation_id} is about {liquidation.terms.instrument_id}, "
            f"not {message.instrument_id}",
        )
    side = closing_side(liquidation.side)
    if message.side != side:
        raise InputError(
            "wrong_side", f"a {liquidation.side} is closed by a {side}, not by a {message.side}"
        )
    liquidation.contract.check_step(quantity)
    free = liquidation.residual + order.awaited
    if quantity > free:
        by_adl = quantity <= free + liquidation.deleveraged
        raise InputError(
            "overclosed_by_adl" if by_adl else "exceeds_residual",
            f"quantity {amount_text(quantity)} is above the residual {amount_text(free)}"
            + (" left by auto-deleveraging" if by_adl else ""),
        )
    if quantity > order.rest:
        raise InputError(
            "exceeds_order",
            f"quantity {amount_text(quantity)} is above what is left of order {order.order_id}, "
            f"{amount_text(order.rest)}",
        )


def adl_executed(
    turn: Turn, liquidation: Liquidation, message: msg.AdlExecuted, content: str, parked: str | None
) -> None:
    """Book what a counterparty took; above the residual only the part that fits."""
    offered, price = number(message.quantity), number(message.price)
    check_trigger(liquidation, message.trigger_id)
    liquidation.contract.check_step(offered)
    residual = liquidation.residual
    if not residual:
        raise InputError(
            "no_residual", f"nothing of {message.liquidation_id} is left to deleverage"
        )
    quantity, fee = min(offered, residual), number(message.fee)
    scale = liquidation.takeover.scale
    if quantity < offered:
        fee = ceil_to(fee * quantity, offered, scale)
    if liquidation.reserved:
        release_excess(turn, liquidation, coverage(liquidation), "adl", taken=quantity)
    booking = book(liquidation, quantity, price, fee)
    fund = turn.state.funds[liquidation.margin_currency]
    payment = pay(fund, liquidation, booking.delta, ZERO, ZERO)
    turn.emit(
        fx.AdlExecuted(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            margin_currency=liquidation.margin_currency,
            trigger_id=message.trigger_id,
            trigger_revision=message.trigger_revision,
            execution_id=message.execution_id,
            price=amount_text(price),
            quantity=amount_text(quantity),
            notional=amount_text(booking.notional),
            pnl=amount_text(booking.pnl),
            fee=amount_text(booking.fee),
            fee_given=None if booking.fee == number(message.fee) else canonical(message.fee),
            delta=amount_text(booking.delta),
            reserved_delta="0",
            shortfall_delta=amount_text(payment.shortfall_delta),
            filled=amount_text(booking.books.closed),
            residual=amount_text(residual - quantity),
            excess_quantity=None if quantity == offered else amount_text(offered - quantity),
            flags=("fee_above_rate",) if booking.fee_above_rate else (),
            content=content,
        )
    )
    shrink_trigger(turn, liquidation)
    close_if_done(turn, liquidation)


def check_trigger(liquidation: Liquidation, trigger_id: str) -> None:
    """Raise InputError unless a trigger of this id was sent for the liquidation."""
    if liquidation.trigger is None or trigger_id != liquidation.trigger_id:
        raise InputError(
            "unknown_trigger", f"no trigger {trigger_id} was sent for {liquidation.liquidation_id}"
        )


def close_if_done(turn: Turn, liquidation: Liquidation) -> None:
    """Close a liquidation of which nothing is left."""
    if liquidation.closed != liquidation.quantity:
        return
    if liquidation.deleveraged:
        outcome: fx.Outcome = "deleveraged"
    else:
        outcome = "compensated" if liquidation.booked < ZERO else "better_than_bankruptcy"
    turn.emit(
        fx.LiquidationClosed(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            outcome=outcome,
            quantity=amount_text(liquidation.quantity),
            deleveraged=amount_text(liquidation.deleveraged),
            margin=amount_text(liquidation.margin),
            pnl=amount_text(liquidation.pnl),
            fee=amount_text(liquidation.fees),
            delta=amount_text(liquidation.booked),
            granted=amount_text(liquidation.granted),
            shortfall=amount_text(liquidation.shortfall),
        )
    )
    turn.unlocks(f"closed:{liquidation.liquidation_id}")
