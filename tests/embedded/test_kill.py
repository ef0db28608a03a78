"""The service under `kill -9`, a rival and SIGTERM: each input in the ledger exactly once.

A real `run` by the wall clock works on a file while inputs are appended to it, and ends in every
way that a process can end. Afterwards the file must tell one whole story.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from insurance_fund.events import topics
from insurance_fund.events.ledger import InputCause, decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.streams.log import NewRecord, Record, TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from tests.unit.life import BTCUSDT, XBTUSD

COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
FILES: Final = 4 * int(os.environ.get("INSURANCE_FUND_TEST_EXAMPLES", "1"))
KILLS_A_FILE: Final = 5
HANG_S: Final = 60
FENCED: Final = 75
POLL_S: Final = 0.02
# How far the publisher may be ahead of the ledger, so that a killed service leaves a backlog
# that it can still catch up with.
AHEAD_MAX: Final = 400
# Orders end while the test runs, so that deadlines and triggers are among what is killed.
POLICY: Final = {"default": {"attempts": [["0.01", 300]]}, "grace_ms": 50}
POISON: Final = (
    b'{"liquidation_id": "broken',
    b'{"liquidation_id": "\xff"}',
    b'["liquidation_id"]',
    b'{"type": "fill", "liquidation_id": "liq-0", "price": NaN}',
    b'{"type": "fill", "liquidation_id": "a", "liquidation_id": "b"}',
)
Where = tuple[str, int, int]


def record(kind: str, currency: str, **fields: Any) -> bytes:
    message = {
        "type": kind,
        "event_id": "e",
        "event_time_ms": time.time_ns() // 1_000_000,
        "margin_currency": currency,
        **fields,
    }
    return json.dumps(message).encode()


class Load:
    """Makes up liquidations and what an exchange says of them, seeded; sometimes it says nonsense.

    It remembers for each record that must make an entry where it will stand.
    """

    def __init__(self, log: SqliteLog, chance: random.Random, currencies: tuple[str, ...]) -> None:
        self._log = log
        self._chance = chance
        self._currencies = currencies
        self._next_offsets: Counter[str] = Counter()
        self._waiting: list[tuple[str, bytes]] = []
        self.liquidations = 0
        self.published: dict[Where, bytes] = {}

    async def open(self) -> None:
        """Define the instruments and fill the funds."""
        for terms in (BTCUSDT, XBTUSD):
            currency = terms.get("margin_currency", "USDT")
            await self.publish("instruments", record("instrument_defined", currency, **terms))
            fields = {"transfer_id": f"d-{currency}", "amount": "1000000", "memo": "m"}
            await self.publish("fund-transfers", record("fund_deposit", currency, **fields))

    async def publish(self, topic: str, *values: bytes) -> None:
        """Append records in one transaction."""
        await self._log.publish(topic, [NewRecord(0, None, value) for value in values])
        for value in values:
            if topic != topics.FILLS or topics.FILLS_FILTER in value:
                self.published[topic, 0, self._next_offsets[topic]] = value
            self._next_offsets[topic] += 1

    async def go_on(self) -> None:
        """Append a takeover, some of what was still to be said, and perhaps something bad."""
        chance = self._chance
        self._take_over()
        for _ in range(min(4, len(self._waiting))):
            topic, value = self._waiting.pop(chance.randrange(min(6, len(self._waiting))))
            await self.publish(topic, value)
        if chance.random() < 0.2:
            await self.publish(chance.choice(topics.INPUT_TOPICS), chance.choice(POISON))
        if chance.random() < 0.2:
            (topic, *_), value = chance.choice(list(self.published.items()))
            await self.publish(topic, value)
        if chance.random() < 0.3:
            await self.publish(topics.FILLS, b'{"type": "fill", "fill_id": "of-nobody"}', b"{")

    def _take_over(self) -> None:
        chance, name = self._chance, f"liq-{self.liquidations}"
        self.liquidations += 1
        currency = chance.choice(self._currencies)
        terms = XBTUSD if currency == "XBT" else BTCUSDT
        about = {"liquidation_id": name}
        order = {**about, "order_id": f"{name}:1"}
        position = {
            **about,
            "account_id": "acc",
            "instrument_id": terms["instrument_id"],
            "position_side": "long",
            "quantity": "10",
            "entry_price": "50000",
            "margin": "500" if currency == "USDT" else "0.00001",
        }

        def say(kind: str, **fields: Any) -> None:
            topic = topics.FILLS if kind == "fill" else topics.LIQUIDATIONS
            self._waiting.append((topic, record(kind, currency, **fields)))

        def fill(fill_id: str, quantity: int, price: str) -> None:
            say(
                "fill",
                **order,
                fill_id=fill_id,
                instrument_id=terms["instrument_id"],
                side="sell",
                quantity=str(quantity),
                price=price,
                fee="0",
            )

        say("position_taken_over", **position)
        filled = chance.choice((0, 0, 4, 10))
        if filled:
            fill("f1", filled // 2, "49100")
            fill("f2", filled - filled // 2, "49000")
        if chance.random() < 0.6:
            reason = "filled" if filled == 10 else "expired"
            say("liquidation_order_closed", **order, reason=reason, filled_quantity=str(filled))
        if filled < 10 and chance.random() < 0.5:
            say(
                "adl_executed",
                **about,
                execution_id=f"x-{name}",
                trigger_id=f"{name}:adl",
                trigger_revision=1,
                quantity=str(10 - filled),
                price="49000",
            )


class Site:
    """A folder with a log, a service to be started in it, and a view of what is in the file."""

    def __init__(self, folder: Path, log: SqliteLog, load: Load) -> None:
        self.folder = folder
        self.log = log
        self.load = load
        self.running: list[Process] = []

    async def start(self, *arguments: str) -> Process:
        """Start `run`."""
        process = await self._spawn("run", *arguments)
        self.running.append(process)
        return process

    async def _spawn(self, *arguments: str) -> Process:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
        return await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            cwd=self.folder,
            # Snapshots are written often, so that kills hit them and starts begin from them.
            env={
                **inherited,
                "INSURANCE_FUND_POLICY": "policy.json",
                "INSURANCE_FUND_SNAPSHOT_ENTRIES": "40",
            },
            stdout=PIPE,
            stderr=PIPE,
        )

    async def call(self, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        process = await self._spawn(*arguments)
        out, err = await process.communicate()
        assert process.returncode == 0, (arguments, out, err)
        return out.decode()

    async def entries(self) -> int:
        """Return how many entries the ledgers have."""
        ends = [
            await self.log.end_offset(TopicPartition(topics.FUND_LEDGER, partition))
            for partition in await self.log.partitions(topics.FUND_LEDGER)
        ]
        return sum(ends)

    async def work(self, process: Process, entries: int, polls: int | None = None) -> None:
        """Append inputs while the service runs, until it has written this many more entries.

        Given a number of polls, it need not come so far.
        """
        until = await self.entries() + entries
        while await self.entries() < until and polls != 0:
            assert process.returncode is None, await process.communicate()
            if len(self.load.published) - await self.entries() < AHEAD_MAX:
                await self.load.go_on()
            await self.log.wait(POLL_S)
            polls = None if polls is None else polls - 1

    async def end(
        self, process: Process, how: signal.Signals, chance: random.Random
    ) -> tuple[str, str]:
        """Send a signal at any moment of the service's work; return what it has printed."""
        for _ in range(chance.randrange(40)):
            await self.load.go_on()
        # It goes on meanwhile: these reads move the signal to any place of its loop.
        for _ in range(chance.randrange(200)):
            await self.entries()
        process.send_signal(how)
        out, err = await process.communicate()
        return out.decode(), err.decode()

    async def values(self, topic: str, partition: int = 0) -> list[bytes]:
        """Return the values of a partition."""
        where = TopicPartition(topic, partition)
        records: list[Record] = []
        end = await self.log.end_offset(where)
        while (next_offset := records[-1].offset + 1 if records else 0) < end:
            records += (await self.log.read(where, next_offset, 10_000)).records
        return [found.value or b"" for found in records]


