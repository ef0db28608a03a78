"""A cluster that somebody else runs: tests write to it and leave its nodes alone."""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

import pytest

from tests.kafka.cluster import Cluster
from tests.kafka.ready import admin_of


class ForeignCluster(Cluster):
    """Takes the place of one node; a test that would kill or pause it is skipped there."""

    def __init__(self, bootstrap: str) -> None:
        self.nodes = []
        self._bootstrap = bootstrap
        self.replication = 1
        self.min_isr = 1

    def bootstrap_for(self, listener: str) -> str:
        """Returns the addresses; there is but one listener."""
        return self._bootstrap

    def bootstrap_of(self, node: int) -> str:
        """Returns the addresses, whichever node is meant."""
        return self._bootstrap

    async def start(self) -> None:
        """Looks how many brokers there are."""
        async with admin_of(self._bootstrap) as admin:
            brokers = len((await admin.describe_cluster())["brokers"])
        self.replication = min(3, brokers)
        self.min_isr = min(2, self.replication)

    async def wait_ready(self, timeout_s: float = 60) -> None:
        """Waits until an admin client is answered."""
        async with asyncio.timeout(timeout_s):
            await self.start()

    def _living(self) -> str:
        return self._bootstrap

    def _node(self, number: int) -> NoReturn:
        # The summary shows this place for all of them, so the reason names the test.
        test = os.environ.get("PYTEST_CURRENT_TEST", "this").partition(" ")[0]
        pytest.skip(f"{test} would stop a node of a cluster that somebody else runs")
