"""What `run` serves to those who watch it: which port, and what is told there.

The server is loaded where there is a port: a shard that is started again does not wait for it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from insurance_fund.events.errors import SettingsError
from insurance_fund.host_collector import HostCollector
from insurance_fund.input_lag import InputLag
from insurance_fund.logs import open_reader
from insurance_fund.metrics import new_registry
from insurance_fund.settings import Settings
from insurance_fund.shard_collector import ShardsCollector
from insurance_fund.shard_metrics import ShardMetrics
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.supervisor import Supervisor

PORT_MAX = 65_535


def metrics_socket(settings: Settings, child: int | None = None) -> socket.socket | None:
    """Return where metrics are served, None where the settings ask for none.

    The child of a supervisor that runs shard number `child` has the port `metrics_port` + 1 +
    `child`. Raises SettingsError for a port that cannot be had.
    """
    port = settings.number("metrics_port")
    if not port:
        return None
    if port + len(settings.shards) > PORT_MAX:
        raise SettingsError(
            f"metrics_port = {port} leaves no ports for the {len(settings.shards)} shards behind it"
        )
    from insurance_fund.serving import listen

    return listen(str(settings.text("http_host")), port if child is None else port + 1 + child)


@asynccontextmanager
async def shards_watched(
    settings: Settings,
    listening: socket.socket | None,
    metrics: Sequence[ShardMetrics],
) -> AsyncIterator[None]:
    """Serve what the shards of this process tell, from before they are started on.

    Without a socket nothing is served, and nothing counted.
    """
    if listening is None:
        yield
        return
    from insurance_fund.serving import Watched, served

    for one in metrics:
        one.observe()
    processors = [one.processor for one in metrics]
    lag = InputLag(
        partial(open_reader, settings), processors, settings.bus_topics, SystemClock().wall_ms
    )
    registry = new_registry(ShardsCollector(metrics, lag))

    def missing() -> list[str]:
        return [told for one in metrics if (told := one.missing()) is not None]

    try:
        async with served(listening, Watched(registry, missing, lag.refresh)):
            yield
    finally:
        await lag.close()


@asynccontextmanager
async def supervisor_watched(
    listening: socket.socket | None, supervisor: Supervisor
) -> AsyncIterator[None]:
    """Serve what a supervisor tells, if anything is to be served."""
    if listening is None:
        yield
        return
    from insurance_fund.serving import Watched, served

    registry = new_registry(HostCollector(supervisor.standings))
    async with served(listening, Watched(registry, supervisor.missing)):
        yield