@asynccontextmanager
async def open_site(
    folder: Path, seed: int, currencies: tuple[str, ...] = ("USDT",)
) -> AsyncIterator[Site]:
    (folder / "policy.json").write_text(json.dumps(POLICY), encoding="utf-8")
    log = SqliteLog.open(folder / "insurance-fund.db", create=True)
    chance = random.Random(seed)  # noqa: S311 - moments, no secrets
    site = Site(folder, log, Load(log, chance, currencies))
    try:
        async with asyncio.timeout(HANG_S):
            await site.load.open()
            yield site
    finally:
        for process in site.running:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await log.close()


def balances(ledger: list[bytes]) -> dict[str, Decimal]:
    """Sum the postings of a ledger up by account, of the funds alone."""
    sums: dict[str, Decimal] = {}
    for line in ledger:
        for account, amount in json.loads(line)["postings"].items():
            if account.startswith(("fund:", "shortfall:")):
                sums[account] = sums.get(account, Decimal(0)) + Decimal(amount)
    return sums


def fold(ledger: list[bytes]) -> State:
    """Evolve a ledger in this process."""
    state = State()
    for line in ledger:
        apply_entry(state, decode_entry(line), sha256_hex(line))
    return state


def inputs_of(ledger: list[bytes]) -> Iterator[tuple[Where, str]]:
    """Yield where the inputs of a ledger stood, in its order, and their fingerprints."""
    for line in ledger:
        cause = decode_entry(line).cause
        if isinstance(cause, InputCause):
            yield (cause.topic, cause.partition, cause.offset), cause.sha256()


