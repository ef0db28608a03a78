"""examples/risk_service.py: killed again and again, it knows and has printed all that was told."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from insurance_fund.events import topics
from insurance_fund.streams.log import Outbound
from tests.kafka.cluster import Cluster
from tests.kafka.downstream import LEDGER, PARTITIONS, Downstream, Step, recorded_steps

SERVICE: Final = Path(__file__).parents[2] / "examples" / "risk_service.py"
WAIT_S: Final = 60
POLL_S: Final = 0.02
ENTRIES_A_TRANSACTION: Final = 4
# After so many lines out of each part of the ledger the service is killed.
KILLED_AFTER: Final = (1, 2, 4, 8)
# What of an aborted transaction would show, were it seen.
NEVER: Final = "987654321"


class Service:
    """The service as a process, started anew with the same memory."""

    def __init__(self, downstream: Downstream, file: Path) -> None:
        self.arguments = (
            *(SERVICE, downstream.cluster.bootstrap),
            *("--prefix", downstream.prefix, "--state", file),
        )
        self.file = file
        self.printed: list[str] = []

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Process]:
        """Start it, and kill it in the end; what it printed before is kept."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-u", *self.arguments, stdout=PIPE, stderr=PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            rest, errors = await process.communicate()
            self._keep_lines(rest)
            sys.stderr.write(errors.decode())

    async def lines(self, process: Process, count: int) -> None:
        """Wait for lines that it prints."""
        assert process.stdout is not None
        for _ in range(count):
            async with asyncio.timeout(WAIT_S):
                line = await process.stdout.readline()
            assert line, "it ended"
            self._keep_lines(line)

    def _keep_lines(self, text: bytes) -> None:
        # A kill can cut the last line short.
        whole = text[: text.rfind(b"\n") + 1]
        self.printed += whole.decode().splitlines()

    def memory(self) -> Any:
        """Return what it has kept."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    async def until(self, process: Process, memory: dict[str, Any]) -> None:
        """Wait until it has kept this, whatever else."""
        async with asyncio.timeout(WAIT_S):
            while not memory.items() <= self.memory().items():
                assert process.returncode is None, "it ended"
                await asyncio.sleep(POLL_S)


def folded(steps: Sequence[Step]) -> tuple[dict[str, Any], set[str]]:
    """Return what is to be known of a ledger in the end, and every line about it."""
    balances: dict[str, Decimal] = {}
    revisions: dict[str, int] = {}
    lines = set()
    for step in steps:
        entry = json.loads(step.entry)
        for account, amount in entry["postings"].items():
            if account.split(":")[0] == "fund":
                balances[account] = balances.get(account, Decimal(0)) + Decimal(amount)
                lines.add(f"{LEDGER} {entry['sequence']}: {account} {balances[account]:f}")
        for message in (json.loads(one.record.value or b"") for one in step.triggers):
            name, revision = message["trigger_id"], message["revision"]
            revisions[name] = max(revision, revisions.get(name, 0))
            what = f"{message['order_side']} {message['quantity']} {message['instrument_id']}"
            lines.add(f"{message['type']} {name} revision {revision}: {what} at {message['price']}")
    told = {account: f"{amount:f}" for account, amount in balances.items()}
    return {"entries": {LEDGER: len(steps)}, "balances": told, "revisions": revisions}, lines


def unlike(step: Step) -> Step:
    """Return what an aborted transaction has in a step's place: other money, a higher revision."""
    entry = json.loads(step.entry)
    entry["postings"] = {"fund:USDT:available": NEVER, "treasury:USDT": f"-{NEVER}"}
    triggers = []
    for topic, record in step.triggers:
        message = {**json.loads(record.value or b""), "quantity": NEVER, "revision": int(NEVER)}
        triggers.append(Outbound(topic, record._replace(value=json.dumps(message).encode())))
    return Step(json.dumps(entry).encode(), triggers)


async def test_killed_service_knows_and_has_printed_all_that_was_committed_and_nothing_else(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    downstream, steps = Downstream(broker, prefix), recorded_steps()
    known, lines = folded(steps)
    assert len(known["revisions"]) > 3
    assert {account.split(":")[1] for account in known["balances"]} == {"USDT", "XBT"}
    await downstream.create()
    service = Service(downstream, tmp_path / "memory.json")
    size = -(-len(steps) // (len(KILLED_AFTER) + 1))
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    async with downstream.producer() as producer:

        async def write(part: Sequence[Step]) -> None:
            for start in range(0, len(part), ENTRIES_A_TRANSACTION):
                some = part[start : start + ENTRIES_A_TRANSACTION]
                await downstream.write(producer, [unlike(step) for step in some], abort=True)
                await downstream.write(producer, some)

        for part, count in zip(parts, (*KILLED_AFTER, 0), strict=True):
            async with asyncio.TaskGroup() as group:
                group.create_task(write(part))
                async with service.run() as process:
                    await service.lines(process, count)
        await downstream.write(producer, [unlike(steps[-1])], abort=True)
    async with service.run() as process:
        await service.until(process, known)
    assert {**service.memory(), "positions": None} == {**known, "positions": None}
    assert set(service.printed) == lines


async def test_kept_memory_is_read_on_from_where_it_ends(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    downstream, steps = Downstream(broker, prefix), recorded_steps()
    await downstream.create()
    service = Service(downstream, tmp_path / "memory.json")
    half = len(steps) // 2
    for some, all_so_far in ((steps[:half], steps[:half]), (steps[half:], steps)):
        async with downstream.producer() as producer:
            await downstream.write(producer, some)
        service.printed.clear()
        async with service.run() as process:
            await service.until(process, folded(all_so_far)[0])
    assert set(service.printed) == folded(steps)[1] - folded(steps[:half])[1]


async def test_what_is_known_is_passed_over_where_all_is_read_again(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    downstream, steps = Downstream(broker, prefix), recorded_steps()
    known, _ = folded(steps)
    await downstream.create()
    service = Service(downstream, tmp_path / "memory.json")
    async with downstream.producer() as producer:
        await downstream.write(producer, steps)
    async with service.run() as process:
        await service.until(process, known)
        positions = service.memory()["positions"]
        assert len(positions) == sum(PARTITIONS.values())
        assert positions[f"{prefix}.{topics.FUND_LEDGER}:0"] == len(steps)
    # As when a topic gets another partition.
    service.file.write_text(json.dumps({**service.memory(), "positions": {}}))
    service.printed.clear()
    async with service.run() as process:
        await service.until(process, {"positions": positions})
    assert service.memory() == {**known, "positions": positions}
    assert service.printed == []


async def test_service_that_misses_an_entry_ends_and_says_which(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    downstream = Downstream(broker, prefix)
    await downstream.create()
    async with downstream.producer() as producer:
        await downstream.write(producer, recorded_steps()[1:])
    async with Service(downstream, tmp_path / "memory.json").run() as process:
        async with asyncio.timeout(WAIT_S):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert "entry 1 came where 0 was due" in errors.decode()


async def test_service_under_a_wrong_prefix_says_what_is_not_there(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    async with Service(Downstream(broker, prefix), tmp_path / "memory.json").run() as process:
        async with asyncio.timeout(WAIT_S):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"has no {prefix}.{topics.ADL_TRIGGERS}" in errors.decode()
