"""A real service on a real log under load, and what must be true whatever became of it.

The log is named by its URL: on every kind of log the story is checked by the same rules.
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
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from insurance_fund.events import topics
from insurance_fund.events.ledger import InputCause, decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.streams.log import LogPublisher, LogReader, NewRecord, Record, TopicPartition
from tests.unit.life import BTCUSDT, XBTUSD

COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
HANG_S: Final = 60
FENCED: Final = 75
POLL_S: Final = 0.02
# How far the publisher may be ahead of the ledger, so that a killed service leaves a backlog
# that it can still catch up with.
AHEAD_MAX: Final = 400
RECORDS_A_READ: Final = 10_000
# Orders end while the test runs, so that deadlines and triggers are among what is killed.
POLICY: Final = {"default": {"attempts": [["0.01", 300]]}, "grace_ms": 50}
POISON: Final = (
    b'{"liquidation_id": "broken',
    b'{"liquidation_id": "\xff"}',
    b'["liquidation_id"]',
    b'{"type": "fill", "liquidation_id": "liq-0", "price": NaN}',
    b'{"type": "fill", "liquidation_id": "a", "liquidation_id": "b"}',
)
# Topics whose records go to a partition by their liquidation.
KEYED: Final = (topics.LIQUIDATIONS, topics.FILLS)
Where = tuple[str, int, int]


def record(kind: str, currency: str, **fields: Any) -> bytes:
    """Return the value of an input record."""
    message = {
        "type": kind,
        "event_id": "e",
        "event_time_ms": time.time_ns() // 1_000_000,
        "margin_currency": currency,
        **fields,
    }
    return json.dumps(message).encode()


def makes_entry(topic: str, value: bytes) -> bool:
    """Tell whether a record must make an entry."""
    return topic != topics.FILLS or topics.FILLS_FILTER in value


class Load:
    """Makes up liquidations and what an exchange says of them, seeded; sometimes it says nonsense.

    It remembers what it said in each partition, in order. `expected` counts what must make entries.
    """

    def __init__(
        self,
        log: LogPublisher,
        chance: random.Random,
        currencies: tuple[str, ...] = ("USDT",),
        partitions: int = 1,
    ) -> None:
        """`partitions` are those of `liquidations` and `fills`."""
        self._log = log
        self._chance = chance
        self._currencies = currencies
        self._partitions = partitions
        self._waiting: list[tuple[str, int, bytes]] = []
        self._entering: list[tuple[str, bytes]] = []
        self.liquidations = 0
        self.said: defaultdict[TopicPartition, list[bytes]] = defaultdict(list)

    @property
    def expected(self) -> int:
        """How many records must make an entry."""
        return len(self._entering)

    async def open(self) -> None:
        """Define the instruments and fill the funds."""
        for terms in (BTCUSDT, XBTUSD):
            currency = terms.get("margin_currency", "USDT")
            await self.publish("instruments", record("instrument_defined", currency, **terms))
            fields = {"transfer_id": f"d-{currency}", "amount": "1000000", "memo": "m"}
            await self.publish("fund-transfers", record("fund_deposit", currency, **fields))

    async def publish(self, topic: str, *values: bytes, partition: int = 0) -> None:
        """Append records in one piece."""
        await self._log.publish(topic, [NewRecord(partition, b"key", value) for value in values])
        self.said[TopicPartition(topic, partition)] += values
        self._entering += [(topic, value) for value in values if makes_entry(topic, value)]

    async def go_on(self) -> None:
        """Append a takeover, some of what was still to be said, and perhaps something bad."""
        chance = self._chance
        self._take_over()
        for _ in range(min(4, len(self._waiting))):
            topic, partition, value = self._waiting.pop(
                chance.randrange(min(6, len(self._waiting)))
            )
            await self.publish(topic, value, partition=partition)
        if chance.random() < 0.2:
            await self._say_anywhere(chance.choice(topics.INPUT_TOPICS), chance.choice(POISON))
        if chance.random() < 0.2:
            await self._say_anywhere(*chance.choice(self._entering))
        if chance.random() < 0.3:
            nobodys = b'{"type": "fill", "fill_id": "of-nobody"}'
            await self._say_anywhere(topics.FILLS, nobodys, b"{")

    async def _say_anywhere(self, topic: str, *values: bytes) -> None:
        partition = self._chance.randrange(self._partitions) if topic in KEYED else 0
        await self.publish(topic, *values, partition=partition)

    def _take_over(self) -> None:
        chance, number = self._chance, self.liquidations
        self.liquidations += 1
        name = f"liq-{number}"
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
            value = record(kind, currency, **fields)
            self._waiting.append((topic, number % self._partitions, value))

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


@dataclass(slots=True)
class Seen:
    """What was read of a ledger while it was written."""

    lines: list[bytes] = field(default_factory=list)
    next_offset: int = 0


class Site:
    """A folder to start a service in, the log that it works on, and a view of what is in it."""

    def __init__(
        self,
        folder: Path,
        url: str,
        log: LogReader,
        load: Load,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are given to every command, by name."""
        self.folder = folder
        self.log = log
        self.load = load
        self.running: list[Process] = []
        # Of each ledger, by partition.
        self.seen: defaultdict[int, Seen] = defaultdict(Seen)
        # Snapshots are written often, so that kills hit them and starts begin from them.
        self._settings = {
            "LOG": url,
            "POLICY": "policy.json",
            "SNAPSHOT_ENTRIES": "40",
            **(settings or {}),
        }
        (folder / "policy.json").write_text(json.dumps(POLICY), encoding="utf-8")

    async def start(self, *arguments: str) -> Process:
        """Start `run`."""
        return await self.spawn(str(COMMAND), "run", *arguments)

    async def spawn(self, *command: str, **environment: str) -> Process:
        """Start a command with the settings of this site."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
        settings = {f"INSURANCE_FUND_{name}": value for name, value in self._settings.items()}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            env={**inherited, **settings, **environment},
            stdout=PIPE,
            stderr=PIPE,
        )
        self.running.append(process)
        return process

    async def call(self, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        process = await self.spawn(str(COMMAND), *arguments)
        out, err = await process.communicate()
        assert process.returncode == 0, (arguments, out, err)
        return out.decode()

    async def entries(self) -> int:
        """Read on in the ledgers; return how many entries they have."""
        for partition in await self.log.partitions(topics.FUND_LEDGER):
            where, seen = TopicPartition(topics.FUND_LEDGER, partition), self.seen[partition]
            found = True
            while found:
                batch = await self.log.read(where, seen.next_offset, RECORDS_A_READ)
                found = bool(batch.records)
                seen.lines += [one.value or b"" for one in batch.records]
                seen.next_offset = batch.next_offset
        return sum(len(seen.lines) for seen in self.seen.values())

    async def work(self, process: Process, entries: int, polls: int | None = None) -> None:
        """Append inputs while the service runs, until it has written this many more entries.

        Given a number of polls, it need not come so far.
        """
        until = await self.entries() + entries
        while await self.entries() < until and polls != 0:
            assert process.returncode is None, await process.communicate()
            await self.go_on()
            polls = None if polls is None else polls - 1

    async def work_until_end(self, process: Process) -> tuple[str, str]:
        """Append inputs until the service has ended by itself; return what it has printed."""
        while process.returncode is None:
            await self.entries()
            await self.go_on()
        return await said_by(process)

    async def go_on(self) -> None:
        """Append inputs if the service is not too far behind, then give it a moment."""
        if self.load.expected - sum(len(seen.lines) for seen in self.seen.values()) < AHEAD_MAX:
            await self.load.go_on()
        await self.log.wait(POLL_S)

    async def end(
        self, process: Process, how: signal.Signals, chance: random.Random
    ) -> tuple[str, str]:
        """Send a signal at any moment of the service's work; return what it has printed."""
        await self.any_moment(chance)
        process.send_signal(how)
        return await said_by(process)

    async def any_moment(self, chance: random.Random) -> None:
        """Return at any moment of the service's work."""
        for _ in range(chance.randrange(40)):
            await self.load.go_on()
        # It goes on meanwhile: these reads move the signal to any place of its loop.
        for _ in range(chance.randrange(200)):
            await self.entries()

    async def values(self, topic: str, partition: int = 0) -> list[bytes]:
        """Return the values of a partition."""
        records = await self.records(TopicPartition(topic, partition))
        return [one.value or b"" for one in records]

    async def values_of(self, topic: str) -> list[bytes]:
        """Return the values of all partitions of a topic."""
        partitions = await self.log.partitions(topic)
        return [value for one in partitions for value in await self.values(topic, one)]

    async def inputs(self) -> dict[Where, bytes]:
        """Return what stands in the inputs and must make entries, which is what the load said."""
        found: dict[Where, bytes] = {}
        for topic in topics.INPUT_TOPICS:
            for partition in await self.log.partitions(topic):
                where = TopicPartition(topic, partition)
                records = await self.records(where)
                assert [one.value for one in records] == self.load.said[where], where
                for one in records:
                    if one.value is not None and makes_entry(topic, one.value):
                        found[*where, one.offset] = one.value
        return found

    async def records(self, where: TopicPartition) -> list[Record]:
        """Return the records of a partition."""
        records: list[Record] = []
        next_offset, end = await self.log.first_offset(where), await self.log.end_offset(where)
        while next_offset < end:
            batch = await self.log.read(where, next_offset, RECORDS_A_READ)
            records += batch.records
            next_offset = batch.next_offset
        return records

    async def close(self) -> None:
        """End all that was started."""
        for process in self.running:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def said_by(process: Process) -> tuple[str, str]:
    """Wait for the end of a process; return its output and what it wrote to standard error."""
    out, err = await process.communicate()
    return out.decode(), err.decode()