async def assert_one_whole_story(
    site: Site, shards: tuple[str, ...] = ("main",)
) -> list[list[bytes]]:
    """Let the service finish, then hold the whole file to what it must be."""
    await site.call("run", "--until-idle")
    ledgers: list[list[bytes]] = []
    for index, shard in enumerate(shards):
        ledger = await site.values(topics.FUND_LEDGER, index)
        ledgers.append(ledger)
        assert [json.loads(line)["sequence"] for line in ledger] == list(range(len(ledger)))

        await site.call("export", f"{shard}.ndjson", "--shard", shard)
        assert (site.folder / f"{shard}.ndjson").read_bytes().splitlines() == ledger
        for command in ("verify", "replay"):
            report = json.loads(await site.call(command, "--shard", shard, "--format", "json"))
            assert (report["entries"], report["findings"]) == (len(ledger), [])

        state, posted = fold(ledger), balances(ledger)
        status = json.loads(await site.call("status", "--shard", shard, "--format", "json"))
        assert status["head"] == state.head == sha256_hex(ledger[-1])
        assert (len(status["open_liquidations"]), status["parked"]) == (
            len(state.liquidations),
            len(state.parked),
        )
        for fund in status["funds"]:
            currency = fund["margin_currency"]
            known = state.funds[currency]
            for account, shown, folded in (
                (f"fund:{currency}:available", fund["available"], known.available),
                (f"fund:{currency}:reserved", fund["reserved"], known.reserved),
                (f"shortfall:{currency}", fund["shortfall"], known.shortfall),
            ):
                assert Decimal(shown) == folded == posted.get(account, Decimal(0))

    taken = [found for ledger in ledgers for found in inputs_of(ledger)]
    expected = {where: sha256_hex(value) for where, value in site.load.published.items()}
    assert len(taken) == len(expected)
    assert dict(taken) == expected
    for ledger in ledgers:
        for topic in topics.INPUT_TOPICS:
            offsets = [where[2] for where, _ in inputs_of(ledger) if where[0] == topic]
            assert offsets == sorted(offsets)

    for topic in topics.OUTPUT_TOPICS:
        sent = Counter(sha256_hex(value) for value in await site.values(topic))
        listed = Counter(
            emitted.sha256
            for ledger in ledgers
            for line in ledger
            for emitted in decode_entry(line).emitted
            if emitted.topic == topic
        )
        assert sent == listed
        assert sent, f"nothing was sent to {topic}"
        assert set(sent.values()) == {1}
    orders = [json.loads(v)["order_id"] for v in await site.values(topics.LIQUIDATION_ORDERS)]
    assert len(set(orders)) == len(orders)
    letters = [json.loads(value) for value in await site.values(topics.DEAD_LETTERS)]
    for letter in letters:
        where = (letter["topic"], letter["partition"], letter["offset"])
        assert base64.b64decode(letter["value_base64"]) == site.load.published[where]
    poison = [where for where, value in site.load.published.items() if value in POISON]
    assert set(poison) <= {(one["topic"], one["partition"], one["offset"]) for one in letters}
    return ledgers


