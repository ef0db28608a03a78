"""A small fund on a cluster, worked on by commands, and what must be true of it in the end."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from insurance_fund.events import topics
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import NewRecord, Record, TopicPartition
from insurance_fund.streams.urls import KafkaUrl
from tests.embedded.service import (
    COMMAND,
    POLICY,
    Where,
    assert_covered_once,
    assert_sent_is_listed,
    assert_sequence_has_no_gap,
    fold,
    makes_entry,
    record,
)
from tests.unit.life import BTCUSDT

HANG_S: Final = 60
POLL_S: Final = 0.05
POISON: Final = b'{"liquidation_id": "broken'
RECORDS_A_READ: Final = 1_000


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The line that says why it ended so."""
        lines = [line for line in self.err.splitlines() if line.split(":")[0] in _HEADS]
        assert len(lines) == 1, f"one line should say why: {self.err}"
        return lines[0]


_HEADS: Final = ("error", "halted", "fenced")


class Fund:
    """A fund under a prefix: inputs come by the machinery's own way in, commands by `settings`."""

    def __init__(self, folder: Path, url: KafkaUrl, settings: Mapping[str, str]) -> None:
        """`settings` are given to every command, by name; `url` is open to everybody."""
        self.folder = folder
        self.url = url
        self.settings = {
            "LOG": f"kafka://{','.join(url.brokers)}/{url.prefix}",
            "POLICY": "policy.json",
            "SNAPSHOT_ENTRIES": "1",
            **settings,
        }
        self.log = KafkaLog(KafkaAccess(url))
        self.running: list[Process] = []
        self.printed: list[str] = []
        self._said: dict[Process, str] = {}
        self.liquidations = 0
        folder.mkdir(exist_ok=True)
        (folder / "policy.json").write_text(json.dumps(POLICY), encoding="utf-8")

    async def open(self) -> None:
        """Define an instrument and fill the fund."""
        await self.publish(topics.INSTRUMENTS, record("instrument_defined", "USDT", **BTCUSDT))
        deposit = {"transfer_id": "d", "amount": "1000000", "memo": "m"}
        await self.publish(topics.FUND_TRANSFERS, record("fund_deposit", "USDT", **deposit))

    async def publish(self, topic: str, *values: bytes, partition: int = 0) -> None:
        """Append inputs."""
        await self.log.publish(topic, [NewRecord(partition, b"key", value) for value in values])

    async def take_over(self, count: int = 1) -> None:
        """Append liquidations, each of which sends an order and a trigger, and one bad record."""
        takeovers, closes, fills = [], [], []
        for _ in range(count):
            about = {"liquidation_id": f"liq-{self.liquidations}"}
            order = {**about, "order_id": f"liq-{self.liquidations}:1"}
            self.liquidations += 1
            takeovers.append(record("position_taken_over", "USDT", **about, **_POSITION))
            closes.append(
                record(
                    "liquidation_order_closed",
                    "USDT",
                    **order,
                    reason="expired",
                    filled_quantity="4",
                )
            )
            fills.append(record("fill", "USDT", **order, **_FILL))
        await self.publish(topics.LIQUIDATIONS, *takeovers, *closes, POISON)
        await self.publish(topics.FILLS, *fills)

    async def start(self, *arguments: str, **settings: str) -> Process:
        """Start a command."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
        given = {f"INSURANCE_FUND_{k}": v for k, v in {**self.settings, **settings}.items()}
        process = await asyncio.create_subprocess_exec(
            *(str(COMMAND), *arguments),
            cwd=self.folder,
            env={**inherited, **given},
            stdout=PIPE,
            stderr=PIPE,
        )
        self.running.append(process)
        return process

    async def ended(self, process: Process, hang_s: float = HANG_S) -> Ended:
        """Wait for the end of a command."""
        async with asyncio.timeout(hang_s):
            out, err = await process.communicate()
        assert process.returncode is not None
        said = self._said.pop(process, "")
        ended = Ended(process.returncode, out.decode(), said + err.decode())
        assert "Traceback" not in ended.err, ended.err
        assert "Unclosed" not in ended.err, ended.err
        assert "never retrieved" not in ended.err, ended.err
        self.printed += [ended.out, ended.err]
        return ended

    async def call(self, *arguments: str, code: int = 0, **settings: str) -> Ended:
        """Run a command to its end; its exit code must be `code`."""
        ended = await self.ended(await self.start(*arguments, **settings))
        assert ended.code == code, f"{arguments} ended with {ended.code}:\n{ended.out}{ended.err}"
        return ended

    async def serve(self, *arguments: str, **settings: str) -> Process:
        """Start `run`, and come back once it has recovered."""
        process = await self.start("run", *arguments, **settings)
        await self.said(process, "clock, running")
        return process

    async def said(self, process: Process, text: str) -> None:
        """Wait until a running command has said something."""
        assert process.stderr is not None
        async with asyncio.timeout(HANG_S):
            while text not in self._said.setdefault(process, ""):
                line = await process.stderr.readline()
                assert line, f"it ended: {self._said[process]}"
                self._said[process] += line.decode()

    async def entries(self) -> list[bytes]:
        """Return the ledger as it stands."""
        return await self.values(topics.FUND_LEDGER)

    async def until_entries(self, process: Process, count: int) -> None:
        """Wait until the ledger has so many entries; the service must live."""
        async with asyncio.timeout(HANG_S):
            while len(await self.entries()) < count:
                assert process.returncode is None, await self.ended(process)
                await asyncio.sleep(POLL_S)

    async def values(self, topic: str) -> list[bytes]:
        """Return the values of all partitions of a topic."""
        partitions = await self.log.partitions(topic)
        return [
            one.value or b""
            for partition in partitions
            for one in await self.records(TopicPartition(topic, partition))
        ]

    async def records(self, where: TopicPartition) -> list[Record]:
        """Return the records of a partition."""
        first = await self.log.first_offset(where)
        return [one async for one in partition_records(self.log, where, first, RECORDS_A_READ)]

    async def inputs(self) -> dict[Where, bytes]:
        """Return what stands in the inputs and must make entries."""
        found: dict[Where, bytes] = {}
        for topic in topics.INPUT_TOPICS:
            for partition in await self.log.partitions(topic):
                where = TopicPartition(topic, partition)
                for one in await self.records(where):
                    if one.value is not None and makes_entry(topic, one.value):
                        found[*where, one.offset] = one.value
        return found

    async def assert_whole(self) -> None:
        """Hold the fund to one entry for each input, and every message sent once."""
        ledger = await self.entries()
        assert_sequence_has_no_gap(ledger)
        fold(ledger)
        inputs = await self.inputs()
        assert inputs
        assert_covered_once([ledger], inputs)
        sent = {topic: await self.values(topic) for topic in topics.OUTPUT_TOPICS}
        counts = defaultdict(int, {topic: len(values) for topic, values in sent.items()})
        assert counts[topics.LIQUIDATION_ORDERS] == self.liquidations
        assert counts[topics.ADL_TRIGGERS] >= self.liquidations
        assert_sent_is_listed([ledger], sent)

    async def close(self) -> None:
        """End what was started and let go of the cluster."""
        for process in self.running:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
        await self.log.close()


_POSITION: Final = {
    "account_id": "acc",
    "instrument_id": BTCUSDT["instrument_id"],
    "position_side": "long",
    "quantity": "10",
    "entry_price": "50000",
    "margin": "500",
}
_FILL: Final = {
    "fill_id": "f1",
    "instrument_id": BTCUSDT["instrument_id"],
    "side": "sell",
    "quantity": "4",
    "price": "49100",
    "fee": "0",
}


@asynccontextmanager
async def open_fund(
    folder: Path, url: KafkaUrl, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Fund]:
    """Open a fund whose topics are there; whatever runs at the end is killed."""
    fund = Fund(folder, url, settings or {})
    try:
        async with asyncio.timeout(HANG_S):
            await fund.open()
        yield fund
    finally:
        await fund.close()