@asynccontextmanager
async def opened(site: Site, hang_s: float = HANG_S) -> AsyncIterator[Site]:
    """Begin the load of a site; whatever runs at the end is killed."""
    try:
        async with asyncio.timeout(hang_s):
            await site.load.open()
            yield site
    finally:
        await site.close()


def balances(ledger: Iterable[bytes]) -> dict[str, Decimal]:
    """Sum the postings of a ledger up by account, of the funds alone."""
    sums: dict[str, Decimal] = {}
    for line in ledger:
        for account, amount in json.loads(line)["postings"].items():
            if account.startswith(("fund:", "shortfall:")):
                sums[account] = sums.get(account, Decimal(0)) + Decimal(amount)
    return sums


def fold(ledger: Iterable[bytes]) -> State:
    """Evolve a ledger in this process; a break in the chain raises."""
    state = State()
    for line in ledger:
        apply_entry(state, decode_entry(line), sha256_hex(line))
    return state


def inputs_of(ledger: Iterable[bytes]) -> Iterator[tuple[Where, str]]:
    """Yield where the inputs of a ledger stood, in its order, and their fingerprints."""
    for line in ledger:
        cause = decode_entry(line).cause
        if isinstance(cause, InputCause):
            yield (cause.topic, cause.partition, cause.offset), cause.sha256()


