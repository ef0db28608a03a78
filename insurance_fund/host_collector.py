"""The collector of a supervisor: how the shards stand on this host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from insurance_fund.metrics import counter, gauge
from insurance_fund.streams.supervisor import Standing


class HostCollector(Collector):
    """What a supervisor tells; `standings` is asked at each scrape."""

    def __init__(self, standings: Callable[[], Sequence[Standing]]) -> None:
        self._standings = standings

    def collect(self) -> Iterator[Metric]:
        """Return all families, with each shard of the settings."""
        standings, labels = self._standings(), ("ledger",)
        yield gauge(
            "insurance_fund_shard_assigned",
            "Whether the group has given the shard to this host.",
            labels,
            [((one.shard,), one.assigned) for one in standings],
        )
        yield gauge(
            "insurance_fund_child_up",
            "Whether this host runs a process for the shard that has recovered and may commit.",
            labels,
            [((one.shard,), one.ready) for one in standings],
        )
        yield counter(
            "insurance_fund_child_restarts_total",
            "Processes started in place of one that ended without being asked to.",
            labels,
            [((one.shard,), one.restarts) for one in standings],
        )
