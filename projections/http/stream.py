"""The event stream: one event an entry, as server-sent events; it can be taken up anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from insurance_fund.projections.http.entries import Entries
from insurance_fund.projections.http.feed import Feed
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.ring import Event, Types
from insurance_fund.projections.http.routes import EVENT_STREAM

HEARTBEAT_S: Final = 15.0
# What a client waits before it comes back.
RETRY_MS: Final = 1_000
STREAMS_MAX: Final = 256
# Handed over at a time: what the transport holds for a client is at most this and its own limit.
CHUNK_BYTES: Final = 64 * 1024
EVENTS_AT_A_TIME: Final = 200
# A client that takes nothing of what was sent to it for so long is let go: far above any pause of
# one that is alive, and its buffers are held no longer.
STALLED_S_MAX: Final = 10.0
# By how much a client may be ahead: another server may have told it more than this one has read.
AHEAD_MAX: Final = 10_000


class Streams:
    """Counts the streams: those that are open, and those ever let go because they stalled."""

    def __init__(self, streams_max: int = STREAMS_MAX, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.streams_max = streams_max
        self.heartbeat_s = heartbeat_s
        self.open = 0
        self.let_go = 0

    def enter(self) -> None:
        """Count one more; raises ProblemError where there are too many."""
        if self.open >= self.streams_max:
            raise ProblemError(
                "busy",
                f"{self.streams_max} event streams are open, and that is the limit; come back "
                "later, or read the ledger's entries page by page",
                {"retry-after": "5"},
            )
        self.open += 1

    def leave(self) -> None:
        """Count one less."""
        self.open -= 1


class EventStream(Response):
    """The answer that goes on: events from a sequence on, of some types or all."""

    media_type = EVENT_STREAM

    def __init__(
        self,
        feed: Feed,
        entries: Entries,
        streams: Streams,
        sequence: int,
        types: Types | None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._entries = entries
        self._streams = streams
        self._next = sequence
        self._types = types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes, or has to come back later.

        Raises ProblemError where too many streams are open.
        """
        self._streams.enter()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            gone = asyncio.create_task(_until_gone(receive))
            told = asyncio.create_task(self._tell(send, gone))
            try:
                await asyncio.wait((gone, told), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                told.cancel()
                await asyncio.wait((gone, told))
            if not told.cancelled():
                told.result()
        finally:
            self._streams.leave()

    async def _tell(self, send: Send, gone: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()

        async def say(body: bytes, *, more: bool = True) -> None:
            begun_s = loop.time()
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            finally:
                # It waited for the client until the connection was given up.
                stalled = gone.done() and loop.time() - begun_s >= STALLED_S_MAX
                self._streams.let_go += stalled

        feed = self._feed
        await say(b"retry: %d\n%b" % (RETRY_MS, self._place()))
        while not feed.over:
            try:
                events = await self._events()
            except ProblemError:
                break
            if not events:
                before = self._next
                await feed.beyond(before, self._streams.heartbeat_s)
                if feed.next_sequence <= before and not feed.over:
                    await say(b": heartbeat\n" + self._place())
                continue
            chunk = bytearray()
            for event in events:
                chunk += event.frame(self._types)
                self._next = event.sequence + 1
                if len(chunk) >= CHUNK_BYTES:
                    await say(bytes(chunk))
                    chunk.clear()
            if chunk:
                await say(bytes(chunk))
            # Handing over does not wait as long as the client keeps up.
            await asyncio.sleep(0)
        await say(b"", more=False)

    async def _events(self) -> Sequence[Event]:
        feed, sequence = self._feed, self._next
        if sequence >= feed.next_sequence:
            return ()
        first = feed.ring.first
        if first is not None and sequence >= first:
            return feed.ring.since(sequence, EVENTS_AT_A_TIME)
        return [one.event for one in await self._entries.run(sequence, EVENTS_AT_A_TIME)]

    def _place(self) -> bytes:
        """Return what tells a client where it is, also where no event is for it."""
        return b"id: %d\n\n" % (self._next - 1) if self._next else b"\n"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