def assert_sequence_has_no_gap(ledger: Sequence[bytes]) -> None:
    """Hold the numbers of the entries to 0, 1, 2 and so on."""
    sequences = [json.loads(line)["sequence"] for line in ledger]
    for place, sequence in enumerate(sequences):
        assert sequence == place, f"entry {sequence} stands in the place of entry {place}"


def assert_covered_once(ledgers: Sequence[Sequence[bytes]], inputs: Mapping[Where, bytes]) -> None:
    """Hold the ledgers to one entry for each input, in the order of each partition."""
    taken = [found for ledger in ledgers for found in inputs_of(ledger)]
    times = Counter(where for where, _ in taken)
    twice = [where for where, count in times.items() if count > 1]
    assert not twice, f"{len(twice)} inputs are covered more than once, first {min(twice)}"
    missing, unknown = inputs.keys() - times.keys(), times.keys() - inputs.keys()
    assert not missing, f"{len(missing)} inputs are covered by no entry, first {min(missing)}"
    assert not unknown, f"{len(unknown)} entries are about no input, first {min(unknown)}"
    assert dict(taken) == {where: sha256_hex(value) for where, value in inputs.items()}
    for ledger in ledgers:
        reached: dict[tuple[str, int], int] = {}
        for (topic, partition, offset), _ in inputs_of(ledger):
            assert offset > reached.get((topic, partition), -1), f"{topic} is out of order"
            reached[topic, partition] = offset


