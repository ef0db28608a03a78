"""Routes about liquidations and ADL triggers, which age: they carry no ETag."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, get_args

from starlette.responses import Response

from insurance_fund.events.effects import AdlReason, Outcome
from insurance_fund.events.fields import ID_PATTERN
from insurance_fund.events.ledger import decode_entry
from insurance_fund.projections.http.cursors import CURSOR, read_cursor, write_cursor
from insurance_fund.projections.http.funds import LEDGER, POSITIONS, only
from insurance_fund.projections.http.parameters import choice, identifier, integer, text
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import Call, Route, json_response
from insurance_fund.projections.http.schemas import COUNT, TIME_MS, fields, listed, maybe, ref
from insurance_fund.projections.http.schemas import CURSOR as NEXT
from insurance_fund.projections.liquidation_queries import ORDER as LIQUIDATION_ORDER
from insurance_fund.projections.liquidation_queries import (
    STATUSES,
    query_entries,
    query_liquidation,
    query_liquidations,
    query_orders_and_trigger,
)
from insurance_fund.projections.queries import Reading, Values
from insurance_fund.projections.story import Story
from insurance_fund.projections.trigger_queries import ORDER as TRIGGER_ORDER
from insurance_fund.projections.trigger_queries import STATES, query_trigger, query_triggers

ROWS: Final = 100
ROWS_MAX: Final = 500
TRIGGERS: Final = 50
TRIGGERS_MAX: Final = 200
# Entries of a story that are read from the log for one answer.
STORY: Final = 100
STORY_MAX: Final = 200

_LIQUIDATION: Final = identifier("liquidation_id", "The liquidation.").at("path")
_TRIGGER: Final = text(
    "trigger_id",
    "The ADL trigger.",
    f"{ID_PATTERN}(?::{ID_PATTERN})?",
    "an id of at most 64 characters, with at most one ':suffix'",
).at("path")
_OF: Final = (
    identifier("instrument_id", "Only those of an instrument."),
    identifier("margin_currency", "Only those of a fund."),
    identifier("ledger", "Only those of a ledger."),
    CURSOR,
)


def _as_of_ms(reading: Reading) -> dict[str, int]:
    """Return the time that it is in each ledger: now, or, of a recording, where it stands."""
    wall_ms = time.time_ns() // 1_000_000
    clocks = reading.clocks()
    return {
        ledger: wall_ms if clocks.get(ledger) == "wall" else at.now_ms
        for ledger, at in reading.positions.items()
    }


def _aged(liquidation: Values, as_of_ms: dict[str, int]) -> Values:
    ends = liquidation["expires_at_ms"] if liquidation["order_status"] == "open" else None
    left = None if ends is None else ends - as_of_ms[liquidation["ledger"]]
    return {**liquidation, "time_left_ms": left}


def _aged_trigger(trigger: Values, as_of_ms: dict[str, int]) -> Values:
    return {**trigger, "age_ms": as_of_ms[trigger["ledger"]] - trigger["first_ms"]}


def _next(
    route: str, filters: Sequence[Any], rows: list[Values], limit: int, names: Sequence[str]
) -> str | None:
    """Return the cursor behind the last row of a page, None where no more than it was found."""
    if len(rows) <= limit:
        return None
    return write_cursor(route, filters, [rows[limit - 1][name] for name in names])


async def _liquidations(call: Call) -> Response:
    names = ("status", "outcome", "instrument_id", "margin_currency", "ledger")
    filters = {name: call.values[name] for name in names}
    given, limit = list(filters.values()), call.values["limit"]
    key = read_cursor(call.values["cursor"], "liquidations", given, (int, int, str, str))

    def query(reading: Reading) -> Values:
        rows = query_liquidations(reading, filters, key, limit + 1)
        as_of_ms = _as_of_ms(reading)
        return {
            "positions": reading.told(),
            "as_of_ms": max(as_of_ms.values(), default=0),
            "liquidations": [_aged(row, as_of_ms) for row in rows[:limit]],
            "next": _next("liquidations", given, rows, limit, LIQUIDATION_ORDER),
        }

    return json_response(await call.services.views.read(query))


async def _liquidation(call: Call) -> Response:
    values = call.values
    liquidation_id, takeover = values["liquidation_id"], values["takeover_sequence"]
    limit = values["limit"]
    filters = (liquidation_id, values["ledger"])
    key = read_cursor(values["cursor"], "story", filters, (int,))

    def query(reading: Reading) -> tuple[Values, list[tuple[int, int]]]:
        rows = query_liquidation(reading, liquidation_id, values["ledger"])
        wanted = [row for row in rows if takeover in (None, row["takeover_sequence"])]
        if not wanted:
            raise ProblemError(
                "not-found",
                f"there is no liquidation {liquidation_id}, or not with these parameters; "
                "/v1/liquidations lists them",
            )
        liquidation, as_of_ms = wanted[0], _as_of_ms(reading)
        ledger = liquidation["ledger"]
        orders, trigger = query_orders_and_trigger(reading, liquidation)
        where = (ledger, liquidation_id)
        body = {
            "positions": reading.told([ledger]),
            "as_of_ms": as_of_ms[ledger],
            "liquidation": _aged(liquidation, as_of_ms),
            "takeovers": [row["takeover_sequence"] for row in rows if row["ledger"] == ledger],
            "orders": [
                {name: value for name, value in order.items() if name not in _KEY}
                for order in orders
            ],
            "trigger": None if trigger is None else _aged_trigger(trigger, as_of_ms),
        }
        return body, query_entries(reading, where, -1 if key is None else key[0], limit + 1)

    body, entries = await call.services.views.read(query)
    page = entries[:limit]
    book = call.services.book(body["liquidation"]["ledger"])
    story = Story(liquidation_id)
    for record in await book.entries.at_offsets(offset for _, offset in page):
        story.apply(decode_entry(record.value or b""))
    more = write_cursor("story", filters, [page[-1][0]]) if len(entries) > limit else None
    lines = [line._asdict() for line in story.lines]
    return json_response({**body, "story": {"lines": lines, "next": more}})


async def _triggers(call: Call) -> Response:
    names = ("state", "reason", "instrument_id", "margin_currency", "ledger")
    filters = {name: call.values[name] for name in names}
    given, limit = list(filters.values()), call.values["limit"]
    key = read_cursor(call.values["cursor"], "adl-triggers", given, (int, int, str, str))

    def query(reading: Reading) -> Values:
        rows = query_triggers(reading, filters, key, limit + 1)
        as_of_ms = _as_of_ms(reading)
        return {
            "positions": reading.told(),
            "as_of_ms": max(as_of_ms.values(), default=0),
            "triggers": [_aged_trigger(row, as_of_ms) for row in rows[:limit]],
            "next": _next("adl-triggers", given, rows, limit, TRIGGER_ORDER),
        }

    return json_response(await call.services.views.read(query))


async def _trigger(call: Call) -> Response:
    trigger_id = call.values["trigger_id"]

    def query(reading: Reading) -> Values:
        what = f"ADL trigger {trigger_id}; /v1/adl-triggers lists them"
        trigger = only(query_trigger(reading, trigger_id), what, call.values["ledger"])
        as_of_ms = _as_of_ms(reading)
        return {
            "positions": reading.told([trigger["ledger"]]),
            "as_of_ms": as_of_ms[trigger["ledger"]],
            "trigger": _aged_trigger(trigger, as_of_ms),
        }

    return json_response(await call.services.views.read(query))


_KEY: Final = ("ledger", "liquidation_id", "takeover_sequence")

ROUTES: Final = (
    Route(
        "/v1/liquidations",
        "liquidations",
        "Liquidations, open and closed, the newest takeover first. `time_left_ms` is that of an "
        "open order.",
        _liquidations,
        fields(
            positions=POSITIONS,
            as_of_ms=TIME_MS,
            liquidations=listed(ref("Liquidation")),
            next=NEXT,
        ),
        (
            choice("status", "Only those that are open, or closed.", STATUSES),
            choice("outcome", "Only those that ended so.", get_args(Outcome)),
            *_OF,
            integer("limit", "How many at most.", 1, ROWS_MAX, ROWS),
        ),
    ),
    Route(
        "/v1/liquidations/{liquidation_id}",
        "liquidation",
        "One liquidation with its orders, its ADL trigger, and its story out of the ledger, page "
        "by page. Of an id that came more than once this is the newest; `takeovers` has all.",
        _liquidation,
        fields(
            positions=POSITIONS,
            as_of_ms=TIME_MS,
            liquidation=ref("Liquidation"),
            takeovers=listed(COUNT),
            orders=listed(ref("Order")),
            trigger=maybe(ref("Trigger")),
            story=fields(lines=listed(ref("Line")), next=NEXT),
        ),
        (
            _LIQUIDATION,
            integer("takeover_sequence", "The one that was taken over by this entry."),
            LEDGER,
            integer("limit", "How many entries of the story at most.", 1, STORY_MAX, STORY),
            CURSOR,
        ),
        problems=(404,),
    ),
    Route(
        "/v1/adl-triggers",
        "adl_triggers",
        "ADL triggers with evidence, revisions and executions, the newest first.",
        _triggers,
        fields(positions=POSITIONS, as_of_ms=TIME_MS, triggers=listed(ref("Trigger")), next=NEXT),
        (
            choice("state", "Only those that are open, executed or cancelled.", STATES),
            choice("reason", "Only those of a reason.", get_args(AdlReason)),
            *_OF,
            integer("limit", "How many at most.", 1, TRIGGERS_MAX, TRIGGERS),
        ),
    ),
    Route(
        "/v1/adl-triggers/{trigger_id}",
        "adl_trigger",
        "One ADL trigger.",
        _trigger,
        fields(positions=POSITIONS, as_of_ms=TIME_MS, trigger=ref("Trigger")),
        (_TRIGGER, LEDGER),
        problems=(404,),
    ),
)
