"""Routes about the service itself: whether it lives, whether it is ready, and what it describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from starlette.responses import Response

from insurance_fund.projections.http.problems import ProblemError, unavailable
from insurance_fund.projections.http.routes import ASK_AGAIN, JSON, Call, Route, json_response
from insurance_fund.projections.http.schemas import TEXT, fields

# What a scraper accepts -> all metrics, and their content type.
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
_STATUS: Final = fields(status=TEXT)


async def _livez(_call: Call) -> Response:
    return json_response({"status": "alive"})


async def _readyz(call: Call) -> Response:
    troubles = [
        f"ledger {name}: {book.feed.trouble}"
        for name, book in call.services.books.items()
        if book.feed.trouble is not None
    ]
    try:
        read = await call.services.views.read(lambda reading: set(reading.positions))
    except ProblemError as problem:
        troubles.append(problem.detail)
    else:
        troubles += [
            f"ledger {name}: its read models have no entry yet"
            for name, book in call.services.books.items()
            if name not in read and book.feed.next_sequence
        ]
    if troubles:
        raise unavailable("; ".join(troubles))
    return json_response({"status": "ready"})


def metrics_route(metrics: Metrics | None) -> Route:
    """Return the route of the metrics; None where the process has none."""

    async def _metrics(call: Call) -> Response:
        if metrics is None:
            raise unavailable("this process has no metrics")
        body, content_type = await metrics(call.request.headers.get("accept", ""))
        return Response(body, 200, {"content-type": content_type, "cache-control": "no-store"})

    return Route(
        "/metrics",
        "metrics",
        "Metrics, as Prometheus reads them.",
        _metrics,
        TEXT,
        media_type="text/plain",
    )


def openapi_route(document: dict[str, Any]) -> Route:
    """Return the route that serves the description of all."""

    body = orjson.dumps(document)

    async def _openapi(_call: Call) -> Response:
        return Response(body, 200, {"cache-control": ASK_AGAIN}, JSON)

    return Route(
        "/openapi.json",
        "openapi",
        "This description.",
        _openapi,
        {"type": "object"},
    )


ROUTES: Final = (
    Route("/livez", "livez", "Whether the process lives.", _livez, _STATUS, free=True),
    Route(
        "/readyz",
        "readyz",
        "Whether it is ready: the log is followed and the read models can be read.",
        _readyz,
        _STATUS,
        free=True,
    ),
)
