"""The server: uvicorn within limits, in a loop that may have other tasks, ended from outside."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.http.guard import HEADER_BYTES_MAX, SECURITY_HEADERS
from insurance_fund.projections.http.problems import KINDS, ProblemError
from insurance_fund.projections.http.stream import STALLED_S_MAX

# A request's line and headers that are not whole yet, and how long a client may take for them.
HEAD_BYTES_MAX: Final = HEADER_BYTES_MAX
HEAD_S_MAX: Final = 10.0
# What the kernel holds for a client that takes nothing; without it, several MiB.
SEND_BUFFER_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = 15
# More than the limits of requests and streams, which answer first, leave in use.
CONNECTIONS_MAX: Final = 2_000
# So many are accepted at a time.
BACKLOG: Final = 512
# What a process opens beside connections: databases, logs, connections to brokers.
FILES_MAX: Final = 256
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
        # What the kernel does not take at once is watched, however little it is.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > connections_max():
            self._refuse(ProblemError("busy", "more connections are open than this server takes"))
            return
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
        self._await_client()

    def resume_writing(self) -> None:
        """Go on: the client has taken it."""
        self._forget("_stalled")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request with a problem document."""
        self._refuse(ProblemError("bad-request", _NOT_HTTP))

    def _refuse(self, problem: ProblemError) -> None:
        """Answer before there is a request, and close."""
        response = problem.response("")
        response.headers.update({"connection": "close", **SECURITY_HEADERS})
        head = b"HTTP/1.1 %d %b" % (problem.status, KINDS[problem.kind].phrase.encode())
        lines = [head, *(b"%b: %b" % header for header in response.raw_headers), b"", b""]
        self.transport.write(b"\r\n".join(lines) + bytes(response.body))
        self.transport.close()

    def _await_client(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(STALLED_S_MAX, self._look_at_client, left)

    def _look_at_client(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._await_client()  # slow, but alive
        else:
            self.transport.abort()

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


@cache
def connections_max() -> int:
    """Return how many connections there is room for; raise this process's limit of files for them.

    Where files run out, asyncio tells of it thousands of times a second.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + BACKLOG + FILES_MAX
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft) - BACKLOG - FILES_MAX)


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
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(
                f"http_host {host!r} is no host of this machine: {error}"
            ) from error
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
    connections_max()
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            # It warns of each request that is none: whoever sends them would fill our log.
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
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
