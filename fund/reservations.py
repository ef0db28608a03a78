"""Compensation and reservation: what an order may cost the fund, and what is set aside for it.

docs/rules.md section 4. Two orders never hold the same money.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text, floor_scale, number
from insurance_fund.events.effects import ReleaseCause
from insurance_fund.events.terms import Caps
from insurance_fund.fund.contracts import Takeover
from insurance_fund.fund.state import Liquidation, Order, State
from insurance_fund.fund.turn import Turn


class Books(msgspec.Struct, frozen=True, gc=False):
    """What a liquidation has come to: contracts closed, their notional, fees (Phi) and F."""

    closed: Decimal
    notional: Decimal
    fees: Decimal
    booked: Decimal


def books_of(liquidation: Liquidation) -> Books:
    """Return the books of a liquidation as they stand."""
    return Books(liquidation.closed, liquidation.notional, liquidation.fees, liquidation.booked)


def needed(position: Takeover, books: Books, price: Decimal, rest: Decimal) -> Decimal:
    """Return max(0, F - W): what closing `rest` more at `price` would take from the fund.

    W is F if `rest` were closed at `price` with the full closing fee.
    """
    if not rest:
        return ZERO
    notional = position.notional(rest, price)
    worth = position.worth(
        books.closed + rest, books.notional + notional, position.contract.fee_rate * notional
    )
    return max(ZERO, books.booked - (worth - books.fees))


def instrument_headroom(state: State, liquidation: Liquidation, now_ms: int) -> Decimal:
    """Return what the rolling window of the instrument still lets the fund grant.

    `share x (max over window of (T + A) - A) - (max over window of X - X) - reserved`, where T is
    available + reserved, A cumulative withdrawals and X the instrument's cumulative delta.
    """
    policy = liquidation.policy
    fund = state.funds[liquidation.margin_currency]
    instrument = state.instruments[liquidation.terms.instrument_id]
    window_ms = policy.instrument_window_ms
    highest = fund.totals.highest(now_ms, window_ms) - fund.withdrawn
    fallen = instrument.deltas.highest(now_ms, window_ms) - instrument.delta
    return number(policy.instrument_share) * highest - fallen - instrument.reserved


def caps_of(
    state: State, liquidation: Liquidation, now_ms: int, price_concession: Decimal | None
) -> list[tuple[str, Decimal]]:
    """Return the caps on a compensation by name, first listed first, floored and at least zero.

    `price_concession` is None for orders that the exchange prices, `per_liquidation` is left out
    where the policy has no limit.
    """
    policy = liquidation.policy
    fund = state.funds[liquidation.margin_currency]
    caps: list[tuple[str, Decimal]] = []
    if price_concession is not None:
        caps.append(("price_concession", price_concession))
    caps.append(("fund", fund.available - number(policy.floor)))
    if policy.liquidation_limit is not None:
        limit = number(policy.liquidation_limit)
        caps.append(("per_liquidation", limit - liquidation.draws - liquidation.reserved))
    caps.append(("per_instrument", instrument_headroom(state, liquidation, now_ms)))
    return [(name, max(ZERO, floor_scale(cap, policy.scale))) for name, cap in caps]


def binding(caps: list[tuple[str, Decimal]]) -> tuple[str, Decimal]:
    """Return the least cap; ties go to the first listed."""
    return min(caps, key=lambda cap: cap[1])


def caps_record(caps: list[tuple[str, Decimal]]) -> Caps:
    """Return the caps as the ledger keeps them."""
    by_name = {name: amount_text(cap) for name, cap in caps}
    return Caps(
        price_concession=by_name.get("price_concession"),
        fund=by_name["fund"],
        per_liquidation=by_name.get("per_liquidation"),
        per_instrument=by_name["per_instrument"],
    )


def covered(liquidation: Liquidation, order: Order, taken: Decimal = ZERO) -> Decimal:
    """Return the quantity that an order may reserve for: its claim, within what is left.

    `taken` is a quantity that ADL is about to take.
    """
    return min(order.claim, liquidation.residual - taken + order.awaited)


def coverage(liquidation: Liquidation, but: Order | None = None) -> dict[str, Decimal]:
    """Return, for each order (but one) that holds a reservation, the quantity it is for."""
    holders = [liquidation.orders[name] for name in liquidation.holders]
    return {o.order_id: covered(liquidation, o) for o in holders if o is not but}


def release_excess(
    turn: Turn,
    liquidation: Liquidation,
    before: Mapping[str, Decimal],
    cause: ReleaseCause,
    *,
    ended: Order | None = None,
    taken: Decimal = ZERO,
) -> None:
    """Release what orders hold for quantities that are no more theirs to reserve for.

    `before` is the coverage before what happened: an order that covers what it did is not computed
    anew. `ended` is the order whose end is the cause (the others are released because of a report),
    `taken` what ADL is about to take.
    """
    for name, covered_before in before.items():
        order = liquidation.orders[name]
        quantity = covered(liquidation, order, taken)
        if quantity >= covered_before:
            continue
        allowed = needed(liquidation.takeover, books_of(liquidation), order.price, quantity)
        if allowed < order.reserved:
            reason = cause if ended is None or order is ended else "report"
            release(turn, liquidation, order, order.reserved - allowed, reason)


def release(
    turn: Turn, liquidation: Liquidation, order: Order, amount: Decimal, cause: ReleaseCause
) -> None:
    """Set `amount` of an order's reservation free."""
    turn.emit(
        fx.ReservationReleased(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            order_id=order.order_id,
            amount=amount_text(amount),
            cause=cause,
        )
    )
