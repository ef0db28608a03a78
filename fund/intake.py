"""Intake: is a record in time, known already, too old, or too early to be decided?

A record about a liquidation has a *subject*: the liquidation it names, open or closed, or none.
"""

from __future__ import annotations

from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import amount_text, canonical, number
from insurance_fund.events.errors import InputError
from insurance_fund.fund.content import key_of
from insurance_fund.fund.state import ClosedLiquidation, Liquidation, State

LIVE_AHEAD_MS_MAX: Final = 5 * 60_000

Subject = Liquidation | ClosedLiquidation | None
_TRANSFERS: Final = frozenset((msg.FundDeposit, msg.FundWithdrawal, msg.ShortfallPayment))


def subject_of(state: State, message: msg.Input) -> Subject:
    """Return the liquidation that a record names; None where it is unknown, or there is none."""
    liquidation_id = getattr(message, "liquidation_id", None)
    if liquidation_id is None:
        return None
    liquidation = state.liquidations.get(liquidation_id)
    return liquidation if liquidation is not None else state.closed.get(liquidation_id)


def in_reach(state: State, event_time_ms: int) -> bool:
    """Tell whether, in event mode, a record of this time may move the ledger's clock."""
    newest = state.newest_event_ms
    return newest is None or event_time_ms <= newest + state.policy.event_jump_ms_max


def check_time(state: State, message: msg.Input, now_ms: int) -> None:
    """Raise InputError for a record too far ahead of the clock, or of the newest one accepted."""
    if state.clock == "wall":
        if message.event_time_ms > now_ms + LIVE_AHEAD_MS_MAX:
            raise InputError(
                "too_far_ahead",
                f"event_time_ms {message.event_time_ms} is more than {LIVE_AHEAD_MS_MAX} ms ahead "
                f"of the ledger's clock {now_ms}; check the sender's clock",
            )
    elif not in_reach(state, message.event_time_ms):
        raise InputError(
            "too_far_ahead",
            f"event_time_ms {message.event_time_ms} is more than "
            f"{state.policy.event_jump_ms_max} ms after the newest record accepted",
        )


def is_duplicate(
    state: State, message: msg.Input, subject: Subject, content: str, *, from_park: bool
) -> bool:
    """Tell whether this record says again what is known.

    Raises InputError for one that says something else under a known key.
    """
    known = None
    if state.parked_keys and not from_park:
        known = state.parked_keys.get(key_of(message) or "")
    if known is None:
        known = _known_content(state, message, subject)
    if known == content:
        return True
    if known is not None:
        raise _conflict(message)
    if type(message) is msg.LiquidationOrderSubmitted:
        return _acknowledges(subject, message)
    if type(message) is msg.LiquidationOrderClosed:
        return _confirms_end(subject, message)
    return False


def check_age(state: State, message: msg.Input, subject: Subject) -> None:
    """Raise InputError for an unknown id from a time whose ids were forgotten."""
    forgotten_ms = state.closed_forgotten_ms
    if type(message) in _TRANSFERS:
        forgotten_ms = state.transfers_forgotten_ms
    elif subject is not None or type(message) is msg.InstrumentDefined:
        return
    if message.event_time_ms <= forgotten_ms:
        raise InputError(
            "too_old",
            f"event_time_ms {message.event_time_ms} is not after {forgotten_ms}, up to which ids "
            "were forgotten; it may be a duplicate",
        )


