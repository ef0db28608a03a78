"""Decide: which effects a cause has. All rules hang from here; `evolve` only applies facts.

`RULES` is written into the ledger and is bumped by any change in what `decide` answers.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import amount_text, number
from insurance_fund.events.codec import Decoder, Refusal
from insurance_fund.events.errors import CorruptionError, InputError, InvariantError
from insurance_fund.events.ledger import PolicyCause
from insurance_fund.fund import bookings, intake, orders, takeovers, transfers
from insurance_fund.fund.adl import raise_trigger
from insurance_fund.fund.content import content_of, key_of
from insurance_fund.fund.state import Liquidation, State
from insurance_fund.fund.turn import Origin, Turn
from insurance_fund.fund.waits import Parked

RULES: Final = 1

# With `parked_max` this bounds what early records may take in memory; ours have some 400 bytes.
PARKED_BYTES_MAX: Final = 16 * 1024

# The bytes of a parked record were within the limit when they came in.
_parked_decoder = Decoder(record_bytes_max=2**40)


def decide_record(state: State, decoded: msg.Input | Refusal, origin: Origin, now_ms: int) -> Turn:
    """Decide a record of an input topic, and the parked records that it makes possible."""
    turn = Turn(state, now_ms)
    if isinstance(decoded, Refusal):
        _reject(turn, origin, decoded)
    else:
        _take(turn, decoded, origin)
        _take_possible(turn)
        _forget(turn)
    return turn


def decide_deadline(state: State, name: str, now_ms: int) -> Turn:
    """Decide a deadline that is due; `name` is one of docs/rules.md section 6."""
    turn = Turn(state, now_ms)
    kind, _, about = name.partition(":")
    if kind == "parked":
        _expire(turn, state.parked[about], "parked_expired")
        return turn
    liquidation_id, _, order_id = about.partition("/")
    liquidation = state.liquidations[liquidation_id]
    if kind == "order":
        orders.overdue(turn, liquidation, liquidation.orders[order_id])
    elif kind == "hold":
        orders.hold_over(turn, liquidation, liquidation.orders[order_id])
    elif kind == "missing_fills":
        awaited = amount_text(liquidation.orders[order_id].awaited)
        turn.emit(
            fx.FillsMissing(liquidation_id=liquidation_id, order_id=order_id, awaited=awaited)
        )
    elif kind in ("replacement", "first_order"):
        raise_trigger(turn, liquidation, "no_order")
    else:
        raise CorruptionError(f"no deadline is called {name}", state.sequence)
    _take_possible(turn)
    _forget(turn)
    return turn


def decide_policy(state: State, cause: PolicyCause, ledger: str, now_ms: int) -> Turn:
    """Decide a change of settings; the first one opens the shard."""
    turn = Turn(state, now_ms)
    if state.clock is None:
        turn.emit(fx.ShardOpened(ledger=ledger, clock=cause.clock))
    turn.emit(
        fx.PolicySet(
            policy=cause.policy, routing=cause.routing, rules=cause.rules, software=cause.software
        )
    )
    return turn


def decide_checkpoint(state: State, now_ms: int) -> Turn:
    """Decide a checkpoint: its positions stand in the cause."""
    turn = Turn(state, now_ms)
    turn.emit(fx.Checkpoint())
    return turn


def _take(turn: Turn, message: msg.Input, origin: Origin) -> None:
    decided = len(turn.effects)
    try:
        _take_message(turn, message, origin)
    except InputError as error:
        if len(turn.effects) != decided:
            raise InvariantError(f"refused after effects: {error}", turn.state.sequence) from error
        _reject(
            turn,
            origin,
            Refusal(
                error.reason,
                error.detail,
                margin_currency=message.margin_currency,
                liquidation_id=getattr(message, "liquidation_id", None),
            ),
        )


def _take_message(turn: Turn, message: msg.Input, origin: Origin) -> None:
    state, parked = turn.state, origin.parked
    if state.routing.get(message.margin_currency) != state.ledger:
        raise InputError(
            "unknown_currency",
            f"no ledger has the currency {message.margin_currency}; the policy must name it, and "
            "where there are several ledgers the settings must give it to one",
        )
    if parked is None:
        intake.check_time(state, message, turn.now_ms)
    content, subject = content_of(message), intake.subject_of(state, message)
    if intake.is_duplicate(state, message, subject, content, from_park=parked is not None):
        turn.emit(
            fx.DuplicateIgnored(
                event_time_ms=message.event_time_ms,
                parked=parked,
                key=str(key_of(message)),
                liquidation_id=getattr(message, "liquidation_id", None),
            )
        )
        return
    intake.check_age(state, message, subject)
    awaits = intake.awaited_by(state, message, subject)
    if awaits is not None:
        _park(turn, message, origin, awaits, content)
        return
    handler = _HANDLERS.get(type(message))
    if handler is not None:
        handler(turn, message, content, parked)
    else:
        liquidation = intake.check_open(message, subject)  # type: ignore[arg-type]
        _LIQUIDATION_HANDLERS[type(message)](turn, liquidation, message, content, parked)


def _adl_unfilled(
    turn: Turn,
    liquidation: Liquidation,
    message: msg.AdlUnfilled,
    _content: str,
    parked: str | None,
) -> None:
    bookings.check_trigger(liquidation, message.trigger_id)
    liquidation.contract.check_step(number(message.quantity))
    turn.emit(
        fx.AdlUnfilled(
            event_time_ms=message.event_time_ms,
            parked=parked,
            liquidation_id=message.liquidation_id,
            trigger_id=message.trigger_id,
            quantity=amount_text(number(message.quantity)),
            reason=message.reason,
        )
    )


_Handler = Callable[[Turn, Any, str, str | None], None]
_HANDLERS: Final[dict[type[msg.Message], _Handler]] = {
    msg.InstrumentDefined: transfers.define_instrument,
    msg.FundDeposit: transfers.transfer,
    msg.FundWithdrawal: transfers.transfer,
    msg.ShortfallPayment: transfers.transfer,
    msg.PositionTakenOver: takeovers.take_over,
}
_LIQUIDATION_HANDLERS: Final[
    dict[type[msg.Message], Callable[[Turn, Liquidation, Any, str, str | None], None]]
] = {
    msg.LiquidationOrderSubmitted: orders.observe,
    msg.LiquidationOrderClosed: orders.report,
    msg.Fill: bookings.fill,
    msg.AdlExecuted: bookings.adl_executed,
    msg.AdlUnfilled: _adl_unfilled,
}


def _reject(turn: Turn, origin: Origin, refusal: Refusal) -> None:
    turn.emit(
        fx.Rejected(
            parked=origin.parked,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            reason=refusal.reason,
            detail=refusal.detail,
            liquidation_id=refusal.liquidation_id,
        )
    )
    turn.dead_letter(origin, refusal.reason, refusal.detail, refusal.margin_currency)


def _park(turn: Turn, message: msg.Input, origin: Origin, awaits: str, content: str) -> None:
    state = turn.state
    if origin.parked is not None:
        raise InvariantError(f"{origin.parked} would be parked a second time", state.sequence)
    value, adapted = origin.value or b"", origin.adapted
    size = len(value) + len(adapted or b"")
    if size > PARKED_BYTES_MAX:
        raise InputError(
            "early_and_too_large",
            f"{awaits} is not known yet, and a record of {size} bytes is not kept "
            f"waiting (at most {PARKED_BYTES_MAX}); send it again afterwards, or smaller",
        )
    while len(state.parked) >= state.policy.parked_max:
        _expire(turn, next(iter(state.parked.values())), "parked_full")
    turn.emit(
        fx.RecordParked(
            event_time_ms=message.event_time_ms,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            awaits=awaits,
            key=key_of(message),
            content=content,
            expires_at_ms=turn.now_ms + state.policy.parked_ms,
            value_base64=base64.b64encode(value).decode(),
            margin_currency=message.margin_currency,
            liquidation_id=getattr(message, "liquidation_id", None),
            adapted_base64=None if adapted is None else base64.b64encode(adapted).decode(),
        )
    )


def _expire(turn: Turn, parked: Parked, reason: str) -> None:
    detail = f"{parked.awaits} did not come in time"
    if reason == "parked_full":
        detail = f"more than parked_max records wait; this one, for {parked.awaits}, was the oldest"
    turn.emit(
        fx.ParkedExpired(
            topic=parked.topic,
            partition=parked.partition,
            offset=parked.offset,
            reason=reason,  # type: ignore[arg-type]
            detail=detail,
            liquidation_id=parked.liquidation_id,
        )
    )
    turn.dead_letter(_origin_of(parked), reason, detail, parked.margin_currency)


def _origin_of(parked: Parked) -> Origin:
    return Origin(
        parked.topic,
        parked.partition,
        parked.offset,
        parked.value,
        parked.where,
        parked.adapted,
    )


def _take_possible(turn: Turn) -> None:
    # In order of arrival, again and again: one parked record may be what the next one waits for.
    state, possible = turn.state, list[tuple[int, str]]()
    while turn.unlocked or possible:
        for key in turn.unlocked:
            for parked in state.waiting.released_by(key):
                heapq.heappush(possible, (parked.arrival, parked.where))
        turn.unlocked.clear()
        if not possible:
            return
        _, where = heapq.heappop(possible)
        if where not in state.parked:
            continue
        first = state.parked[where]
        origin = _origin_of(first)
        message = _parked_decoder.decode(first.topic, first.message)
        if isinstance(message, Refusal):
            _reject(turn, origin, message)
        else:
            _take(turn, message, origin)
        if where in state.parked:
            raise InvariantError(f"{where} was taken and is still parked", state.sequence)


def _forget(turn: Turn) -> None:
    # Last of all: what was parked may have been about a liquidation that has just closed.
    state, most = turn.state, turn.state.policy.closed_max
    liquidations = _oldest(state.closed, len(state.closed) - most)
    transfers = _oldest(state.transfers, len(state.transfers) - most)
    if liquidations or transfers:
        turn.emit(fx.IdsForgotten(liquidations=liquidations, transfers=transfers))


def _oldest(known: Mapping[str, object], excess: int) -> tuple[str, ...]:
    return tuple(islice(known, excess)) if excess > 0 else ()
