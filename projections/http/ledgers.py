"""Routes about ledgers: their heads, their entries byte for byte, and the event stream."""

from __future__ import annotations

from typing import Any, Final, get_args

from starlette.responses import Response

from insurance_fund.events.effects import AnyEffect
from insurance_fund.events.fields import COUNT_MAX
from insurance_fund.events.ledger import Head
from insurance_fund.projections.http.funds import LEDGER
from insurance_fund.projections.http.parameters import Parameter, choices, identifier, integer
from insurance_fund.projections.http.problems import ProblemError, unavailable
from insurance_fund.projections.http.routes import (
    ASK_AGAIN,
    EVENT_STREAM,
    JSON,
    NDJSON,
    Call,
    Route,
    etag_of,
    json_response,
    not_modified,
)
from insurance_fund.projections.http.schemas import TEXT, fields, listed, ref
from insurance_fund.projections.http.services import Book
from insurance_fund.projections.http.stream import AHEAD_MAX, EventStream
from insurance_fund.projections.queries import query_ledgers

ENTRIES: Final = 100
ENTRIES_MAX: Final = 1_000
# An answer ends behind the entry that passes this.
BYTES_MAX: Final = 4 * 1024 * 1024
EFFECT_TYPES: Final = tuple(
    sorted(str(effect.__struct_config__.tag) for effect in get_args(AnyEffect))
)
_LEDGER: Final = identifier("ledger", "The ledger.").at("path")
_LAST_ID: Final = integer(
    "last_event_id", "The last entry that the client has; the header Last-Event-ID goes first."
)


async def _ledgers(call: Call) -> Response:
    read = await call.services.views.read(query_ledgers)
    known = {row["ledger"]: row for row in read}
    return json_response(
        {"ledgers": [_told(name, known.get(name), b) for name, b in call.services.books.items()]}
    )


def _told(ledger: str, row: dict[str, Any] | None, book: Book) -> dict[str, Any]:
    head = book.feed.head if book.feed.trouble is None else None
    names = ("sequence", "now_ms", "sha256", "clock", "rules", "software", "parked")
    known = dict.fromkeys(names) if row is None else {name: row[name] for name in names}
    lag = None
    if head is not None:
        lag = max(0, head.sequence - (-1 if row is None else row["sequence"]))
    return {
        "ledger": ledger,
        **known,
        "counters": {} if row is None else row["counters"],
        "head_sequence": None if head is None else head.sequence,
        "lag_entries": lag,
        "trouble": book.feed.trouble,
    }


def _head_of(book: Book) -> Head:
    if book.feed.trouble is not None:
        raise unavailable(f"ledger {book.feed.ledger} cannot be read: {book.feed.trouble}")
    if book.feed.head is None:
        raise ProblemError("not-found", f"ledger {book.feed.ledger} has no entry yet")
    return book.feed.head


async def _head(call: Call) -> Response:
    head = _head_of(call.services.book(call.values["ledger"]))
    etag = etag_of(head.ledger, head.sha256)
    if not call.asks_for(etag):
        return not_modified(etag)
    body = {"ledger": head.ledger, "sequence": head.sequence, "sha256": head.sha256}
    return json_response(body, etag)


async def _entries(call: Call) -> Response:
    first, last = call.values["from"], call.values["to"]
    if first > last:
        raise ProblemError("bad-parameter", "from must not be after to")
    book = call.services.book(call.values["ledger"])
    end = _head_of(book).sequence
    last = min(last, end)
    wanted = min(last - first + 1, call.values["limit"])
    if wanted < 1:
        raise ProblemError("not-found", f"the ledger ends with entry {end}")
    lines = bytearray()
    sequence = first
    while sequence < first + wanted and len(lines) < BYTES_MAX:
        for entry in await book.entries.run(sequence, first + wanted - sequence):
            lines += entry.line + b"\n"
            sequence += 1
            if len(lines) >= BYTES_MAX:
                break
    headers = {"cache-control": "no-store"}
    if sequence <= last:
        ledger, limit = call.values["ledger"], call.values["limit"]
        to = f"&to={call.values['to']}" if call.values["to"] != COUNT_MAX else ""
        target = f"/v1/ledgers/{ledger}/entries?from={sequence}{to}&limit={limit}"
        headers["link"] = f'<{target}>; rel="next"'
    return Response(bytes(lines), 200, headers, NDJSON)


