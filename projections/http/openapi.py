"""OpenAPI: the description of all routes, made of what the routes themselves are."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from insurance_fund.projections.http.problems import MEDIA_TYPE
from insurance_fund.projections.http.routes import Route
from insurance_fund.projections.http.schemas import COMPONENTS, ref

# Problems that any route may answer; 404 is the route's own.
COMMON: Final = (400, 401, 405, 406, 414, 415, 421, 431, 500, 503)
_ABOUT: Final = (
    "Read-only. Amounts are exact decimal strings, times milliseconds since 1970 UTC. Answers out "
    "of the read models say by `positions` how fresh they are. Errors are RFC 9457 problem "
    "documents whose `detail` says what is allowed."
)


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Insurance fund",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {route.path: {"get": _operation(route)} for route in routes},
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # With a token or, where the server has none, without.
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    content = {route.media_type: {"schema": route.schema}}
    responses: dict[str, Any] = {
        "200": {"description": route.summary, "content": content, "headers": _headers(route)}
    }
    if route.tagged:
        responses["304"] = {"description": "The client has it already (If-None-Match)."}
    for status in sorted({*COMMON, *route.problems}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
        }
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [parameter.document for parameter in route.parameters],
        "responses": responses,
    }
    if route.free:
        operation["security"] = []
    return operation


def _headers(route: Route) -> dict[str, Any]:
    if not route.tagged:
        return {}
    return {"ETag": {"required": True, "schema": {"type": "string"}}}
