"""Takeovers: a position comes to the fund, with the terms and the policy it keeps to its end."""

from __future__ import annotations

from decimal import Decimal

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import (
    AMOUNT_END,
    ONE,
    TWO,
    amount_text,
    canonical,
    floor_scale,
    number,
)
from insurance_fund.events.errors import InputError
from insurance_fund.events.terms import KeptPolicy
from insurance_fund.fund.attempts import issue
from insurance_fund.fund.contracts import (
    Price,
    Takeover,
    contract_of,
)
from insurance_fund.fund.turn import Turn


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
    contract.check_step(quantity)
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
