"""A webhook's target over real HTTP, which notes what it is sent and answers as it is told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

OK: Final = 200
# Instead of a status: the connection goes without an answer.
DROPPED: Final = 0


@dataclass(slots=True)
class Request:
    """A request; `taken_s` is when a 2xx had been written for it, None without one."""

    path: str
    headers: dict[str, str]
    body: bytes
    came_s: float
    taken_s: float | None = None

    @property
    def key(self) -> str:
        """What the sender calls the message."""
        return self.headers["idempotency-key"]

    @property
    def message(self) -> dict[str, Any]:
        """The message."""
        found: dict[str, Any] = json.loads(self.body)
        return found


Answer = tuple[int, float]


class Desk:
    """Takes requests; `answers` says for each the status, and after how many seconds it comes."""

    def __init__(self, answers: Callable[[Request], Answer] = lambda request: (OK, 0)) -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self.statuses: Counter[int] = Counter()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/adl"

    @property
    def taken(self) -> list[Request]:
        """Requests for which a 2xx was written, in their order."""
        return [one for one in self.requests if one.taken_s is not None]

    def keys(self) -> list[str]:
        """Return what was taken, in order."""
        return [one.key for one in self.taken]

    async def open(self) -> None:
        """Listen, always at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        request = Request(first.split()[1], headers, body, time.monotonic())
        self.requests.append(request)
        status, after_s = self.answers(request)
        self.statuses[status] += 1
        if after_s:
            # Who asked may go meanwhile; then nothing of the answer counts.
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), after_s)
                return
        if status == DROPPED:
            return
        location = b"location: /elsewhere\r\n" if 300 <= status < 400 else b""
        writer.write(
            b"HTTP/1.1 %d X\r\n%scontent-length: 2\r\nconnection: close\r\n\r\nok"
            % (status, location)
        )
        await writer.drain()
        if 200 <= status < 300:
            request.taken_s = time.monotonic()


@asynccontextmanager
async def open_desk(
    answers: Callable[[Request], Answer] = lambda request: (OK, 0),
) -> AsyncIterator[Desk]:
    """Open a target."""
    desk = Desk(answers)
    await desk.open()
    try:
        yield desk
    finally:
        await desk.close()
