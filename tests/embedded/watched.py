"""What a process tells those who watch it, read as a monitoring system reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

ANSWER_S: Final = 20.0
# Below what systems give to connections that go out, so that none of these is in the way.
PORTS: Final = (20_000, 30_000)
# What a supervisor tells beside what every process tells.
HOST_METRICS: Final = {
    "insurance_fund_shard_assigned",
    "insurance_fund_child_up",
    "insurance_fund_child_restarts_total",
}


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nobody listens at."""
    while True:
        first = random.randrange(*PORTS)  # noqa: S311 - no secret
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


class Scrape:
    """The samples of one scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    @property
    def names(self) -> set[str]:
        """Return the names of all samples that are there."""
        return set(self._samples)

    def get(self, name: str, **labels: object) -> float | None:
        """Return the one sample of `insurance_fund_<name>` with these labels, None without."""
        wanted = {key: str(value) for key, value in labels.items()}
        found = [
            value
            for has, value in self._samples.get(f"insurance_fund_{name}", ())
            if wanted.items() <= has.items()
        ]
        assert len(found) <= 1, (name, labels, found)
        return found[0] if found else None

    def value(self, name: str, **labels: object) -> float:
        """Return the one sample of `insurance_fund_<name>` with these labels, which is there."""
        found = self.get(name, **labels)
        assert found is not None, f"{name} {labels} is not in:\n{self.text}"
        return found

    @property
    def types(self) -> dict[str, str]:
        """Return the types of the families of ours, by name."""
        lines = (line.split() for line in self.text.splitlines() if line.startswith("# TYPE "))
        return {line[2]: line[3] for line in lines if line[2].startswith("insurance_fund_")}

    def series(self) -> dict[str, float]:
        """Return all samples of ours, by how a query would name them."""
        return {
            f"{name}{{{', '.join(f'{key}={json.dumps(x)}' for key, x in labels.items())}}}": value
            for name, samples in self._samples.items()
            if name.startswith("insurance_fund_")
            for labels, value in samples
        }

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of each sample of `insurance_fund_<name>`."""
        return [labels for labels, _ in self._samples.get(f"insurance_fund_{name}", ())]


async def ask(port: int, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask a process at a port of this machine."""
    async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}", headers=headers)


async def scrape(port: int) -> Scrape:
    """Return the metrics of a process."""
    answer = await ask(port, "/metrics")
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)


async def ready(port: int) -> tuple[bool, Any]:
    """Return whether a process says that it is ready, and what is missing."""
    answer = await ask(port, "/readyz")
    told = answer.json()
    assert answer.status_code == (200 if told["ready"] else 503)
    assert told["ready"] == (not told["missing"])
    return told["ready"], told["missing"]


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as something is so."""
    async with asyncio.timeout(ANSWER_S):
        while not await reached():  # noqa: ASYNC110 - what another process does is asked for
            await asyncio.sleep(0.02)


async def until_listening(port: int) -> None:
    """Return as soon as somebody listens at a port."""

    async def listens() -> bool:
        try:
            return (await ask(port, "/livez")).status_code == 200
        except httpx.ConnectError:
            return False

    await until(listens)


async def until_ready(port: int) -> None:
    """Return as soon as a process says that it is ready."""

    async def is_ready() -> bool:
        return (await ask(port, "/readyz")).status_code == 200

    await until_listening(port)
    await until(is_ready)