def complaints(said: str) -> list[str]:
    """Return what a service has said beside that it runs."""
    return [line for line in said.splitlines() if not line.endswith("clock, running")]


@pytest.mark.parametrize("seed", range(FILES))
async def test_service_that_is_killed_at_any_moment_takes_each_input_exactly_once(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(f"moments {seed}")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, seed) as site:
        for kill in range(KILLS_A_FILE):
            process = await site.start()
            if kill == seed % KILLS_A_FILE:
                process = await assert_rival_fences(site, process)
            # A quarter of them while it starts, recovers, or takes its first records.
            polls = chance.randrange(40) if chance.random() < 0.25 else None
            await site.work(process, chance.randrange(1, 250), polls)
            _, said = await site.end(process, signal.SIGKILL, chance)
            assert (process.returncode, complaints(said)) == (-signal.SIGKILL, [])
        (ledger,) = await assert_one_whole_story(site)
        assert len(ledger) > KILLS_A_FILE
        assert site.load.liquidations > KILLS_A_FILE


async def assert_rival_fences(site: Site, first: Process) -> Process:
    """Start a second service beside a working one: the second goes on, the first ends by itself."""
    await site.work(first, 1)
    second = await site.start()
    while first.returncode is None:
        await site.load.go_on()
        with suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), POLL_S)
    out, said = await first.communicate()
    assert first.returncode == FENCED, (out, said)
    assert b"fenced: a newer writer took shard main of insurance-fund.db" in said
    await site.work(second, 1)
    return second


async def test_service_that_is_asked_to_end_finishes_its_transaction_and_exits_0(
    tmp_path: Path,
) -> None:
    chance = random.Random("sigterm")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, 1_000) as site:
        for _ in range(3):
            process = await site.start()
            await site.work(process, chance.randrange(1, 150))
            out, said = await site.end(process, signal.SIGTERM, chance)
            assert (process.returncode, complaints(said)) == (0, [])
            assert f"entries written, {await site.entries()} in all, head " in out
        await assert_one_whole_story(site)


async def test_two_shards_in_one_file_each_take_their_own_currencies(tmp_path: Path) -> None:
    (tmp_path / "insurance-fund.toml").write_text(
        '[shards]\nusdt = ["USDT", "USDC"]\nxbt = ["XBT", "BTC", "ETH"]\n', encoding="utf-8"
    )
    chance = random.Random("shards")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, 2_000, ("USDT", "XBT")) as site:
        await site.load.publish("fund-transfers", record("fund_deposit", "DOGE"), *POISON)
        for kind in ("USDC", "BTC", "ETH"):
            fields = {"transfer_id": f"d-{kind}", "amount": "5", "memo": "m"}
            await site.load.publish("fund-transfers", record("fund_deposit", kind, **fields))
        for end in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
            process = await site.start()
            await site.work(process, 100)
            await site.end(process, end, chance)
            assert process.returncode == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        usdt, xbt = await assert_one_whole_story(site, ("usdt", "xbt"))

    def currencies(ledger: list[bytes]) -> set[str | None]:
        found = set()
        for where, _ in inputs_of(ledger):
            try:
                found.add(json.loads(site.load.published[where])["margin_currency"])
            except (ValueError, KeyError, TypeError):
                found.add(None)
        return found

    assert currencies(usdt) == {"USDT", "USDC", "DOGE", None}
    assert currencies(xbt) == {"XBT", "BTC", "ETH"}
    assert {account.split(":")[1] for account in balances(usdt)} == {"USDT", "USDC"}
    assert {account.split(":")[1] for account in balances(xbt)} == {"XBT", "BTC", "ETH"}
    rejected = b'"effects":[{"type":"rejected"'
    assert sum(rejected in line for line in usdt) >= len(POISON) + 1
