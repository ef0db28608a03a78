"""Runs one broker for trying things out, until Ctrl-C; its data go when it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Final

from tests.kafka.cluster import Cluster, NodeDiedError
from tests.kafka.found import REMEDY, node_runtime
from tests.kafka.node import HOST, is_free

FIRST_PORT: Final = 9092


def main() -> int:
    """Starts the broker, says where it is and what to do with it; returns the exit code."""
    here = node_runtime()
    if here.runtime is None:
        print(f"There is nothing to run a broker with: {here.said}.\n{REMEDY}.", file=sys.stderr)
        return 1
    port = next(port for port in count(FIRST_PORT) if is_free(port))
    if port != FIRST_PORT:
        print(f"Port {FIRST_PORT} is taken; {port} is free.")
    print(f"Starting Kafka: {here.said}", flush=True)
    with tempfile.TemporaryDirectory(prefix="insurance-fund-broker-") as folder:
        cluster = Cluster(here.runtime, Path(folder) / "cluster", ports=[port])
        try:
            asyncio.run(_serve(cluster, port))
        except (NodeDiedError, TimeoutError) as why:
            print(f"The broker failed: {why}", file=sys.stderr)
            return 1
        finally:
            cluster.stop()
    print("The broker and its data are gone.")
    return 0


async def _serve(cluster: Cluster, port: int) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    starting = asyncio.create_task(cluster.start())
    asked = asyncio.create_task(ended.wait())
    await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return
    starting.result()
    _greet(f"kafka://{HOST}:{port}", cluster.folder)
    while not asked.done():
        cluster.check_alive()
        await asyncio.wait([asked], timeout=0.5)


def _greet(url: str, folder: Path) -> None:
    print(
        f"\nA broker is at {url} until Ctrl-C; its data in {folder} go with it."
        "\nIn another terminal:\n"
        f"\n  .venv/bin/insurance-fund topics apply --replication 1 --log {url}    make the topics"
        f"\n  .venv/bin/insurance-fund run --log {url}                             run the fund\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