def assert_sent_is_listed(
    ledgers: Sequence[Sequence[bytes]], sent: Mapping[str, Sequence[bytes]]
) -> None:
    """Hold what stands in the output topics to what the entries list, in both directions."""
    listed = Counter(
        (emitted.topic, emitted.sha256)
        for ledger in ledgers
        for line in ledger
        for emitted in decode_entry(line).emitted
    )
    there = Counter((topic, sha256_hex(value)) for topic, of in sent.items() for value in of)
    extra, missing = there - listed, listed - there
    assert not extra, f"{extra.total()} messages are listed by no entry: {list(extra)[:3]}"
    assert not missing, f"{missing.total()} messages are listed but not there: {list(missing)[:3]}"
    assert set(there.values()) <= {1}, "a message was sent more than once"


async def assert_log_tells_one_story(site: Site, shards: int = 1) -> list[list[bytes]]:
    """Hold ledgers, inputs and outputs to each other; return the ledgers."""
    ledgers = [await site.values(topics.FUND_LEDGER, index) for index in range(shards)]
    await site.entries()
    for index, ledger in enumerate(ledgers):
        assert site.seen[index].lines == ledger, "a reader saw what is not, or not so, in the end"
        assert_sequence_has_no_gap(ledger)
        fold(ledger)
    inputs = await site.inputs()
    assert_covered_once(ledgers, inputs)
    sent = {topic: await site.values_of(topic) for topic in topics.OUTPUT_TOPICS}
    assert_sent_is_listed(ledgers, sent)
    orders = [json.loads(value)["order_id"] for value in sent[topics.LIQUIDATION_ORDERS]]
    assert len(set(orders)) == len(orders)
    _assert_letters_tell_poison(sent[topics.DEAD_LETTERS], inputs)
    return ledgers


def _assert_letters_tell_poison(dead_letters: Sequence[bytes], inputs: dict[Where, bytes]) -> None:
    letters = [json.loads(value) for value in dead_letters]
    for letter in letters:
        where = (letter["topic"], letter["partition"], letter["offset"])
        assert base64.b64decode(letter["value_base64"]) == inputs[where]
    poison = {where for where, value in inputs.items() if value in POISON}
    assert poison <= {(one["topic"], one["partition"], one["offset"]) for one in letters}


async def assert_audits_are_clean(site: Site, shard: str, ledger: Sequence[bytes]) -> None:
    """Hold a ledger to `verify` and `replay`."""
    verified, replayed = await asyncio.gather(
        site.call("verify", "--shard", shard, "--format", "json"),
        site.call("replay", "--shard", shard, "--format", "json"),
    )
    for report in map(json.loads, (verified, replayed)):
        assert (report["entries"], report["findings"]) == (len(ledger), [])


async def assert_commands_tell_the_ledger(site: Site, shard: str, ledger: Sequence[bytes]) -> None:
    """Hold `export` and `status` to a ledger."""
    _, shown = await asyncio.gather(
        site.call("export", f"{shard}.ndjson", "--shard", shard),
        site.call("status", "--shard", shard, "--format", "json"),
    )
    assert (site.folder / f"{shard}.ndjson").read_bytes().splitlines() == list(ledger)
    state, posted, status = fold(ledger), balances(ledger), json.loads(shown)
    assert status["head"] == state.head == sha256_hex(ledger[-1])
    assert (len(status["open_liquidations"]), status["parked"]) == (
        len(state.liquidations),
        len(state.parked),
    )
    for fund in status["funds"]:
        currency = fund["margin_currency"]
        known = state.funds[currency]
        for account, told, folded in (
            (f"fund:{currency}:available", fund["available"], known.available),
            (f"fund:{currency}:reserved", fund["reserved"], known.reserved),
            (f"shortfall:{currency}", fund["shortfall"], known.shortfall),
        ):
            assert Decimal(told) == folded == posted.get(account, Decimal(0))


async def assert_one_whole_story(
    site: Site, shards: tuple[str, ...] = ("main",)
) -> list[list[bytes]]:
    """Let the service finish, then hold the whole log to what it must be; return the ledgers."""
    await site.call("run", "--until-idle")
    ledgers = await assert_log_tells_one_story(site, len(shards))
    for topic in topics.OUTPUT_TOPICS:
        assert await site.values_of(topic), f"nothing was sent to {topic}"
    for shard, ledger in zip(shards, ledgers, strict=True):
        await assert_audits_are_clean(site, shard, ledger)
    return ledgers
