"""The server: uvicorn within limits, in a loop that may have other tasks, ended from outside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.http.guard import HEADER_BYTES_MAX, SECURITY_HEADERS
from insurance_fund.projections.http.problems import MEDIA_TYPE, ProblemError
from insurance_fund.projections.http.stream import STALLED_S_MAX

# A request's line and headers that are not whole yet, and how long a client may take for them.
HEAD_BYTES_MAX: Final = HEADER_BYTES_MAX
HEAD_S_MAX: Final = 10.0
# What the kernel holds for a client that takes nothing; without it, several MiB.
SEND_BUFFER_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = 15
# Behind the limits of our own, which answer with a problem document.
CONNECTIONS_MAX: Final = 2_000
BACKLOG: Final = 512
GRACE_S: Final = 5
_NOT_HTTP: Final = (
    f"this is no HTTP/1.1 request, or its line and headers are longer than {HEAD_BYTES_MAX} bytes"
)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 for clients that may stall: neither their requests nor their answers wait long."""

    _asking: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._forget("_asking")
        self._forget("_stalled")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, of a request that must be whole in time."""
        if self._asking is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        asked = self.cycle
        super().data_received(data)
        if self.cycle is not asked:
            self._forget("_asking")

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not take what was sent to it."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken most of it."""
        self._forget("_stalled")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request with a problem document."""
        body = ProblemError("bad-request", _NOT_HTTP).body("")
        head = [
            "HTTP/1.1 400 Bad Request",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
            "cache-control: no-store",
            *(f"{name}: {value}" for name, value in SECURITY_HEADERS.items()),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()

    def _await_request(self) -> None:
        self._asking = self.loop.call_later(HEAD_S_MAX, self.transport.abort)

    def _forget(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


class _Server(uvicorn.Server):
    """Signals are for whoever started the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a host and port; port 0 takes any that is free.

    Raises SettingsError where that cannot be.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"http_host {host!r} is no host of this machine: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections have it from the socket that they come by.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port {port} of {host} cannot be had ({error.strerror}): another process may have "
            "it; give another with --port, or 0 for any that is free"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL at which a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, let_go: Callable[[], Any]
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve in this loop until the end of the block; `let_go` ends the answers that go on.

    The task that is handed out ends only if serving fails.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield task
    finally:
        let_go()
        server.should_exit = True
        await task
