"""How facts about a liquidation change the state: its orders, reservations, bookings and end."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.fund.state import (
    ClosedLiquidation,
    Liquidation,
    Order,
    State,
    Trigger,
)


def _taken_over(state: State, effect: fx.PositionTakenOver, now_ms: int, _sequence: int) -> None:
    state.liquidations[effect.liquidation_id] = Liquidation(
        liquidation_id=effect.liquidation_id,
        margin_currency=effect.margin_currency,
        account_id=effect.account_id,
        side=effect.position_side,
        quantity=number(effect.quantity),
        entry_price=number(effect.entry_price),
        margin=number(effect.margin),
        mark_price=None if effect.mark_price is None else number(effect.mark_price),
        bankruptcy_price=effect.bankruptcy_price,
        terms=effect.terms,
        policy=effect.policy,
        orders={},
        keys={"takeover": effect.content},
    )
    if effect.policy.order_pricing == "exchange":
        state.schedule.set(
            f"first_order:{effect.liquidation_id}", now_ms + effect.policy.first_order_wait_ms
        )


def _reserve(state: State, liquidation: Liquidation, order: Order, amount: Decimal) -> None:
    # Moves a reservation itself; the balances follow from the effect that says so.
    order.reserved += amount
    liquidation.reserved += amount
    if order.reserved:
        liquidation.holders[order.order_id] = None
    else:
        liquidation.holders.pop(order.order_id, None)
    state.instruments[liquidation.terms.instrument_id].reserved += amount
    state.funds[liquidation.margin_currency].held += amount
    if not order.reserved and order.held:
        order.held = False
        state.schedule.clear(f"hold:{liquidation.liquidation_id}/{order.order_id}")


def _reserved(state: State, effect: fx.CompensationReserved, _now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    order = liquidation.orders[effect.order_id]
    order.granted = number(effect.granted)
    order.caps = effect.caps
    order.binding_cap = effect.binding_cap
    liquidation.granted += order.granted
    amount = number(effect.reserved)
    fund = state.funds[liquidation.margin_currency]
    fund.available -= amount
    fund.reserved += amount
    _reserve(state, liquidation, order, amount)


def _released(state: State, effect: fx.ReservationReleased, _now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    order = liquidation.orders[effect.order_id]
    amount = number(effect.amount)
    fund = state.funds[liquidation.margin_currency]
    fund.available += amount
    fund.reserved -= amount
    _reserve(state, liquidation, order, -amount)


def _add_order(state: State, liquidation: Liquidation, order: Order) -> None:
    liquidation.orders[order.order_id] = order
    liquidation.open_quantity += order.quantity
    name = f"{liquidation.liquidation_id}/{order.order_id}"
    state.schedule.set(f"order:{name}", order.expires_at_ms + liquidation.policy.grace_ms)


def _issued(state: State, effect: fx.OrderIssued, _now_ms: int, _sequence: int) -> None:
    order = Order(
        order_id=effect.order_id,
        price=number(effect.price),
        quantity=number(effect.quantity),
        expires_at_ms=effect.expires_at_ms,
        attempt=effect.attempt,
        step=effect.step,
    )
    liquidation = state.liquidations[effect.liquidation_id]
    _add_order(state, liquidation, order)
    liquidation.keys[f"issued:{order.order_id}"] = f"{effect.quantity} at {effect.price}"


def _observed(state: State, effect: fx.OrderObserved, _now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    order = Order(
        order_id=effect.order_id,
        price=number(effect.price),
        quantity=number(effect.quantity),
        expires_at_ms=effect.expires_at_ms,
        attempt=len(liquidation.orders) + 1,
    )
    _add_order(state, liquidation, order)
    liquidation.keys[f"order:{effect.order_id}"] = effect.content
    state.schedule.clear(f"first_order:{effect.liquidation_id}")
    state.schedule.clear(f"replacement:{effect.liquidation_id}")


def _order_closed(state: State, effect: fx.OrderClosed, now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    order = liquidation.orders[effect.order_id]
    policy = liquidation.policy
    name = f"{effect.liquidation_id}/{effect.order_id}"
    state.schedule.clear(f"order:{name}")
    if order.status == "open":
        liquidation.open_quantity -= order.rest
    if effect.reason == "deadline":
        order.status = "overdue"
        if order.reserved:
            order.held = True
            state.schedule.set(f"hold:{name}", now_ms + policy.reservation_hold_ms)
        return
    liquidation.accounted -= order.accounted
    order.status = "closed"
    order.held = False
    state.schedule.clear(f"hold:{name}")
    order.reported = number(effect.filled_quantity)
    order.report = effect.reason
    liquidation.accounted += order.accounted
    if effect.content is not None:
        liquidation.keys[f"close:{effect.order_id}"] = effect.content
    if order.awaited:
        state.schedule.set(f"missing_fills:{name}", now_ms + policy.missing_fills_alert_ms)
    if not effect.final and policy.order_pricing == "exchange":
        state.schedule.set(
            f"replacement:{effect.liquidation_id}", now_ms + policy.replacement_wait_ms
        )


def _book(
    state: State,
    liquidation: Liquidation,
    effect: fx.FillBooked | fx.AdlExecuted,
    now_ms: int,
) -> None:
    delta, shortfall_delta = number(effect.delta), number(effect.shortfall_delta)
    reserved_delta = number(effect.reserved_delta)
    liquidation.closed += number(effect.quantity)
    liquidation.notional += number(effect.notional)
    liquidation.pnl += number(effect.pnl)
    liquidation.fees += number(effect.fee)
    liquidation.booked += delta
    liquidation.shortfall -= shortfall_delta
    if delta < ZERO:
        liquidation.draws -= delta
    fund = state.funds[liquidation.margin_currency]
    fund.available += delta - reserved_delta - shortfall_delta
    fund.reserved += reserved_delta
    fund.shortfall += shortfall_delta
    fund.deltas += delta
    fund.totals.note(fund.total + fund.withdrawn, now_ms, state.window_ms_max)
    instrument = state.instruments[liquidation.terms.instrument_id]
    instrument.delta += delta
    instrument.deltas.note(instrument.delta, now_ms, state.window_ms_max)


def _fill_booked(state: State, effect: fx.FillBooked, now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    order = liquidation.orders[effect.order_id]
    _book(state, liquidation, effect, now_ms)
    quantity = number(effect.quantity)
    if order.status == "open":
        liquidation.open_quantity -= quantity
    liquidation.accounted -= order.accounted
    order.seen += quantity
    liquidation.accounted += order.accounted
    liquidation.keys[f"fill:{effect.fill_id}"] = effect.content
    reserved_delta = number(effect.reserved_delta)
    if reserved_delta:
        _reserve(state, liquidation, order, reserved_delta)
    if order.reported is not None and not order.awaited:
        state.schedule.clear(f"missing_fills:{effect.liquidation_id}/{effect.order_id}")


def _adl_executed(state: State, effect: fx.AdlExecuted, now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations[effect.liquidation_id]
    _book(state, liquidation, effect, now_ms)
    liquidation.deleveraged += number(effect.quantity)
    liquidation.keys[f"adl:{effect.execution_id}"] = effect.content
    state.executions[effect.execution_id] = effect.liquidation_id


def _adl(state: State, effect: fx.AdlTriggered, _now_ms: int, _sequence: int) -> None:
    state.liquidations[effect.liquidation_id].trigger = Trigger(
        effect.revision, number(effect.quantity), effect.price, effect.reason
    )


def _check_totals(liquidation: Liquidation, effect: fx.LiquidationClosed) -> None:
    told = (
        effect.quantity,
        effect.deleveraged,
        effect.margin,
        effect.pnl,
        effect.fee,
        effect.delta,
        effect.granted,
        effect.shortfall,
    )
    kept = (
        liquidation.quantity,
        liquidation.deleveraged,
        liquidation.margin,
        liquidation.pnl,
        liquidation.fees,
        liquidation.booked,
        liquidation.granted,
        liquidation.shortfall,
    )
    assert tuple(map(number, told)) == kept, f"{effect.liquidation_id} came to {kept}, not {told}"
    assert liquidation.closed == liquidation.quantity, f"{effect.liquidation_id} is not closed"
    assert liquidation.margin + liquidation.pnl - liquidation.fees == liquidation.booked
    assert not liquidation.reserved, f"{effect.liquidation_id} still has reservations"


def _closed(state: State, effect: fx.LiquidationClosed, _now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations.pop(effect.liquidation_id)
    _check_totals(liquidation, effect)
    clear = state.schedule.clear
    clear(f"first_order:{effect.liquidation_id}")
    clear(f"replacement:{effect.liquidation_id}")
    for order_id in liquidation.orders:
        for kind in ("order", "hold", "missing_fills"):
            clear(f"{kind}:{effect.liquidation_id}/{order_id}")
    state.closed[effect.liquidation_id] = ClosedLiquidation(
        keys=liquidation.keys,
        seen={order.order_id: order.seen for order in liquidation.orders.values()},
        deleveraged=bool(liquidation.deleveraged),
        newest_event_ms=liquidation.newest_event_ms,
    )


LIQUIDATION_FACTS: Final[dict[type[fx.Effect], Callable[[State, Any, int, int], None]]] = {
    fx.PositionTakenOver: _taken_over,
    fx.CompensationReserved: _reserved,
    fx.OrderIssued: _issued,
    fx.OrderObserved: _observed,
    fx.OrderClosed: _order_closed,
    fx.FillBooked: _fill_booked,
    fx.AdlExecuted: _adl_executed,
    fx.ReservationReleased: _released,
    fx.AdlTriggered: _adl,
    fx.AdlReduced: _adl,
    fx.AdlCancelled: _adl,
    fx.LiquidationClosed: _closed,
}
