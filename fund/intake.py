"""Intake: is a record in time, known already, too old, or too early to be decided?"""

from __future__ import annotations

from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import number
from insurance_fund.events.errors import InputError
from insurance_fund.fund.state import ClosedLiquidation, Liquidation, State

LIVE_AHEAD_MS_MAX: Final = 5 * 60_000

LiquidationRecord = msg.LiquidationMessage | msg.Fill
_TRANSFERS: Final = (msg.FundDeposit, msg.FundWithdrawal, msg.ShortfallPayment)


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


def check_age(state: State, message: msg.Input) -> None:
    """Raise InputError for an unknown id from a time whose ids were forgotten."""
    if isinstance(message, msg.InstrumentDefined):
        return
    if isinstance(message, _TRANSFERS):
        known, forgotten_ms = message.transfer_id in state.transfers, state.transfers_forgotten_ms
    else:
        known = _liquidation(state, message) is not None
        forgotten_ms = state.closed_forgotten_ms
    if not known and message.event_time_ms <= forgotten_ms:
        raise InputError(
            "too_old",
            f"event_time_ms {message.event_time_ms} is not after {forgotten_ms}, up to which ids "
            "were forgotten; it may be a duplicate",
        )


def is_duplicate(
    state: State, message: msg.Input, content: str, key: str | None, *, from_park: bool
) -> bool:
    """Tell whether this record says again what is known.

    Raises InputError for one that says something else under a known key.
    """
    known = None if from_park or key is None else state.parked_keys.get(key)
    if known is None:
        known = _known_content(state, message)
    if known == content:
        return True
    if known is not None:
        raise _conflict(message, str(key))
    if isinstance(message, msg.LiquidationOrderSubmitted):
        return _acknowledges(state, message)
    if isinstance(message, msg.LiquidationOrderClosed):
        return _confirms_end(state, message)
    return False


def awaited_by(state: State, message: msg.Input) -> str | None:
    """Return what an early record waits for; None for one that can be decided.

    `instrument:<id>`, `liquidation:<id>` or `order:<liquidation_id>/<order_id>`.
    """
    if isinstance(message, (msg.InstrumentDefined, *_TRANSFERS)):
        return None
    if isinstance(message, msg.PositionTakenOver):
        known = message.instrument_id in state.instruments
        return None if known else f"instrument:{message.instrument_id}"
    liquidation = _liquidation(state, message)
    if liquidation is None:
        return f"liquidation:{message.liquidation_id}"
    if (
        isinstance(message, msg.Fill | msg.LiquidationOrderClosed)
        and isinstance(liquidation, Liquidation)
        and message.order_id not in liquidation.orders
    ):
        return f"order:{message.liquidation_id}/{message.order_id}"
    return None


def check_open(state: State, message: LiquidationRecord) -> None:
    """Raise InputError for a record about a closed liquidation or in another currency."""
    liquidation = _liquidation(state, message)
    if isinstance(liquidation, Liquidation):
        if liquidation.margin_currency != message.margin_currency:
            raise InputError(
                "currency_mismatch",
                f"{message.liquidation_id} has its margin in {liquidation.margin_currency}, "
                f"not in {message.margin_currency}",
            )
    elif liquidation is not None:
        reason = "exceeds_residual"
        if isinstance(message, msg.AdlExecuted | msg.AdlUnfilled):
            reason = "no_residual"
        elif isinstance(message, msg.Fill) and liquidation.deleveraged:
            reason = "overclosed_by_adl"
        raise InputError(
            reason, f"{message.liquidation_id} is closed; nothing of it is left to close"
        )


def _liquidation(
    state: State, message: LiquidationRecord
) -> Liquidation | ClosedLiquidation | None:
    liquidation = state.liquidations.get(message.liquidation_id)
    return liquidation if liquidation is not None else state.closed.get(message.liquidation_id)


def _known_content(state: State, message: msg.Input) -> str | None:
    if isinstance(message, msg.InstrumentDefined):
        return None
    if isinstance(message, _TRANSFERS):
        seen = state.transfers.get(message.transfer_id)
        return None if seen is None else seen.content
    liquidation_id = message.liquidation_id
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
            liquidation_id = state.executions.get(message.execution_id, liquidation_id)
        case msg.AdlUnfilled():
            return None
    liquidation = state.liquidations.get(liquidation_id) or state.closed.get(liquidation_id)
    return None if liquidation is None else liquidation.keys.get(key)


def _conflict(message: msg.Input, key: str) -> InputError:
    if isinstance(message, msg.LiquidationOrderClosed):
        return InputError(
            "conflicting_close", f"another report of this order was taken before ({key})"
        )
    return InputError(
        "conflicting_duplicate", f"{key} is known with other content; send corrections by transfer"
    )


def _acknowledges(state: State, message: msg.LiquidationOrderSubmitted) -> bool:
    # The exchange says back an order of ours: the same price and quantity is an acknowledgement.
    liquidation = _liquidation(state, message)
    if isinstance(liquidation, ClosedLiquidation):
        return message.order_id in liquidation.seen
    order = None if liquidation is None else liquidation.orders.get(message.order_id)
    if order is None:
        return False
    if (order.price, order.quantity) != (number(message.price), number(message.quantity)):
        raise InputError(
            "conflicting_duplicate",
            f"order {message.order_id} went out with another price or quantity",
        )
    return True


def _confirms_end(state: State, message: msg.LiquidationOrderClosed) -> bool:
    # A fill that left nothing has ended the order already; the report can only confirm it.
    liquidation = _liquidation(state, message)
    if isinstance(liquidation, ClosedLiquidation):
        filled = liquidation.seen.get(message.order_id)
    else:
        order = None if liquidation is None else liquidation.orders.get(message.order_id)
        filled = order.reported if order is not None and order.status == "closed" else None
    if filled is None:
        return False
    if filled != number(message.filled_quantity):
        raise InputError(
            "conflicting_close",
            f"order {message.order_id} has ended with {filled} filled, "
            f"not {message.filled_quantity}",
        )
    return True
