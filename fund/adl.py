"""ADL triggers: what goes to auto-deleveraging, at which price, and on what evidence."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text, floor_to, number
from insurance_fund.events.effects import AdlReason, PriceBasis
from insurance_fund.events.messages import Evidence
from insurance_fund.fund.contracts import closing_side, degenerate_limit
from insurance_fund.fund.reservations import books_of, needed
from insurance_fund.fund.state import Liquidation
from insurance_fund.fund.turn import Turn

# What an order's end is called where it leads to a trigger.
ADL_REASON: Final[dict[str, AdlReason]] = {
    "filled": "order_filled",
    "expired": "order_expired",
    "cancelled": "order_cancelled",
    "rejected": "order_rejected",
    "deadline": "deadline",
}


def adl_price(liquidation: Liquidation) -> tuple[Decimal, PriceBasis]:
    """Return the price of a deleveraging and what it rests on.

    Pb with `adl_fee_rate` in place of the closing fee, on the tick on the fund's side and at least
    one tick; the degenerate limit where Pb is none or not above zero.
    """
    position, policy = liquidation.takeover, liquidation.policy
    bankruptcy = position.bankruptcy_price(number(policy.adl_fee_rate))
    reference = liquidation.mark_price or liquidation.entry_price
    limit = degenerate_limit(position, bankruptcy, reference, number(policy.unbounded_price_factor))
    if limit is not None or bankruptcy is None:
        return limit or position.contract.tick, "order_price"
    tick = position.contract.tick
    return max(tick, position.contract.to_tick(bankruptcy, position.side)), "bankruptcy_price"


def raise_trigger(turn: Turn, liquidation: Liquidation, reason: AdlReason) -> None:
    """Hand all that no open order may fill to ADL."""
    _set_target(turn, liquidation, liquidation.uncovered, reason)


def shrink_trigger(turn: Turn, liquidation: Liquidation) -> None:
    """Keep the trigger within what is left; it never rises here."""
    if liquidation.trigger is None:
        return
    target = min(liquidation.uncovered, liquidation.trigger_target)
    _set_target(turn, liquidation, target, None)


def cancel_trigger(turn: Turn, liquidation: Liquidation) -> None:
    """Take back what is still to be deleveraged: a replacement order follows."""
    if liquidation.trigger is not None:
        _set_target(turn, liquidation, ZERO, None)


def _set_target(
    turn: Turn, liquidation: Liquidation, target: Decimal, reason: AdlReason | None
) -> None:
    current, trigger = liquidation.trigger_target, liquidation.trigger
    if target == current:
        return
    if target > current:
        kind: type[fx.AdlTriggered | fx.AdlReduced | fx.AdlCancelled] = fx.AdlTriggered
    else:
        kind = fx.AdlReduced if target else fx.AdlCancelled
    price, basis = adl_price(liquidation)
    terms = liquidation.terms
    turn.emit(
        kind(
            liquidation_id=liquidation.liquidation_id,
            margin_currency=liquidation.margin_currency,
            trigger_id=liquidation.trigger_id,
            revision=1 if trigger is None else trigger.revision + 1,
            account_id=liquidation.account_id,
            instrument_id=terms.instrument_id,
            contract_type=terms.contract_type,
            contract_size=terms.contract_size,
            tick_size=terms.tick_size,
            position_side=liquidation.side,
            order_side=closing_side(liquidation.side),
            quantity=amount_text(liquidation.deleveraged + target),
            price=amount_text(price),
            price_basis=basis,
            reason=reason or trigger.reason,  # type: ignore[union-attr, arg-type]
            evidence=_evidence(turn, liquidation),
        )
    )


def _evidence(turn: Turn, liquidation: Liquidation) -> Evidence:
    position, order = liquidation.takeover, liquidation.last_order
    fund = turn.state.funds[liquidation.margin_currency]
    mark = liquidation.mark_price
    filled = liquidation.closed - liquidation.deleveraged
    open_part = liquidation.quantity - liquidation.closed
    remaining = floor_to(liquidation.margin * open_part, liquidation.quantity, position.scale)
    return Evidence(
        order_id=None if order is None else order.order_id,
        order_price=None if order is None else amount_text(order.price),
        expires_at_ms=None if order is None else order.expires_at_ms,
        filled_quantity=amount_text(filled),
        entry_price=amount_text(liquidation.entry_price),
        margin_remaining=amount_text(remaining),
        bankruptcy_price=liquidation.bankruptcy_price,
        mark_price=None if mark is None else amount_text(mark),
        compensation=amount_text(ZERO if order is None else order.granted),
        caps=None if order is None else order.caps,
        binding_cap=None if order is None else order.binding_cap,
        compensation_needed=None
        if mark is None
        else amount_text(needed(position, books_of(liquidation), mark, liquidation.residual)),
        fund_available=amount_text(fund.available),
        fund_reserved=amount_text(fund.reserved),
    )
