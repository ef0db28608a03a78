"""Problems: errors as RFC 9457 documents that say what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:insurance-fund:problem:"
# What a client waits before it asks again where nothing better is known.
RETRY_S: Final = 2

# Kinds of problems and their status: the last part of `type`, stable for programs.
KINDS: Final[dict[str, HTTPStatus]] = {
    "bad-request": HTTPStatus.BAD_REQUEST,
    "bad-parameter": HTTPStatus.BAD_REQUEST,
    "token-needed": HTTPStatus.UNAUTHORIZED,
    "not-found": HTTPStatus.NOT_FOUND,
    "method-not-allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "not-acceptable": HTTPStatus.NOT_ACCEPTABLE,
    "uri-too-long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "body-not-allowed": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "headers-too-large": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "wrong-host": HTTPStatus.MISDIRECTED_REQUEST,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
}


class ProblemError(Exception):
    """A request cannot be answered; `detail` says to a person what is allowed instead."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """Return the status of the answer."""
        return int(KINDS[self.kind])

    def body(self, instance: str) -> bytes:
        """Return the problem document; `instance` is the path of the request."""
        return orjson.dumps(
            {
                "type": TYPE_PREFIX + self.kind,
                "title": KINDS[self.kind].phrase,
                "status": self.status,
                "detail": self.detail,
                "instance": instance,
            }
        )

    def response(self, instance: str) -> Response:
        """Return the answer."""
        headers = {"cache-control": "no-store", **self.headers}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("retry-after", str(RETRY_S))
        return Response(self.body(instance), self.status, headers, MEDIA_TYPE)


def bad_parameter(name: str, expected: str, got: str) -> ProblemError:
    """Return the problem of a parameter that is not what it must be."""
    shown = got if len(got) <= 80 else f"{got[:80]}…"  # noqa: PLR2004
    return ProblemError("bad-parameter", f"{name} must be {expected}; got {shown!a}")


def unavailable(detail: str) -> ProblemError:
    """Return the problem of something that cannot be answered now, and may be later."""
    return ProblemError("unavailable", detail)
