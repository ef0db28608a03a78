"""The application: all routes, behind the guard."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Place
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from insurance_fund.projections.http import exchanges, funds, health, ledgers, liquidations
from insurance_fund.projections.http.guard import LOOPBACK_NAMES, METHODS, Access, Guard
from insurance_fund.projections.http.openapi import describe
from insurance_fund.projections.http.page import load_page
from insurance_fund.projections.http.parameters import read_parameters
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import Call, Route, check_accept
from insurance_fund.projections.http.services import Services
from insurance_fund.version import VERSION

ROUTES: Final = (
    *funds.ROUTES,
    *liquidations.ROUTES,
    *ledgers.ROUTES,
    *exchanges.ROUTES,
    *health.ROUTES,
)
PAGE: Final = "/"
STATIC: Final = "/static/"


def build_app(
    services: Services,
    token: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
    metrics: health.Metrics | None = None,
) -> ASGIApp:
    """Return the application over some services.

    Without a token everybody may read; `hosts` are the names it may be called by, None for any.
    `metrics` returns what a scraper gets, and its content type, for what it accepts.
    """
    routes = all_routes(metrics)
    page = load_page()
    places = [
        *(Place(route.path, _endpoint(route, services), methods=list(METHODS)) for route in routes),
        Place(PAGE, page.serve, methods=list(METHODS)),
        Place(f"{STATIC}{{name:path}}", page.serve, methods=list(METHODS)),
    ]
    free = {PAGE, STATIC, *(route.path for route in routes if route.free)}
    access = Access(None if token is None else token.encode(), hosts, free)
    router = Router(places, redirect_slashes=False, default=_not_found)
    return Guard(router, access, services.streams)


def all_routes(metrics: health.Metrics | None = None) -> tuple[Route, ...]:
    """Return every route of the interface, the description of all of them included."""
    routes = (*ROUTES, health.metrics_route(metrics))
    document = describe((*routes, health.openapi_route({})), VERSION)
    return (*routes, health.openapi_route(document))


def _endpoint(
    route: Route, services: Services
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
        check_accept(request, route.media_type)
        values = read_parameters(request, route.parameters)
        return await route.handler(Call(request, services, values))

    return endpoint


async def _not_found(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ProblemError("not-found", "nothing is here; /openapi.json describes what there is")
