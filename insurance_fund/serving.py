"""The small HTTP server of a process: `/livez`, `/readyz`, `/metrics`, for those who watch it.

It runs in the process's own event loop, so that an answer says that this loop turns, and has no
part in what the process is for: what goes wrong here is logged and goes no further. All it does is
bounded: how many connections there are, how long each may last, and how often metrics are made.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import orjson
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from insurance_fund.events.errors import SettingsError
from insurance_fund.metrics import OPENMETRICS, exposition

CONNECTIONS_MAX: Final = 16
REQUEST_BYTES_MAX: Final = 8 * 1024
# A connection that is seen twice so far apart is stalled: each is for one answer.
STALLED_S: Final = 10.0
# Scrapers that come more often get what the one before got.
FRESH_S: Final = 1.0
END_S: Final = 2.0
_LOCAL: Final = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?")
_HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """What is told: metrics, and what is still missing before this process is ready.

    `refresh` is awaited before metrics are made; it must come back in a few seconds by itself.
    """

    registry: CollectorRegistry
    missing: Callable[[], Sequence[str]]
    refresh: Callable[[], Awaitable[None]] | None = None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises SettingsError for an address that cannot be had.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        why = error.strerror or error
        raise SettingsError(
            f"metrics cannot be served at {host}:{port}: {why}; see the settings http_host and "
            "metrics_port, and what else listens there"
        ) from error


@asynccontextmanager
async def served(
    listening: socket.socket, watched: Watched, stalled_s: float = STALLED_S
) -> AsyncIterator[None]:
    """Serve on a listening socket, beside what is done inside."""
    local = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
    server = _Server(
        uvicorn.Config(
            _Guarded(_app(watched), local=local),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            # It warns of each request that is none: whoever sends them would fill our log.
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=REQUEST_BYTES_MAX,
        )
    )
    tasks = [
        asyncio.create_task(_alone(server.serve([listening]))),
        asyncio.create_task(_alone(_let_stalled_go(server, stalled_s))),
    ]
    try:
        yield
    finally:
        server.should_exit = True
        tasks[1].cancel()
        _, late = await asyncio.wait(tasks, timeout=END_S)
        for task in late:
            task.cancel()
        listening.close()


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take no more connections than can be open: the process needs its files for itself."""
        super().connection_made(transport)
        if len(self.connections) > 2 * CONNECTIONS_MAX:
            transport.abort()


class _Server(uvicorn.Server):
    """One that leaves the process's signals to the process."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Take no signal."""
        return nullcontext()


async def _alone(work: Awaitable[None]) -> None:
    """Do something whose failure is nobody else's."""
    try:
        await work
    except Exception:  # noqa: BLE001 - that is the point
        _log.exception("metrics are no longer served; the service itself goes on")


async def _let_stalled_go(server: uvicorn.Server, stalled_s: float) -> None:
    """End connections that have not come to an answer in time, for ever."""
    seen: set[Any] = set()
    while True:
        await asyncio.sleep(stalled_s)
        here = set(server.server_state.connections)
        for connection in seen & here:
            connection.transport.abort()
        seen = here


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _app(watched: Watched) -> Starlette:
    made_s = float("-inf")
    # By what scrapers want: there are two formats.
    made: dict[bool, tuple[bytes, str]] = {}

    async def livez(_request: Request) -> Response:
        return _json({"live": True})

    async def readyz(_request: Request) -> Response:
        missing = list(watched.missing())
        return _json({"ready": not missing, "missing": missing}, 503 if missing else 200)

    async def metrics(request: Request) -> Response:
        nonlocal made_s
        if time.monotonic() - made_s > FRESH_S:
            made.clear()
            if watched.refresh is not None:
                await watched.refresh()
            made_s = time.monotonic()
        accept = request.headers.get("accept", "")
        wanted = OPENMETRICS in accept
        if wanted not in made:
            made[wanted] = exposition(watched.registry, accept)
        body, content_type = made[wanted]
        return Response(body, headers={"content-type": content_type})

    app = Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    )
    app.router.redirect_slashes = False
    return app


class _Guarded:
    """Sets the headers of every answer; a local server answers to local names alone.

    Else a page that a browser here has open could read it, by a name of its own that it lets point
    to this machine.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        app = self._app
        if self._local and not _is_local(scope):
            app = Response("this server answers to localhost and 127.0.0.1 alone\n", 421)
        await app(scope, receive, send_guarded)


def _is_local(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return all(_LOCAL.fullmatch(host) for host in hosts)
