"""What `run` does on Kafka: a supervisor, and the way it and its children speak.

A child writes lines of JSON to its standard output, `{"ready": true}` once it may commit and its
ending at last. Its standard input is held open by the supervisor: when it closes, the supervisor is
gone, and the child ends too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from insurance_fund.cli import screen
from insurance_fund.cli.watch import metrics_socket, supervisor_watched
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.settings import Settings
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.membership import GROUP, Membership
from insurance_fund.streams.supervisor import Child, ChildFailedError, Supervisor
from insurance_fund.streams.topic_admin import dangers
from insurance_fund.streams.topic_plan import Layout

# An ending tells every open order.
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


async def refuse_dangers(access: KafkaAccess, settings: Settings, *, warn: bool = True) -> None:
    """Raise SettingsError for topics with which a guarantee would not hold."""
    layout = Layout(access.url, settings.shards, renamed=settings.bus_topics)
    found = await dangers(access, layout, warn=warn)
    if found:
        missing = [one.where for one in found if one.value == "missing"]
        told = [one.told for one in found if len(missing) == 1 or one.value != "missing"]
        if len(missing) > 1:
            told.append(
                f"{len(missing)} topics are missing, or hidden from this user (ACL Describe): "
                f"{', '.join(missing)}: `insurance-fund topics apply` makes them"
            )
        raise SettingsError(
            "this cluster endangers what the fund promises; `insurance-fund topics check` shows "
            f"more: {'; '.join(told)}"
        )


async def supervise(
    access: KafkaAccess, settings: Settings, arguments: Sequence[str]
) -> list[dict[str, Any]]:
    """Run what the group assigns to this host until SIGTERM or SIGINT; return how children ended.

    `arguments` are given to every child. Raises as `Supervisor.run` does; exits with a child's code
    where that cannot be started.
    """
    shards, session_ms = settings.shards, settings.number("kafka_session_ms")
    listening = metrics_socket(settings)
    endings: dict[str, dict[str, Any]] = {}

    async def spawn(shard: str) -> Child:
        command = ("-m", "insurance_fund", "run", "--supervised", "--shard", shard, *arguments)
        return await start_child(command, endings)

    group = Membership(access, session_ms)

    async def check() -> None:
        try:
            await refuse_dangers(access, settings, warn=False)
        except LogUnavailableError as error:
            # Whether the brokers are there is seen by those who need them.
            screen.complain(f": the topics could not be looked at: {error}", head="warning")

    supervisor = Supervisor(group, shards, spawn, session_ms / 1000, check=check)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, supervisor.stop)
    failed: ChildFailedError | None = None
    try:
        async with supervisor_watched(listening, supervisor):
            await supervisor.join()
            screen.complain(f"in group {access.url.name(GROUP)}, waiting for shards")
            await supervisor.run()
    except ChildFailedError as error:
        failed = error
    finally:
        await group.leave()
    if failed is not None:
        screen.complain(f": {failed}", head="error")
        sys.exit(failed.code if failed.code > 0 else 1)
    return [endings[shard] for shard in shards if shard in endings]


async def start_child(arguments: Sequence[str], endings: dict[str, dict[str, Any]]) -> Child:
    """Start a child, Python with these arguments, and listen to it; how it ends is added."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES_MAX
    )
    child = Child(process)
    child.following = asyncio.create_task(_follow(child, endings))
    return child


async def _follow(child: Child, endings: dict[str, dict[str, Any]]) -> None:
    """Take in what a child says until it ends."""
    assert child.process.stdout is not None
    try:
        while line := await child.process.stdout.readline():
            told = orjson.loads(line)
            if isinstance(told, dict):
                child.ready_at_s = time.monotonic()
            else:
                endings.update({row["ledger"]: row for row in told})
    except (ValueError, TypeError, LookupError) as error:
        screen.complain(f": what a child wrote is not understood: {error}", head="warning")
    # Also of one that is not understood: nobody else sees to its end.
    await child.process.communicate()
    child.ended.set()


def tell_supervisor(told: Any) -> None:
    """Write a line of JSON to the supervisor, if it is still there."""
    try:
        sys.stdout.write(orjson.dumps(told).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What stays in the buffer is written once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_with_supervisor(stop: Callable[[], None]) -> None:
    """Call `stop` once the supervisor is gone."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def heard() -> None:
        if not os.read(stdin, 1024):
            loop.remove_reader(stdin)
            stop()

    loop.add_reader(stdin, heard)
