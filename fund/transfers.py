"""Transfers between the treasury and the fund, and instruments: what is not a liquidation."""

from __future__ import annotations

from typing import Final

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import ZERO, amount_text, is_multiple, number, unit
from insurance_fund.events.errors import InputError
from insurance_fund.events.terms import Terms
from insurance_fund.fund.turn import Turn

_EFFECTS: Final[
    dict[type[msg.Message], type[fx.FundDeposited | fx.FundWithdrawn | fx.ShortfallPaid]]
] = {
    msg.FundDeposit: fx.FundDeposited,
    msg.FundWithdrawal: fx.FundWithdrawn,
    msg.ShortfallPayment: fx.ShortfallPaid,
}


def transfer(turn: Turn, message: msg.Transfer, content: str, parked: str | None) -> None:
    """Book a deposit, a withdrawal or a payment toward the shortfall."""
    state, currency = turn.state, message.margin_currency
    fund, rules = state.funds[currency], state.policy.currencies[currency]
    amount = number(message.amount)
    if not is_multiple(amount, unit(rules.scale)):
        raise InputError(
            "off_scale_amount",
            f"amount {message.amount} has more than the {rules.scale} decimals of {currency}",
        )
    if isinstance(message, msg.FundWithdrawal):
        most = max(ZERO, fund.available - number(rules.floor))
        if amount > most:
            raise InputError(
                "exceeds_available",
                f"at most {amount_text(most)} {currency} can be withdrawn (available - floor)",
            )
    elif isinstance(message, msg.ShortfallPayment) and amount > -fund.shortfall:
        raise InputError(
            "exceeds_shortfall", f"only {amount_text(-fund.shortfall)} {currency} are owed"
        )
    turn.emit(
        _EFFECTS[type(message)](
            event_time_ms=message.event_time_ms,
            parked=parked,
            margin_currency=currency,
            transfer_id=message.transfer_id,
            amount=amount_text(amount),
            memo=message.memo,
            content=content,
        )
    )


def define_instrument(
    turn: Turn, message: msg.InstrumentDefined, content: str, parked: str | None
) -> None:
    """Take an instrument's terms; liquidations under way keep those of their takeover."""
    terms = Terms(
        instrument_id=message.instrument_id,
        margin_currency=message.margin_currency,
        contract_type=message.contract_type,
        contract_size=amount_text(number(message.contract_size)),
        tick_size=amount_text(number(message.tick_size)),
        quantity_step=amount_text(number(message.quantity_step)),
        closing_fee_rate=amount_text(number(message.closing_fee_rate)),
    )
    known = turn.state.instruments.get(message.instrument_id)
    if known is not None:
        old = known.terms
        if terms == old:
            turn.emit(
                fx.DuplicateIgnored(
                    event_time_ms=message.event_time_ms,
                    parked=parked,
                    key=f"instrument:{message.instrument_id}",
                )
            )
            return
        if (terms.contract_type, terms.margin_currency) != (
            old.contract_type,
            old.margin_currency,
        ):
            raise InputError(
                "instrument_changed",
                f"{message.instrument_id} is {old.contract_type} with margin in "
                f"{old.margin_currency}; these never change",
            )
    turn.emit(fx.InstrumentDefined(event_time_ms=message.event_time_ms, parked=parked, terms=terms))
    turn.unlocks(f"instrument:{message.instrument_id}")
