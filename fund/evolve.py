"""Evolve: how each effect changes the state. It applies facts and decides nothing.

Recovery folds recorded effects through here, so an old ledger still folds after rules change.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.events.ledger import Cause, ClockCause
from insurance_fund.fund.policy import parse_policy
from insurance_fund.fund.state import (
    ClosedLiquidation,
    Fund,
    Instrument,
    Liquidation,
    Order,
    Parked,
    SeenTransfer,
    State,
    Trigger,
)


def begin(state: State, cause: Cause, now_ms: int) -> None:
    """Start an entry: time moves to `now_ms`, and a deadline that is its cause is spent."""
    state.now_ms = now_ms
    if isinstance(cause, ClockCause):
        state.schedule.clear(cause.deadline)


def evolve(state: State, effect: fx.AnyEffect, now_ms: int, sequence: int) -> None:
    """Apply one effect of entry `sequence`, taken at `now_ms`."""
    _APPLY[type(effect)](state, effect, now_ms, sequence)
    if effect.parked is not None:
        _unpark(state, effect.parked)
    if effect.event_time_ms is not None:
        _note_event_time(state, effect, effect.event_time_ms)


def end(state: State, head: str) -> None:
    """Finish an entry whose bytes have the SHA-256 `head`."""
    state.sequence += 1
    state.head = head


def _note_event_time(state: State, effect: Any, event_time_ms: int) -> None:
    newest = state.newest_event_ms
    if newest is None or event_time_ms > newest:
        state.newest_event_ms = event_time_ms
    liquidation_id = getattr(effect, "liquidation_id", None)
    if liquidation_id is None:
        return
    known = state.liquidations.get(liquidation_id) or state.closed.get(liquidation_id)
    if known is not None and event_time_ms > known.newest_event_ms:
        known.newest_event_ms = event_time_ms


def _shard_opened(state: State, effect: fx.ShardOpened, _now_ms: int, _sequence: int) -> None:
    state.ledger = effect.ledger
    state.clock = effect.clock


def _policy_set(state: State, effect: fx.PolicySet, _now_ms: int, _sequence: int) -> None:
    state.policy = parse_policy(effect.policy)
    state.routing = dict(effect.routing)
    state.rules = effect.rules
    state.software = effect.software
    state.window_ms_max = max(state.window_ms_max, state.policy.window_ms_max)
    for currency in state.policy.currencies:
        state.funds.setdefault(currency, Fund())


def _instrument_defined(
    state: State, effect: fx.InstrumentDefined, _now_ms: int, _sequence: int
) -> None:
    known = state.instruments.get(effect.terms.instrument_id)
    if known is None:
        state.instruments[effect.terms.instrument_id] = Instrument(effect.terms)
    else:
        known.terms = effect.terms


def _transfer(state: State, effect: Any, now_ms: int, amount: Decimal, *, owed: bool) -> None:
    fund = state.funds[effect.margin_currency]
    fund.transfers += amount
    if owed:
        fund.shortfall += amount
    else:
        fund.available += amount
        if amount < ZERO:
            fund.withdrawn -= amount
        fund.totals.note(fund.total + fund.withdrawn, now_ms, state.window_ms_max)
    state.transfers[effect.transfer_id] = SeenTransfer(effect.content, effect.event_time_ms or 0)


def _deposited(state: State, effect: fx.FundDeposited, now_ms: int, _sequence: int) -> None:
    _transfer(state, effect, now_ms, number(effect.amount), owed=False)


def _withdrawn(state: State, effect: fx.FundWithdrawn, now_ms: int, _sequence: int) -> None:
    _transfer(state, effect, now_ms, -number(effect.amount), owed=False)


def _shortfall_paid(state: State, effect: fx.ShortfallPaid, now_ms: int, _sequence: int) -> None:
    _transfer(state, effect, now_ms, number(effect.amount), owed=True)


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
        effect.revision, number(effect.quantity), effect.reason
    )


def _closed(state: State, effect: fx.LiquidationClosed, _now_ms: int, _sequence: int) -> None:
    liquidation = state.liquidations.pop(effect.liquidation_id)
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


def _parked(state: State, effect: fx.RecordParked, _now_ms: int, sequence: int) -> None:
    parked = Parked(
        topic=effect.topic,
        partition=effect.partition,
        offset=effect.offset,
        arrival=sequence,
        awaits=effect.awaits,
        key=effect.key,
        content=effect.content,
        value_base64=effect.value_base64,
        margin_currency=effect.margin_currency,
        liquidation_id=effect.liquidation_id,
    )
    waiting = state.waiting
    state.parked[parked.where] = parked
    waiting.add(parked)
    if effect.key is not None:
        state.parked_keys[effect.key] = effect.content
    state.schedule.set(f"parked:{parked.where}", effect.expires_at_ms)


def _unpark(state: State, where: str) -> None:
    waiting = state.waiting
    parked = state.parked.pop(where)
    waiting.remove(parked)
    if parked.key is not None:
        del state.parked_keys[parked.key]
    state.schedule.clear(f"parked:{where}")


def _parked_expired(state: State, effect: fx.ParkedExpired, _now_ms: int, _sequence: int) -> None:
    _unpark(state, f"{effect.topic}:{effect.partition}:{effect.offset}")


def _forgotten(state: State, effect: fx.IdsForgotten, _now_ms: int, _sequence: int) -> None:
    for liquidation_id in effect.liquidations:
        closed = state.closed.pop(liquidation_id)
        state.closed_forgotten_ms = max(state.closed_forgotten_ms, closed.newest_event_ms)
        for key in closed.keys:
            if key.startswith("adl:"):
                del state.executions[key.removeprefix("adl:")]
    for transfer_id in effect.transfers:
        seen = state.transfers.pop(transfer_id)
        state.transfers_forgotten_ms = max(state.transfers_forgotten_ms, seen.event_time_ms)


def _nothing(_state: State, _effect: Any, _now_ms: int, _sequence: int) -> None:
    """Apply an effect that only tells."""


_APPLY: dict[type[fx.Effect], Callable[[State, Any, int, int], None]] = {
    fx.ShardOpened: _shard_opened,
    fx.PolicySet: _policy_set,
    fx.InstrumentDefined: _instrument_defined,
    fx.FundDeposited: _deposited,
    fx.FundWithdrawn: _withdrawn,
    fx.ShortfallPaid: _shortfall_paid,
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
    fx.AdlUnfilled: _nothing,
    fx.FillsMissing: _nothing,
    fx.LiquidationClosed: _closed,
    fx.RecordParked: _parked,
    fx.ParkedExpired: _parked_expired,
    fx.DuplicateIgnored: _nothing,
    fx.Rejected: _nothing,
    fx.IdsForgotten: _forgotten,
    fx.Checkpoint: _nothing,
}
