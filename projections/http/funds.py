"""Routes about funds and instruments; all are functions of the ledgers' positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from starlette.responses import Response

from insurance_fund.events.fields import TIME_MS_MAX
from insurance_fund.projections.fund_queries import (
    RESOLUTIONS,
    SHARES_MAX,
    query_fund_ledgers,
    query_funds,
    query_history,
    query_instruments,
)
from insurance_fund.projections.http.cursors import CURSOR, read_cursor, write_cursor
from insurance_fund.projections.http.parameters import choice, identifier, integer, time_ms
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import (
    ASK_AGAIN,
    JSON,
    Call,
    Route,
    etag_of,
    not_modified,
)
from insurance_fund.projections.http.schemas import CURSOR as NEXT
from insurance_fund.projections.http.schemas import TEXT, fields, listed, ref
from insurance_fund.projections.queries import Reading, Values

POINTS_MAX: Final = 5_000
POINTS: Final = 1_000
LEDGER: Final = identifier("ledger", "The ledger; needed where several have it.")
_CURRENCY: Final = identifier("margin_currency", "The margin currency of the fund.").at("path")
_INSTRUMENT: Final = identifier("instrument_id", "The instrument.").at("path")
POSITIONS: Final = listed(ref("Position"))


async def answer_tagged(call: Call, query: Callable[[Reading], Any]) -> Response:
    """Answer with what a query finds, or that the client has it already.

    The positions tell, and when the read models were built: rows that were wrong are no more.
    """

    def read(reading: Reading) -> tuple[str, bytes | None]:
        # Of the address as well: what is not there has no tag that somebody could hold.
        address = f"{call.request.url.path}?{call.request.url.query}"
        heads = (at.sha256 for at in reading.positions.values())
        etag = etag_of(address, reading.build, *heads)
        return etag, orjson.dumps(query(reading)) if call.asks_for(etag) else None

    etag, body = await call.services.views.read(read)
    if body is None:
        return not_modified(etag)
    return Response(body, 200, {"etag": etag, "cache-control": ASK_AGAIN}, JSON)


def only(rows: list[Values], what: str, ledger: str | None) -> Values:
    """Return the one row there is; raises ProblemError for none, or several without a ledger."""
    found = [row for row in rows if ledger is None or row["ledger"] == ledger]
    if not found:
        raise ProblemError("not-found", f"there is no {what}")
    if len(found) > 1:
        names = ", ".join(row["ledger"] for row in found)
        raise ProblemError(
            "bad-parameter", f"several ledgers have {what}; name one: ledger is one of {names}"
        )
    return found[0]


async def _funds(call: Call) -> Response:
    return await answer_tagged(
        call, lambda reading: {"positions": reading.told(), "funds": query_funds(reading)}
    )


async def _fund(call: Call) -> Response:
    currency = call.values["margin_currency"]

    def query(reading: Reading) -> Values:
        rows = query_funds(reading, currency)
        fund = only(rows, f"fund of {currency}; /v1/funds lists them", call.values["ledger"])
        return {"positions": reading.told([fund["ledger"]]), "fund": fund}

    return await answer_tagged(call, query)


async def _history(call: Call) -> Response:
    values = call.values
    currency, resolution, limit = values["margin_currency"], values["resolution"], values["limit"]
    times_ms = values["from_ms"], values["to_ms"]
    if times_ms[0] > times_ms[1]:
        raise ProblemError("bad-parameter", "from_ms must not be after to_ms")
    filters = (currency, resolution, *times_ms, values["ledger"])
    key = read_cursor(values["cursor"], "history", filters, (int, int))

    def query(reading: Reading) -> Values:
        what = f"fund of {currency}; /v1/funds lists them"
        fund = only(query_fund_ledgers(reading, currency), what, values["ledger"])
        where = (fund["ledger"], currency)
        points, more = query_history(reading, where, resolution, times_ms, key, limit)
        last = points[-1] if more else None
        return {
            "positions": reading.told([fund["ledger"]]),
            "ledger": fund["ledger"],
            "margin_currency": currency,
            "resolution": resolution,
            "points": points,
            "next": None
            if last is None
            else write_cursor("history", filters, (last["now_ms"], last["sequence"])),
        }

    return await answer_tagged(call, query)


async def _instruments(call: Call) -> Response:
    return await answer_tagged(
        call,
        lambda reading: {"positions": reading.told(), "instruments": query_instruments(reading)},
    )


async def _instrument(call: Call) -> Response:
    name = call.values["instrument_id"]

    def query(reading: Reading) -> Values:
        rows = query_instruments(reading, name)
        what = f"instrument {name}; /v1/instruments lists them"
        instrument = only(rows, what, call.values["ledger"])
        return {"positions": reading.told([instrument["ledger"]]), "instrument": instrument}

    return await answer_tagged(call, query)


ROUTES: Final = (
    Route(
        "/v1/funds",
        "funds",
        "All funds: balances, what liquidations brought and cost, and how far caps are used.",
        _funds,
        fields(positions=POSITIONS, funds=listed(ref("Fund"))),
        tagged=True,
    ),
    Route(
        "/v1/funds/{margin_currency}",
        "fund",
        "The fund of a margin currency.",
        _fund,
        fields(positions=POSITIONS, fund=ref("Fund")),
        (_CURRENCY, LEDGER),
        problems=(404,),
        tagged=True,
    ),
    Route(
        "/v1/funds/{margin_currency}/history",
        "fund_history",
        "A fund over time: after each entry that moved it, or by the minute (`now_ms` is then the "
        "minute's start, all else is as of its end). Times rise.",
        _history,
        fields(
            positions=POSITIONS,
            ledger=TEXT,
            margin_currency=TEXT,
            resolution=TEXT,
            points=listed({"anyOf": [ref("EntryPoint"), ref("MinutePoint")]}),
            next=NEXT,
        ),
        (
            _CURRENCY,
            time_ms("from_ms", "The first time of the range.", 0),
            time_ms("to_ms", "The last time of the range.", TIME_MS_MAX),
            choice("resolution", "How fine.", RESOLUTIONS, "entry"),
            integer(
                "limit",
                "How many points at most; a page of minutes is shorter where its points times the "
                f"fund's instruments would be more than {SHARES_MAX:,}.",
                1,
                POINTS_MAX,
                POINTS,
            ),
            CURSOR,
            LEDGER,
        ),
        problems=(404,),
        tagged=True,
    ),
    Route(
        "/v1/instruments",
        "instruments",
        "All instruments: terms, gains and draws, hit rate of orders, and how far caps are used.",
        _instruments,
        fields(positions=POSITIONS, instruments=listed(ref("Instrument"))),
        tagged=True,
    ),
    Route(
        "/v1/instruments/{instrument_id}",
        "instrument",
        "One instrument.",
        _instrument,
        fields(positions=POSITIONS, instrument=ref("Instrument")),
        (_INSTRUMENT, LEDGER),
        problems=(404,),
        tagged=True,
    ),
)