async def _entry(call: Call) -> Response:
    sequence = call.values["sequence"]
    book = call.services.book(call.values["ledger"])
    end = _head_of(book).sequence
    if sequence > end:
        raise ProblemError("not-found", f"the ledger ends with entry {end}")
    (entry,) = await book.entries.run(sequence, 1)
    etag = f'"{entry.event.head}"'
    if not call.asks_for(etag):
        return not_modified(etag, ASK_AGAIN)
    return Response(entry.line, 200, {"etag": etag, "cache-control": ASK_AGAIN}, JSON)


async def _stream(call: Call) -> Response:
    book = call.services.book(call.values["ledger"])
    if book.feed.over:
        raise unavailable(
            f"ledger {book.feed.ledger} cannot be followed: {book.feed.trouble or 'shutting down'}"
        )
    told = call.values["Last-Event-ID"]
    told = call.values["last_event_id"] if told is None else told
    sequence = book.feed.next_sequence if told is None else told + 1
    if sequence > book.feed.next_sequence + AHEAD_MAX:
        raise ProblemError(
            "bad-parameter",
            f"Last-Event-ID must be of an entry of this ledger, which ends with "
            f"{book.feed.next_sequence - 1}",
        )
    return EventStream(
        book.feed, book.entries, call.services.streams, sequence, call.values["type"]
    )


_TYPES: Final[Parameter] = choices(
    "type", "Only effects of these types, and only entries that have any of them.", EFFECT_TYPES
)

ROUTES: Final = (
    Route(
        "/v1/ledgers",
        "ledgers",
        "All ledgers: how far the read models and the log are, settings, and what was counted.",
        _ledgers,
        fields(ledgers=listed(ref("Ledger"))),
    ),
    Route(
        "/v1/ledgers/{ledger}/head",
        "ledger_head",
        "The last entry of a ledger and its hash, for witnesses outside.",
        _head,
        ref("Head"),
        (_LEDGER,),
        problems=(404,),
        tagged=True,
    ),
    Route(
        "/v1/ledgers/{ledger}/entries",
        "ledger_entries",
        "Entries byte for byte, one a line: the SHA-256 of a line is the `previous` of the next. "
        f"An answer ends behind {BYTES_MAX} bytes; the header Link has the next page.",
        _entries,
        TEXT,
        (
            _LEDGER,
            integer("from", "The first entry.", default=0),
            integer("to", "The last entry.", default=COUNT_MAX),
            integer("limit", "How many entries at most.", 1, ENTRIES_MAX, ENTRIES),
        ),
        media_type=NDJSON,
        problems=(404,),
    ),
    Route(
        "/v1/ledgers/{ledger}/entries/{sequence}",
        "ledger_entry",
        "One entry byte for byte; the ETag is its SHA-256. It never changes.",
        _entry,
        ref("Entry"),
        (_LEDGER, integer("sequence", "The entry.").at("path")),
        problems=(404,),
        tagged=True,
    ),
    Route(
        "/v1/stream",
        "stream",
        "Live events, one an entry: `id` is its sequence, `data` has ledger, sequence, now_ms, "
        "sha256 and effects. Without an id it starts at the end of the ledger.",
        _stream,
        TEXT,
        (
            LEDGER,
            _TYPES,
            _LAST_ID,
            _LAST_ID.at("header", "Last-Event-ID"),
        ),
        media_type=EVENT_STREAM,
        problems=(404,),
    ),
)
