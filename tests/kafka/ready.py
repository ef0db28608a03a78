"""Waiting until a cluster is really usable; that a port answers says little."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from tests.kafka.node import HOST


@contextlib.asynccontextmanager
async def admin_of(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Opens an admin client without credentials."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def until(condition: Callable[[], Awaitable[bool]], pause_s: float = 0.02) -> None:
    """Asks again and again until the answer is yes; the caller sets a limit of time."""
    while True:
        if await condition():
            return
        await asyncio.sleep(pause_s)


async def wait_listening(ports: list[int], check: Callable[[], None]) -> None:
    """Waits until all ports of loopback take connections; check may raise to end the wait."""

    async def listens(port: int) -> bool:
        check()
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    for port in ports:
        await until(partial(listens, port))


async def wait_usable(bootstrap: str, brokers: int, check: Callable[[], None]) -> None:
    """Waits until all brokers are there, every partition is whole and a transaction can begin.

    Waits for ever unless check raises or the caller sets a limit.
    """

    async def usable() -> bool:
        check()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with admin_of(bootstrap) as admin:
                if await _is_whole(admin, brokers):
                    # The first one ever makes the topic of transactions.
                    await _try_transactional_id(bootstrap)
                    return await _is_whole(admin, brokers)
        return False

    await until(usable, 0.05)


async def _is_whole(admin: AIOKafkaAdminClient, brokers: int) -> bool:
    cluster = await admin.describe_cluster()
    if len(cluster["brokers"]) < brokers:
        return False
    tried = await admin.create_topics([NewTopic("ready", 1, brokers)], validate_only=True)
    if any(answer[1] != 0 for answer in tried.topic_errors):
        return False
    return all(
        partition["leader"] >= 0 and set(partition["isr"]) == set(partition["replicas"])
        for topics in await _views(admin)
        for topic in topics
        for partition in topic["partitions"]
    )


async def is_known(admin: AIOKafkaAdminClient, topic: str, partitions: int) -> bool:
    """Returns whether every node of the cluster knows a leader of all partitions of the topic."""
    return all(
        sum(found["leader"] >= 0 for found in of_node["partitions"]) == partitions
        for (of_node,) in await _views(admin, [topic])
    )


async def _views(
    admin: AIOKafkaAdminClient, topics: list[str] | None = None
) -> list[list[dict[str, Any]]]:
    """Asks each node about topics, all if none are named: one hears of a change after another."""
    nodes = [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]
    answers = [await admin._send_request_to_node(node, MetadataRequest(topics)) for node in nodes]
    return [answer.to_object()["topics"] for answer in answers]


async def _try_transactional_id(bootstrap: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="ready")
    try:
        await asyncio.wait_for(producer.start(), timeout=20)
    finally:
        await asyncio.wait_for(producer.stop(), timeout=5)
