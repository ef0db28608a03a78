"""Evolve: how each effect changes the state. It applies facts and decides nothing.

Recovery folds recorded effects through here, so an old ledger still folds after rules change.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.events.ledger import Cause, ClockCause
from insurance_fund.fund.liquidation_facts import LIQUIDATION_FACTS
from insurance_fund.fund.policy import parse_policy
from insurance_fund.fund.state import (
    Fund,
    Instrument,
    SeenTransfer,
    State,
)
from insurance_fund.fund.waits import Parked


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
        adapted_base64=effect.adapted_base64,
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
    _unpark(state, fx.record_name(effect))


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


_APPLY: Final[dict[type[fx.Effect], Callable[[State, Any, int, int], None]]] = {
    **LIQUIDATION_FACTS,
    fx.ShardOpened: _shard_opened,
    fx.PolicySet: _policy_set,
    fx.InstrumentDefined: _instrument_defined,
    fx.FundDeposited: _deposited,
    fx.FundWithdrawn: _withdrawn,
    fx.ShortfallPaid: _shortfall_paid,
    fx.AdlUnfilled: _nothing,
    fx.FillsMissing: _nothing,
    fx.RecordParked: _parked,
    fx.ParkedExpired: _parked_expired,
    fx.DuplicateIgnored: _nothing,
    fx.Rejected: _nothing,
    fx.IdsForgotten: _forgotten,
    fx.Checkpoint: _nothing,
}