def awaited_by(state: State, message: msg.Input, subject: Subject) -> str | None:
    """Return what an early record waits for; None for one that can be decided.

    `instrument:<id>`, `liquidation:<id>` or `order:<liquidation_id>/<order_id>`.
    """
    kind = type(message)
    if isinstance(subject, Liquidation):
        if kind is msg.Fill or kind is msg.LiquidationOrderClosed:
            order_id: str = message.order_id  # type: ignore[union-attr]
            if order_id not in subject.orders:
                return f"order:{subject.liquidation_id}/{order_id}"
        return None
    if subject is not None or kind in _TRANSFERS or kind is msg.InstrumentDefined:
        return None
    if isinstance(message, msg.PositionTakenOver):
        known = message.instrument_id in state.instruments
        return None if known else f"instrument:{message.instrument_id}"
    if isinstance(message, msg.Fill | msg.LiquidationOrderClosed):
        return f"order:{message.liquidation_id}/{message.order_id}"
    return f"liquidation:{message.liquidation_id}"  # type: ignore[union-attr]


def check_open(message: msg.LiquidationMessage | msg.Fill, subject: Subject) -> Liquidation:
    """Return the open liquidation that a record is about.

    Raises InputError for one that is closed or has another currency.
    """
    if isinstance(subject, Liquidation):
        if subject.margin_currency != message.margin_currency:
            raise InputError(
                "currency_mismatch",
                f"{message.liquidation_id} has its margin in {subject.margin_currency}, "
                f"not in {message.margin_currency}",
            )
        return subject
    assert subject is not None, "a record about an unknown liquidation is parked"
    reason = "exceeds_residual"
    if isinstance(message, msg.AdlExecuted | msg.AdlUnfilled):
        reason = "no_residual"
    elif isinstance(message, msg.Fill) and subject.deleveraged:
        reason = "overclosed_by_adl"
    raise InputError(reason, f"{message.liquidation_id} is closed; nothing of it is left to close")


def _known_content(state: State, message: msg.Input, subject: Subject) -> str | None:
    match message:
        case msg.Fill():
            key = f"fill:{message.fill_id}"
        case msg.PositionTakenOver():
            key = "takeover"
        case msg.LiquidationOrderSubmitted():
            key = f"order:{message.order_id}"
        case msg.LiquidationOrderClosed():
            key = f"close:{message.order_id}"
        case msg.AdlExecuted():
            key = f"adl:{message.execution_id}"
            owner = state.executions.get(message.execution_id)
            if owner is not None:
                subject = state.liquidations.get(owner) or state.closed.get(owner)
        case msg.FundDeposit() | msg.FundWithdrawal() | msg.ShortfallPayment():
            seen = state.transfers.get(message.transfer_id)
            return None if seen is None else seen.content
        case msg.AdlUnfilled() | msg.InstrumentDefined():
            return None
    return None if subject is None else subject.keys.get(key)


def _conflict(message: msg.Input) -> InputError:
    if isinstance(message, msg.LiquidationOrderClosed):
        return InputError(
            "conflicting_close",
            f"another report of this order was taken before ({key_of(message)})",
        )
    return InputError(
        "conflicting_duplicate",
        f"{key_of(message)} is known with other content; send corrections by transfer",
    )


def _acknowledges(subject: Subject, message: msg.LiquidationOrderSubmitted) -> bool:
    # The exchange says back an order of ours: the same price and quantity is an acknowledgement.
    issued = None if subject is None else subject.keys.get(f"issued:{message.order_id}")
    if issued is None:
        return False
    if issued != f"{canonical(message.quantity)} at {canonical(message.price)}":
        raise InputError(
            "conflicting_duplicate",
            f"order {message.order_id} went out as {issued}",
        )
    return True


def _confirms_end(subject: Subject, message: msg.LiquidationOrderClosed) -> bool:
    # A fill that left nothing has ended the order already; the report can only confirm it.
    if isinstance(subject, ClosedLiquidation):
        filled = subject.seen.get(message.order_id)
    else:
        order = None if subject is None else subject.orders.get(message.order_id)
        filled = order.reported if order is not None and order.status == "closed" else None
    if filled is None:
        return False
    if filled != number(message.filled_quantity):
        raise InputError(
            "conflicting_close",
            f"order {message.order_id} has ended with {amount_text(filled)} filled, "
            f"not {message.filled_quantity}",
        )
    return True
