"""Scenarios: what an exchange says to the fund, in waves, and where a log makes it wait.

A wave is published when all before it was read, so the order and the time in which records are
taken are a function of the positions, whatever happens to the processes in between.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from insurance_fund.events import topics
from insurance_fund.events.fields import Clock as ClockMode
from insurance_fund.events.ledger import ClockCause, PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import Policy, parse_policy, policy_document
from insurance_fund.fund.state import State
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.simulator.actions import Actions, Said

START_MS: Final = 1_767_312_000_000
PARTITIONS: Final = {
    topics.INSTRUMENTS: 1,
    topics.FUND_TRANSFERS: 1,
    topics.LIQUIDATIONS: 2,
    topics.FILLS: 2,
}
OUTPUT_PARTITIONS: Final = dict.fromkeys(topics.OUTPUT_TOPICS, 2)
# In what order a poll takes partitions.
TAKEN: Final = tuple(
    TopicPartition(t, p) for t in topics.INPUT_TOPICS for p in range(PARTITIONS[t])
)
# Of a wave, records of one partition; and how many there are in a row that make no entry, which
# are read again after a restart. What a process reads at once is never less than both.
WAVE_MAX: Final = 6
SKIPPED_MAX: Final = 2
# After the last wave, long enough for what is parked to expire.
REST_MS: Final = (61_000, 700_000, 4_000_000)


@dataclass(slots=True)
class Wave:
    """What happens at one time: records by partition.

    Of `pinned` partitions they cannot be read for a while; with `stale`, their ends are told as
    they were before. In `aborted` ones the producer has sent them once more and given that up. In
    `expired` ones retention has deleted all that was there before. `policy` is given where the
    operator starts the service with another one from here on.
    """

    at_ms: int
    records: dict[TopicPartition, list[bytes | None]] = field(default_factory=dict)
    pinned: tuple[TopicPartition, ...] = ()
    stale: bool = False
    aborted: tuple[TopicPartition, ...] = ()
    expired: tuple[TopicPartition, ...] = ()
    policy: Policy | None = None


@dataclass(slots=True)
class Scenario:
    """All waves, and how the service is set up."""

    clock: ClockMode
    policy: Policy
    batch_max: int
    snapshot_entries: int
    holes: bool
    waves: list[Wave] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """Return how many records the exchange publishes."""
        return sum(len(values) for wave in self.waves for values in wave.records.values())


def random_scenario(seed: int, inputs: int) -> Scenario:
    """Make up a scenario of at least `inputs` records; the same seed gives the same."""
    return _Author(random.Random(seed)).write(inputs)  # noqa: S311 - to be made again, not secret


class _Author:
    """Writes wave after wave, keeping the books beside to know what could come next."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_ms = START_MS
        policy = parse_policy(_policy(rng, first=True))
        self.scenario = Scenario(
            clock=rng.choice(("wall", "wall", "event")),
            policy=policy,
            batch_max=rng.randint(WAVE_MAX + SKIPPED_MAX, 4 * WAVE_MAX),
            snapshot_entries=rng.choice((0, 5, 20)),
            holes=rng.randrange(10) < 7,  # noqa: PLR2004
        )
        # Where records are taken by their times, an end is told in time or nothing is pinned.
        self.pinning = self.scenario.clock == "wall" or self._chance(50)
        self.keeper = Bookkeeper("main", State())
        self.offsets: defaultdict[TopicPartition, int] = defaultdict(int)
        self.skipped: defaultdict[TopicPartition, int] = defaultdict(int)
        self._settle(policy)
        self.actions = Actions(rng, self.keeper.state)

    def write(self, inputs: int) -> Scenario:
        scenario, written = self.scenario, 0
        while written < inputs:
            wave = self._wave(self.actions.some() if written else self.actions.opening())
            written += sum(map(len, wave.records.values()))
            if scenario.clock == "wall" and len(scenario.waves) % 16 == 12:  # noqa: PLR2004
                wave.policy = parse_policy(_policy(self.rng, first=False))
                self._settle(wave.policy)
            self._keep(wave)
        for rest_ms in REST_MS:
            self.now_ms += rest_ms
            self._keep(Wave(self.now_ms))
        return scenario

    def _wave(self, messages: list[Said]) -> Wave:
        self.now_ms += self.rng.choice((1, 200, 200, 2_000, 5_000, 33_000, 61_000))
        if self._chance(2):
            self.now_ms += self.rng.choice((620_000, 3_700_000))
        records: dict[TopicPartition, list[bytes | None]] = {}
        for topic, message, partition in messages:
            value, key = message, ""
            if isinstance(message, dict):
                value = orjson.dumps({"event_time_ms": self.now_ms, **message})
                key = message.get("liquidation_id", "")
            keyed = zlib.crc32(key.encode()) % PARTITIONS[topic]
            where = TopicPartition(topic, keyed if partition is None else partition)
            values = records.setdefault(where, [])
            if len(values) < WAVE_MAX and not self._is_one_too_many(where, value):
                values.append(value)
        late = [w for w in sorted(records) if w.topic in {topics.FILLS, topics.LIQUIDATIONS}]
        pinned = tuple(where for where in late if self.pinning and self._chance(10))
        stale = bool(pinned) and self.scenario.clock == "wall" and self._chance(20)
        aborted = tuple(where for where in sorted(records) if self._chance(3))
        # Of fills that make no entry only a process knows that it has passed them.
        lasting = {topics.FUND_TRANSFERS, topics.LIQUIDATIONS}
        expired = tuple(where for where in TAKEN if where.topic in lasting and self._chance(2))
        if self.scenario.clock == "event":
            expired = ()
        return Wave(self.now_ms, records, pinned, stale, aborted, expired)

    def _is_one_too_many(self, where: TopicPartition, value: bytes | None) -> bool:
        if not _is_skipped(where, value):
            self.skipped[where] = 0
            return False
        self.skipped[where] += 1
        return self.skipped[where] > SKIPPED_MAX

    def _chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def _keep(self, wave: Wave) -> None:
        self.scenario.waves.append(wave)
        keeper, now_ms = self.keeper, max(wave.at_ms, self.keeper.state.now_ms)
        for where in TAKEN:
            for value in wave.records.get(where, ()):
                self.offsets[where] += 1
                if _is_skipped(where, value):
                    continue
                keeper.record(*where, self.offsets[where], now_ms, value, now_ms)
                self.actions.saw(*where, value)
        while (first := keeper.state.schedule.first()) is not None and first[0] <= now_ms:
            cause = ClockCause(deadline=first[1], due_ms=first[0], read_to={}, capped=False)
            keeper.deadline(cause, now_ms)

    def _settle(self, policy: Policy) -> None:
        cause = PolicyCause(
            policy=policy_document(policy),
            routing=dict.fromkeys(policy.currencies, "main"),
            clock=self.scenario.clock,
            rules=RULES,
            software="",
        )
        self.keeper.policy(cause, self.now_ms)


def _is_skipped(where: TopicPartition, value: bytes | None) -> bool:
    return where.topic == topics.FILLS and topics.FILLS_FILTER not in (value or b"")


def _policy(rng: random.Random, *, first: bool) -> dict[str, Any]:
    """Make up a policy under which little is remembered, so that forgetting happens too."""
    return {
        "currencies": {"USDT": {"scale": 6}, "XBT": {"scale": 8}},
        "default": {
            "attempts": rng.choice(([["0.01", 30_000]], [["0", 5_000], ["0.02", 25_000]])),
            "instrument_share": rng.choice(("0.3", "1")),
        },
        "instruments": {"SOLUSDT": {"order_pricing": "exchange"}},
        "reservation_hold_ms": rng.choice((0, 20_000, 600_000)),
        "parked_ms": rng.choice((60_000, 600_000)),
        "parked_max": 4,
        "closed_max": 3 if first else 4,
    }
