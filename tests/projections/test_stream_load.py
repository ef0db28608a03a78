"""Many clients of the event stream, and clients that stall: memory stays flat, others go on."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import httpx

from insurance_fund.projections.http.stream import STALLED_S_MAX
from tests.projections.api_site import HANG_S, Growing, Server, listening, served, take

CONNECTS: Final = 5_000
AT_ONCE: Final = 200
# Before the figures are taken: what a process allocates once.
WARM_UP: Final = 1_000
# What a process may hold more after thousands of clients; one lost object of 4 KiB each is 16 MiB.
GROWTH_BYTES_MAX: Final = 6 * 1024 * 1024
# Of 200 clients at once; given back or used again afterwards.
AT_ONCE_BYTES_MAX: Final = 24 * 1024 * 1024
LIVE_S_MAX: Final = 5.0
# What a process may open at first; a crowd is twice as many.
FILES: Final = 300
RESET: Final = struct.pack("ii", 1, 0)


@asynccontextmanager
async def connected(server: Server, query: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """Connect to the event stream and read up to the first block; half of the ends are resets."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        writer.write(f"GET /v1/stream{query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await reader.readuntil(b"\n\n")
        yield reader
    finally:
        if id(writer) & 0x40:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()


async def connect_often(server: Server, times: int) -> None:
    """Connect and go again, 50 at a time; every second one takes the stream up from the start."""

    async def once(number: int) -> None:
        async with connected(server, "?last_event_id=0" if number % 2 else ""):
            pass

    for start in range(0, times, 50):
        await asyncio.gather(*(once(number) for number in range(start, start + 50)))


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """Return what the server tells of itself."""
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


async def until_no_client(server: Server) -> None:
    """Wait until the server has noticed that all clients are gone."""
    async with httpx.AsyncClient(base_url=server.url) as client, asyncio.timeout(HANG_S):
        while await metric(client, "insurance_fund_stream_clients"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_thousands_of_clients_leave_memory_flat(tmp_path: Path, growing: Growing) -> None:
    with served(tmp_path) as server:
        await connect_often(server, WARM_UP)
        await growing.grow(50)
        await until_no_client(server)
        before = server.resident_bytes()
        await connect_often(server, CONNECTS)
        await until_no_client(server)
        after = server.resident_bytes()
        assert after - before < GROWTH_BYTES_MAX, f"{before:,} -> {after:,}"
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(connected(server)) for _ in range(AT_ONCE)]
            last = growing.written + 50 - 1
            await growing.grow(50)
            async with asyncio.timeout(HANG_S):
                await asyncio.gather(
                    *(reader.readuntil(b"\nid: %d\n" % last) for reader in readers)
                )
            together = server.resident_bytes()
        await until_no_client(server)
        assert together - after < AT_ONCE_BYTES_MAX, f"{after:,} -> {together:,}"
        again = server.resident_bytes()
        assert again - after < AT_ONCE_BYTES_MAX, f"{after:,} -> {again:,}"
        print(
            f"resident MiB: {before >> 20} before, {after >> 20} after {CONNECTS:,} connects, "
            f"{together >> 20} with {AT_ONCE} clients, {again >> 20} in the end"
        )


async def test_stalled_client_is_let_go_and_slows_nobody(tmp_path: Path, growing: Growing) -> None:
    with served(tmp_path) as server, closing(socket.socket()) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stalled.connect(server.address)
        stalled.sendall(b"GET /v1/stream?last_event_id=0 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        loop, slowest_s = asyncio.get_running_loop(), 0.0
        async with (
            listening(server.url) as events,
            httpx.AsyncClient(base_url=server.url) as client,
        ):
            while growing.written < len(growing.lines):
                before, begun_s = growing.written, loop.time()
                await growing.grow(100)
                found = await take(events, growing.written - before)
                slowest_s = max(slowest_s, loop.time() - begun_s)
                assert [one.id for one in found] == list(range(before, growing.written))
            assert await metric(client, "insurance_fund_stream_clients") == 2
            async with asyncio.timeout(STALLED_S_MAX + HANG_S):
                while not await metric(client, "insurance_fund_stream_let_go_total"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert await metric(client, "insurance_fund_stream_clients") == 1
        assert slowest_s < LIVE_S_MAX
        stalled.settimeout(HANG_S)
        received = 0
        try:
            while chunk := stalled.recv(65_536):
                received += len(chunk)
        except ConnectionResetError:
            pass
        assert received < sum(map(len, growing.lines)) / 2


async def test_client_that_never_asks_is_let_go(server_of_game: Server) -> None:
    async def begin(begun: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*server_of_game.address)
        try:
            writer.write(begun)
            async with asyncio.timeout(HANG_S):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    whole = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answers = await asyncio.gather(*map(begin, (b"", whole[:-5], whole + b"GET", whole)))
    assert [b"200 OK" in answer for answer in answers] == [False, False, True, True]


def sockets(server: Server) -> int:
    """Return how many sockets a server has open."""
    found = 0
    for file in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(file.readlink()).startswith("socket:")
    return found


async def read_slowly(server: Server, target: str, size: int, rest_s: float) -> int:
    """Ask for an answer, take `size` bytes of it at a time, and return how many came."""
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(server.address)
        client.setblocking(False)
        loop, received = asyncio.get_running_loop(), 0
        head = f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        await loop.sock_sendall(client, head.encode())
        with suppress(ConnectionResetError):
            while chunk := await loop.sock_recv(client, size):
                received += len(chunk)
                await asyncio.sleep(rest_s * len(chunk) / size)
        return received


async def test_slow_client_gets_all_and_one_that_stalls_is_let_go_with_the_least_left(
    server_of_game: Server,
) -> None:
    async with httpx.AsyncClient(base_url=server_of_game.url) as client:
        sizes = {
            limit: len((await client.get(f"/v1/ledgers/main/entries?limit={limit}")).content)
            for limit in (1_000, *range(60, 200, 20))
        }
    before = sockets(server_of_game)
    with ExitStack() as stack:
        for limit in list(sizes)[1:]:
            stalled = stack.enter_context(closing(socket.socket()))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stalled.connect(server_of_game.address)
            target = f"/v1/ledgers/main/entries?limit={limit}"
            stalled.sendall(f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        target, slowness_s = "/v1/ledgers/main/entries?limit=1000", 1.5 * STALLED_S_MAX
        rest_s = slowness_s * 16_384 / sizes[1_000]
        async with asyncio.timeout(HANG_S):
            assert await read_slowly(server_of_game, target, 16_384, rest_s) > sizes[1_000]
            while sockets(server_of_game) > before:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_crowd_that_talks_nonsense_fills_neither_the_files_nor_the_log(
    tmp_path: Path, growing: Growing
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with AsyncExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
        try:
            server = stack.enter_context(served(tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(2 * FILES):
            reader, writer = await asyncio.open_connection(*server.address)
            stack.callback(writer.close)
            if number % 10 == 0:
                writer.write(b"HELLO\r\n\r\n")
                assert b" 400 Bad Request" in await reader.readline()
        async with httpx.AsyncClient(base_url=server.url, timeout=HANG_S) as client:
            assert (await client.get("/livez")).status_code == 200
    assert not (tmp_path / "serve.err").read_bytes()
