"""ADL triggers: the newest revision of each, every revision with its evidence, and executions."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.projections import tables
from insurance_fund.projections.booking import Booking
from insurance_fund.projections.known import At, Known
from insurance_fund.projections.tables import Row, row_of


def _revised(
    effect: fx.AdlTriggered | fx.AdlReduced | fx.AdlCancelled, at: At, known: Known
) -> None:
    row = known.triggers.get(effect.liquidation_id)
    if row is None:
        row = _begun(effect, at, known)
    evidence = msgspec.json.encode(effect.evidence).decode()
    row["revision"] = effect.revision
    row["quantity"], row["price"] = number(effect.quantity), number(effect.price)
    row["price_basis"], row["reason"] = effect.price_basis, effect.reason
    row["evidence"] = evidence
    _changed(row, at, known)
    revision: Row = {
        "ledger": known.ledger,
        "liquidation_id": effect.liquidation_id,
        "takeover_sequence": row["takeover_sequence"],
        "revision": effect.revision,
        "type": _NAMES[type(effect)],
        "reason": effect.reason,
        "evidence": evidence,
        "quantity": row["quantity"],
        "price": row["price"],
        "sequence": at.sequence,
        "now_ms": at.now_ms,
    }
    known.changed_of(tables.adl_revisions, revision, effect.revision)


def _begun(effect: fx.AdlTriggered | fx.AdlReduced | fx.AdlCancelled, at: At, known: Known) -> Row:
    row = row_of(
        tables.adl_triggers,
        ledger=known.ledger,
        liquidation_id=effect.liquidation_id,
        takeover_sequence=known.liquidations[effect.liquidation_id]["takeover_sequence"],
        trigger_id=effect.trigger_id,
        instrument_id=effect.instrument_id,
        margin_currency=effect.margin_currency,
        account_id=effect.account_id,
        position_side=effect.position_side,
        order_side=effect.order_side,
        first_sequence=at.sequence,
        first_ms=at.now_ms,
    )
    known.triggers[effect.liquidation_id] = row
    return row


def _executed(booking: Booking, at: At, known: Known) -> None:
    effect = booking.effect
    assert isinstance(effect, fx.AdlExecuted)
    row = known.triggers[effect.liquidation_id]
    row["executions"] += 1
    row["executed"] += booking.quantity
    row["executed_notional"] += booking.notional
    row["delta"] += booking.delta
    _changed(row, at, known)
    execution: Row = {
        "ledger": known.ledger,
        "liquidation_id": effect.liquidation_id,
        "takeover_sequence": row["takeover_sequence"],
        "execution_id": effect.execution_id,
        "trigger_revision": effect.trigger_revision,
        "sequence": at.sequence,
        "now_ms": at.now_ms,
        "quantity": booking.quantity,
        "price": number(effect.price),
        "notional": booking.notional,
        "fee": number(effect.fee),
        "delta": booking.delta,
    }
    known.changed_of(tables.adl_executions, execution, effect.execution_id)


def _unfilled(effect: fx.AdlUnfilled, at: At, known: Known) -> None:
    row = known.triggers.get(effect.liquidation_id)
    if row is None:
        return
    row["unfilled"] = number(effect.quantity)
    # Free text of a sender: PostgreSQL keeps no zero byte.
    row["unfilled_reason"] = effect.reason.replace("\0", "\N{REPLACEMENT CHARACTER}")
    row["unfilled_ms"] = at.now_ms
    _changed(row, at, known)


def _changed(row: Row, at: At, known: Known) -> None:
    asked = max(ZERO, row["quantity"] - row["executed"])
    row["asked"] = asked
    if asked:
        row["state"] = "open"
    else:
        row["state"] = "executed" if row["executed"] else "cancelled"
    row["sequence"], row["now_ms"] = at.sequence, at.now_ms
    known.changed_of(tables.adl_triggers, row)


_NAMES: Final = {
    fx.AdlTriggered: "adl_triggered",
    fx.AdlReduced: "adl_reduced",
    fx.AdlCancelled: "adl_cancelled",
}

ON: Final[dict[type[fx.Effect], Any]] = {
    fx.AdlTriggered: _revised,
    fx.AdlReduced: _revised,
    fx.AdlCancelled: _revised,
    fx.AdlExecuted: _executed,
    fx.AdlUnfilled: _unfilled,
}
