"""The story of a liquidation: entry by entry, in plain words with the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ZERO, amount_text, number
from insurance_fund.events.ledger import ClockCause, Entry
from insurance_fund.events.terms import Caps
from insurance_fund.projections.times import utc

_ADL_WHY: Final = {
    "order_expired": "the order expired with this much unfilled",
    "order_rejected": "the matching engine rejected the order",
    "order_cancelled": "the order was cancelled with this much unfilled",
    "order_filled": "the order is said to be filled, and this much of the position is left",
    "deadline": "the order was due to end, no report came, and this much shows no fill",
    "no_order": "no order stood for it in time",
}
_RELEASE_WHY: Final = {
    "order_ended": "the order has ended",
    "hold_over": "the order's end was never reported and the hold is over",
    "adl": "auto-deleveraging takes what it was for",
    "other_fill": "another order's fill took what it was for",
    "report": "a report about another order left less to close",
}
_BASIS: Final = {
    "bankruptcy_price": "the bankruptcy price at the fee rate of a deleveraging",
    "order_price": "the limit where there is no bankruptcy price",
}
_CAP_WHY: Final = {
    "price_concession": "the price concession that the policy allows",
    "fund": "what the fund has available above its floor",
    "per_liquidation": "the limit for one liquidation",
    "per_instrument": "the instrument's share of the fund in the rolling window",
}


class Line(NamedTuple):
    """One line of a story: which entry, when, which effect, and what it means."""

    sequence: int
    now_ms: int
    effect: str
    text: str


class Story:
    """Collects what entries say about one liquidation."""

    def __init__(self, liquidation_id: str) -> None:
        self.liquidation_id = liquidation_id
        self.lines: list[Line] = []

    def apply(self, entry: Entry) -> None:
        """Take what an entry says about this liquidation, if it does."""
        for effect in entry.effects:
            if getattr(effect, "liquidation_id", None) != self.liquidation_id:
                continue
            tell = _TELL.get(type(effect))
            if tell is None:
                continue
            text = tell(effect)
            if effect.parked is not None:
                text += f" (It had come early and was parked: {effect.parked}.)"
            if isinstance(entry.cause, ClockCause) and effect is entry.effects[0]:
                waited = ", without waiting longer for the backlog" if entry.cause.capped else ""
                text = f"Deadline {entry.cause.deadline} was due{waited}. {text}"
            self.lines.append(
                Line(entry.sequence, entry.now_ms, type(effect).__struct_config__.tag, text)  # type: ignore[arg-type]
            )


def _taken_over(e: fx.PositionTakenOver) -> str:
    terms = e.terms
    size = {
        "linear": f"{terms.contract_size} each",
        "inverse": f"{terms.contract_size} of quote value each",
        "quanto": f"{terms.contract_size} {e.margin_currency} per 1.0 of price each",
    }[terms.contract_type]
    text = (
        f"Took over from {e.account_id} a {e.position_side} of {e.quantity} "
        f"{terms.instrument_id} contracts "
        f"({terms.contract_type}, {size}) entered at {e.entry_price}, with {e.margin} "
        f"{e.margin_currency} of margin left. "
    )
    if e.bankruptcy_price is None:
        text += "It has no finite bankruptcy price: the margin covers any price."
    else:
        text += f"Its bankruptcy price after the closing fee is {e.bankruptcy_price}."
    if e.bankruptcy_price_given is not None:
        text += f" The exchange gave {e.bankruptcy_price_given}."
    if e.mark_price is not None:
        text += f" The mark price was {e.mark_price}."
    if e.flags:
        text += f" Flagged: {', '.join(e.flags)}."
    return text


def _issued(e: fx.OrderIssued) -> str:
    text = (
        f"Order {e.order_id} (attempt {e.attempt}): {e.order_side} {e.quantity} at "
        f"{e.price}, good till {utc(e.expires_at_ms)}. "
    )
    if number(e.compensation):
        return text + (
            f"This is the closing price that a compensation of {e.compensation} "
            f"{e.margin_currency} allows, against a bankruptcy price of {e.bankruptcy_price}."
        )
    return text + "No compensation was granted: it stands at the bankruptcy price, on the tick."


def _observed(e: fx.OrderObserved) -> str:
    return (
        f"The exchange submitted order {e.order_id}: {e.quantity} at {e.price}, "
        f"good till {utc(e.expires_at_ms)}."
    )


def _reserved(e: fx.CompensationReserved) -> str:
    text = f"Set {e.reserved} {e.margin_currency} aside for {e.order_id}, its cost at the limit"
    if number(e.unreserved):
        text += f"; {e.unreserved} more it could cost were not to be had"
    text += f". Caps: {_caps(e.caps)}."
    if e.binding_cap is not None:
        text += f" What bound was {e.binding_cap}: {_CAP_WHY[e.binding_cap]}."
    return text


def _booked(what: str, e: fx.FillBooked | fx.AdlExecuted) -> str:
    delta = number(e.delta)
    if delta > ZERO:
        money = f"the fund gains {e.delta} {e.margin_currency}"
    elif delta < ZERO:
        money = f"it costs {amount_text(-delta)} {e.margin_currency}"
    else:
        money = "nothing for the fund either way"
    text = f"{what}: {e.quantity} at {e.price}; PnL {e.pnl}, fee {e.fee}: {money}."
    freed = -number(e.reserved_delta)
    if freed:
        text += f" {amount_text(freed)} of the order's reservation was freed."
    shortfall = number(e.shortfall_delta)
    if shortfall < ZERO:
        text += f" {amount_text(-shortfall)} could not be paid and stand as shortfall."
    elif shortfall > ZERO:
        text += f" {amount_text(shortfall)} of it repay this liquidation's shortfall."
    if e.flags:
        text += f" Flagged: {', '.join(e.flags)}."
    return f"{text} Closed so far {e.filled}, left {e.residual}."


def _fill(e: fx.FillBooked) -> str:
    return _booked(f"Fill {e.fill_id} of {e.order_id}", e)


def _adl(e: fx.AdlExecuted) -> str:
    text = _booked(f"Deleveraged ({e.execution_id}, revision {e.trigger_revision})", e)
    if e.excess_quantity is not None:
        text += f" {e.excess_quantity} more than was left came and were not booked."
    return text


def _order_closed(e: fx.OrderClosed) -> str:
    if e.reason == "deadline":
        return (
            f"Order {e.order_id} is taken for dead: its end was due and no report came; "
            f"{e.filled_quantity} were seen filled."
        )
    more = "" if e.final else " A replacement order is to follow."
    return f"Order {e.order_id} ended, {e.reason}, with {e.filled_quantity} filled.{more}"


def _released(e: fx.ReservationReleased) -> str:
    return (
        f"Released {e.amount} {e.margin_currency} set aside for {e.order_id}: "
        f"{_RELEASE_WHY[e.cause]}."
    )


def _triggered(e: fx.AdlTriggered) -> str:
    text = (
        f"Handed to auto-deleveraging, revision {e.revision}: {e.quantity} in all at "
        f"{e.price} ({_BASIS[e.price_basis]}), because {_ADL_WHY[e.reason]}. "
    )
    evidence = e.evidence
    if evidence.order_id is not None:
        text += (
            f"The last order, {evidence.order_id} at {evidence.order_price}, had a "
            f"compensation of {evidence.compensation}"
        )
        if evidence.binding_cap is not None:
            text += f", bound by {evidence.binding_cap}"
        text += ". "
    if evidence.compensation_needed is not None:
        text += (
            f"At the mark price {evidence.mark_price} it would have needed "
            f"{evidence.compensation_needed}. "
        )
    return text + f"The fund had {evidence.fund_available} available."


def _reduced(e: fx.AdlReduced) -> str:
    return f"Less goes to auto-deleveraging: revision {e.revision}, {e.quantity} in all."


def _cancelled(e: fx.AdlCancelled) -> str:
    return (
        f"Nothing more goes to auto-deleveraging: revision {e.revision}, "
        f"{e.quantity} were executed."
    )


def _adl_unfilled(e: fx.AdlUnfilled) -> str:
    return f"The ADL engine found nobody for {e.quantity}: {e.reason}. It stays open."


def _missing(e: fx.FillsMissing) -> str:
    return (
        f"{e.awaited} of {e.order_id} was reported filled and no fill has shown it. "
        "They are awaited, not deleveraged: the fills must be published."
    )


def _closed(e: fx.LiquidationClosed) -> str:
    delta = number(e.delta)
    ended = {
        "better_than_bankruptcy": "better than bankruptcy",
        "compensated": "with compensation from the fund",
        "deleveraged": f"with {e.deleveraged} deleveraged",
    }[e.outcome]
    if delta < ZERO:
        money = f"it cost {amount_text(-delta)} {e.margin_currency}, of {e.granted} granted"
    else:
        money = f"the fund gained {e.delta} {e.margin_currency}"
    if number(e.shortfall):
        money += f"; {e.shortfall} of that could not be paid and stand as shortfall"
    return (
        f"Closed {ended}: margin {e.margin} + PnL {e.pnl} - fees {e.fee} = {e.delta}; "
        f"in all {money}."
    )


def _parked(e: fx.RecordParked) -> str:
    return f"A record came early and waits for {e.awaits} ({e.topic}:{e.partition}:{e.offset})."


def _gave_up(e: fx.ParkedExpired) -> str:
    return f"A parked record was given up: {e.detail}. Its bytes are in the dead letters."


def _duplicate(e: fx.DuplicateIgnored) -> str:
    return f"{e.key} says what is known already and changed nothing."


def _rejected(e: fx.Rejected) -> str:
    return f"A record was refused ({e.reason}): {e.detail}. Its bytes are in the dead letters."


def _caps(caps: Caps) -> str:
    named = (
        ("price_concession", caps.price_concession),
        ("fund", caps.fund),
        ("per_liquidation", caps.per_liquidation),
        ("per_instrument", caps.per_instrument),
    )
    return ", ".join(f"{name} {value}" for name, value in named if value is not None)


_TELL: Final[dict[type[fx.Effect], Callable[[Any], str]]] = {
    fx.PositionTakenOver: _taken_over,
    fx.OrderIssued: _issued,
    fx.OrderObserved: _observed,
    fx.CompensationReserved: _reserved,
    fx.FillBooked: _fill,
    fx.AdlExecuted: _adl,
    fx.OrderClosed: _order_closed,
    fx.ReservationReleased: _released,
    fx.AdlTriggered: _triggered,
    fx.AdlReduced: _reduced,
    fx.AdlCancelled: _cancelled,
    fx.AdlUnfilled: _adl_unfilled,
    fx.FillsMissing: _missing,
    fx.LiquidationClosed: _closed,
    fx.RecordParked: _parked,
    fx.ParkedExpired: _gave_up,
    fx.DuplicateIgnored: _duplicate,
    fx.Rejected: _rejected,
}
