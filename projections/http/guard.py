"""The guard in front of all routes: headers, hosts, methods, sizes, the token, and errors.

Pure ASGI: what an answer streams goes through untouched.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insurance_fund.events.errors import InsuranceFundError
from insurance_fund.projections.http.problems import ProblemError, unavailable
from insurance_fund.projections.http.stream import Streams

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
METHODS: Final = ("GET", "HEAD")
# Paths and queries of ours are far shorter, and so are headers.
TARGET_BYTES_MAX: Final = 4 * 1024
HEADER_BYTES_MAX: Final = 16 * 1024
INSTANCE_MAX: Final = 200
# Requests in hand, event streams beside them: more would only wait for one another.
REQUESTS_MAX: Final = 128
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_RAW_HEADERS: Final = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Who gets in: the token, and the names that a request may call this server by.

    `hosts` is None where any name will do; `free` are the paths (those that end with a slash: all
    below them) that need no token.
    """

    token: bytes | None = None
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    free: Collection[str] = ()


class Guard:
    """Refuses what no route should see; gives every answer its headers, and every error a form."""

    def __init__(self, app: ASGIApp, access: Access, streams: Streams) -> None:
        self._app = app
        self._access = access
        self._streams = streams
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        self._in_hand += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_safely)
        except (Exception, asyncio.CancelledError) as error:
            if started:
                raise
            where = path_of(scope)
            await _problem_of(error, where).response(where)(scope, receive, send_safely)
        finally:
            self._in_hand -= 1

    def _check(self, scope: Scope) -> None:
        """Raise ProblemError for a request that is not for us."""
        headers = Headers(scope=scope)
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_BYTES_MAX:
            raise ProblemError(
                "uri-too-long", f"path and query have at most {TARGET_BYTES_MAX} bytes together"
            )
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES_MAX:
            raise ProblemError(
                "headers-too-large", f"headers have at most {HEADER_BYTES_MAX} bytes together"
            )
        hosts = self._access.hosts
        if hosts is not None and _name_of(headers.get("host", "")) not in hosts:
            raise ProblemError(
                "wrong-host",
                f"this server is called {', '.join(sorted(hosts))}; the setting http_hosts adds "
                "further names",
            )
        if scope["method"] not in METHODS:
            allowed = ", ".join(METHODS)
            raise ProblemError(
                "method-not-allowed", f"everything here is only read: {allowed}", {"allow": allowed}
            )
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise ProblemError(
                "body-not-allowed",
                "a request has no body here; leave it out",
                {"connection": "close"},
            )
        if self._in_hand - self._streams.open > REQUESTS_MAX:
            raise ProblemError("busy", "more requests are in hand than this server takes at once")
        self._check_token(scope["path"], headers)

    def _check_token(self, path: str, headers: Headers) -> None:
        token = self._access.token
        if token is None or any(
            path.startswith(free) if free.endswith("/") and free != "/" else path == free
            for free in self._access.free
        ):
            return
        given = headers.getlist("authorization")
        scheme, _, found = (given[0] if len(given) == 1 else "").partition(" ")
        fits = hmac.compare_digest(found.strip().encode("latin-1"), token)
        if scheme.lower() != "bearer" or not fits:
            raise ProblemError(
                "token-needed",
                "send the header `Authorization: Bearer TOKEN` with the token of this server",
                {"www-authenticate": 'Bearer realm="insurance-fund"'},
            )


def _problem_of(error: BaseException, where: str) -> ProblemError:
    """Return what is told of an error, and log what is not the client's."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, asyncio.CancelledError):
        # The server ends, and has waited for the answer long enough.
        return unavailable("the server is shutting down")
    if isinstance(error, InsuranceFundError):
        _log.warning("answering %s: %s", where, error)
        return unavailable(str(error))
    _log.error("answering %s", where, exc_info=error)
    return ProblemError("internal", "this is a fault of the server; its log says more")


def path_of(scope: Scope) -> str:
    """Return the path of a request as it came, the beginning of one that is very long."""
    return bytes(scope["raw_path"])[:INSTANCE_MAX].decode("latin-1")


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port and the brackets of an address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
