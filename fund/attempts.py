"""Attempts: the orders that the fund prices, one after the other, and ADL after the last."""

from __future__ import annotations

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import (
    ZERO,
    amount_text,
    number,
)
from insurance_fund.fund.adl import ADL_REASON, raise_trigger
from insurance_fund.fund.contracts import (
    Price,
    Takeover,
    closing_price,
    closing_side,
    degenerate_limit,
)
from insurance_fund.fund.policy import concessions
from insurance_fund.fund.reservations import (
    binding,
    books_of,
    caps_of,
    caps_record,
    needed,
)
from insurance_fund.fund.state import Liquidation, Order
from insurance_fund.fund.turn import Turn


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
    # set aside (docs/rules.md section 4: "<= c").
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


def next_attempt(turn: Turn, liquidation: Liquidation, order: Order, reason: str) -> None:
    """Send the attempt that follows on the end of an order, or hand the rest to ADL.

    An attempt is repeated once if it was rejected.
    """
    step = order.step
    first_at_step = all(
        other.step != step for other in liquidation.orders.values() if other is not order
    )
    if reason != "rejected" or not first_at_step:
        step += 1
    if step < len(liquidation.policy.attempts):
        issue(turn, liquidation, step)
    else:
        raise_trigger(turn, liquidation, ADL_REASON[reason])
