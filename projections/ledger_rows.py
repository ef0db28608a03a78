"""Ledgers: their settings, what was counted in them, and where their entries stand in the log."""

from __future__ import annotations

import json
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.tables import row_of

# Any entry is found by reading at most so many from one that is in the index.
INDEX_EVERY: Final = 256


def _opened(effect: fx.ShardOpened, at: At, known: Known) -> None:
    known.about = row_of(
        tables.ledgers, ledger=known.ledger, clock=effect.clock, policy="{}", software=""
    )
    known.changed(tables.ledgers, known.about)


def _policy_set(effect: fx.PolicySet, at: At, known: Known) -> None:
    assert known.about is not None, "a ledger opens with its first entry"
    known.about["policy"] = json.dumps(effect.policy, sort_keys=True)
    known.about["rules"], known.about["software"] = effect.rules, effect.software
    known.changed(tables.ledgers, known.about)


def _parked(effect: fx.RecordParked, at: At, known: Known) -> None:
    add_parked(1, known)


def _parked_expired(effect: fx.ParkedExpired, at: At, known: Known) -> None:
    add_parked(-1, known)
    _count("parked_expired", effect.reason, known)


def add_parked(records: int, known: Known) -> None:
    """Count records that were parked, or (below zero) that are no more."""
    assert known.about is not None, "a ledger opens with its first entry"
    known.about["parked"] += records
    known.changed(tables.ledgers, known.about)


def _rejected(effect: fx.Rejected, at: At, known: Known) -> None:
    _count("rejected", effect.reason, known)


def _duplicate(effect: fx.DuplicateIgnored, at: At, known: Known) -> None:
    _count("duplicate", "said_again", known)


def _triggered(effect: fx.AdlTriggered, at: At, known: Known) -> None:
    _count("adl_trigger", effect.reason, known)


def _taken_over(effect: fx.PositionTakenOver, at: At, known: Known) -> None:
    for flag in effect.flags:
        _count("flag", flag, known)


def _booked(booking: Booking, at: At, known: Known) -> None:
    for flag in booking.effect.flags:
        _count("flag", flag, known)


def _count(kind: str, reason: str, known: Known) -> None:
    row = known.counters.get((kind, reason))
    if row is None:
        row = row_of(tables.counters, ledger=known.ledger, kind=kind, reason=reason)
        known.counters[kind, reason] = row
    row["records"] += 1
    known.changed(tables.counters, row, kind, reason)


def settle(at: At, known: Known) -> None:
    """Note now and then where an entry stands."""
    if at.sequence % INDEX_EVERY == 0:
        row = {
            "ledger": known.ledger,
            "sequence": at.sequence,
            "log_offset": at.log_offset,
            "now_ms": at.now_ms,
        }
        known.changed(tables.ledger_index, row, at.sequence)


ON: Final[dict[type[fx.Effect], Any]] = {
    fx.ShardOpened: _opened,
    fx.PolicySet: _policy_set,
    fx.RecordParked: _parked,
    fx.ParkedExpired: _parked_expired,
    fx.Rejected: _rejected,
    fx.DuplicateIgnored: _duplicate,
    fx.AdlTriggered: _triggered,
    fx.PositionTakenOver: _taken_over,
    fx.FillBooked: _booked,
    fx.AdlExecuted: _booked,
}
