"""Plays a scenario: the real processor on the simulated log, through crashes and rivals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError, FencedError, InsuranceFundError
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import Batch, NewRecord, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker, Transaction, VirtualClock
from insurance_fund.streams.simulator.client import SimulatedLog, unanswered
from insurance_fund.streams.simulator.faults import Crash, Fault, Kind
from insurance_fund.streams.simulator.scenario import PARTITIONS, Scenario, Wave

SHARD: Final = Shard("main")
LEDGER: Final = TopicPartition(topics.FUND_LEDGER, SHARD.index)
JUMP_MS: Final = 60_000
_READ_MAX: Final = 1_000_000

T = TypeVar("T")


class Stuck(BaseException):
    """The bound on calls is reached and the scenario is not over."""


class MachineClock:
    """The clock of one process: virtual time, unless it has jumped."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.skew_ms = 0

    def wall_ms(self) -> int:
        """Return what this machine takes for the time of day, in milliseconds."""
        return self._clock.now_ms + self.skew_ms

    def monotonic_ms(self) -> int:
        """Return the virtual time, in milliseconds."""
        return self._clock.now_ms


@dataclass(slots=True, eq=False)
class Process:
    """A process of the service: a connection, a clock and a processor, gone together."""

    log: SimulatedLog
    clock: MachineClock
    processor: Processor
    wave: int


# How a process is put together; tests take a protection out here.
Build = Callable[[SimulatedLog, Options, Clock], Processor]


def build(log: SimulatedLog, options: Options, clock: Clock) -> Processor:
    """Put a process together as the service does."""
    return Processor(log, SHARD, options, clock, snapshots=log)


@dataclass(slots=True)
class Run:
    """What came of a scenario.

    `calls` is how many calls were made, `last_fault` the number of the last one that went wrong;
    `observed` the ledger's lines as a read-committed reader saw them appear; `endings` how
    processes ended, by the name of their error. `damaged_length` is how many entries there were
    when one was taken out, None where none was.
    """

    broker: Broker
    calls: int = 0
    last_fault: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    observed: list[bytes] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    damaged_length: int | None = None

    @property
    def lines(self) -> list[bytes]:
        """Return the ledger as it stands in the end."""
        return [one.record.value or b"" for one in self.broker.appended_to(LEDGER)]


def play(
    scenario: Scenario,
    faults: Sequence[Fault] = (),
    *,
    calls_max: int,
    broker: Broker | None = None,
    build: Build = build,
) -> Run:
    """Play a scenario to its end, or until `calls_max` calls were made."""
    world = World(scenario, faults, calls_max, broker or Broker(holes=scenario.holes), build)
    with _quiet():
        asyncio.run(world.live())
    return world.run


class World:
    """What goes on around the processes: the exchange, the faults, an observer."""

    def __init__(
        self,
        scenario: Scenario,
        faults: Sequence[Fault],
        calls_max: int,
        broker: Broker,
        build: Build,
    ) -> None:
        self.run = Run(broker)
        self._scenario = scenario
        self._faults = sorted(faults)
        self._calls_max = calls_max
        self._broker = broker
        self._build = build
        self._wave = 0
        self._pinned: list[Transaction] = []
        self._delayed: list[tuple[int, Callable[[], object]]] = []
        self._processes: dict[SimulatedLog, Process] = {}
        self._tasks: dict[asyncio.Task[None], Process] = {}
        self._changed = asyncio.Event()
        # By the times of events a process ends by itself, when nothing is left to do.
        self._all_is_said = scenario.clock == "event"
        self._over = False
        self._observed_to = 0
        self._observed_version = -1

    async def live(self) -> None:
        """Let processes run, one after the other or beside each other, until all is said."""
        for topic, partitions in PARTITIONS.items():
            self._broker.make_topic(topic, partitions)
        if self._scenario.clock == "event":
            while self._wave < len(self._scenario.waves):
                self._publish()
        else:
            self._publish()
        try:
            while not self._over:
                if not self._tasks:
                    self._start()
                await self._changed.wait()
                self._changed.clear()
                for task in [task for task in self._tasks if task.done()]:
                    self._ended(self._tasks.pop(task), task.exception())
        except Stuck:
            self.run.troubles.append(f"not at its end after {self.run.calls} calls")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._delayed:
            self._deliver(self._calls_max + self._delayed[0][0])
        self._observe()

    # Processes.

    def _start(self) -> None:
        scenario, log = self._scenario, SimulatedLog(self._broker, self)
        clock = MachineClock(self._broker.clock)
        policies = [w.policy for w in scenario.waves[: self._wave] if w.policy is not None]
        options = Options(
            clock=scenario.clock,
            policy=policies[-1] if policies else scenario.policy,
            batch_max=scenario.batch_max,
            snapshot_entries=scenario.snapshot_entries,
            until_idle=scenario.clock == "event",
        )
        processor = self._build(log, options, clock)
        process = Process(log, clock, processor, self._wave)
        self._processes[log] = process

        async def work() -> None:
            await processor.start()
            await processor.run()

        task = asyncio.create_task(work())
        task.add_done_callback(lambda _: self._changed.set())
        self._tasks[task] = process

    def _ended(self, process: Process, error: BaseException | None) -> None:
        del self._processes[process.log]
        # One that waits behind it is to look round.
        self._broker.changed()
        self.run.endings[type(error).__name__ if error else "done"] += 1
        if isinstance(error, Stuck):
            raise error
        if error is None:
            self._over |= self._all_is_said and self._is_newest(process.log)
        elif isinstance(error, CorruptionError) and self.run.damaged_length is not None:
            # A person is called; nothing is restarted until the ledger was seen to.
            self._over = True
        elif not self._may_end(error):
            self.run.troubles.append(f"a process ended with {error!r}")

    def _may_end(self, error: BaseException) -> bool:
        if isinstance(error, CorruptionError):
            # What its end hides looks as if a topic had been made anew.
            return bool(self.run.faults[Kind.STALE_END])
        return isinstance(error, (Crash, InsuranceFundError))

    def _is_newest(self, log: SimulatedLog) -> bool:
        return self._broker.is_newest(log.shard, log.epoch)

    def _is_or_will_be_newest(self, log: SimulatedLog) -> bool:
        return not log.epoch or self._is_newest(log)

    # The exchange.

    async def idle(self, log: SimulatedLog) -> bool:
        """Let the exchange go on when the newest process has read everything.

        One that was fenced and does not know it yet is told by what comes next, where there is no
        newer one.
        """
        if not self._is_newest(log) and any(map(self._is_or_will_be_newest, self._processes)):
            return False
        if self._pinned:
            for transaction in self._pinned:
                transaction.commit()
            self._pinned = []
            self._broker.stale_ends.clear()
        elif self._wave < len(self._scenario.waves):
            policy = self._scenario.waves[self._wave].policy
            self._publish()
            if policy is not None:
                self._stop_all()
        elif self._scenario.clock == "wall":
            self._all_is_said = True
            self._stop_all()
        return True

    def _stop_all(self) -> None:
        for process in self._processes.values():
            process.processor.stop()

    def _publish(self) -> None:
        wave: Wave = self._scenario.waves[self._wave]
        self._wave += 1
        # What is there when a deadline is first seen due was published before that time.
        self._broker.clock.now_ms = wave.at_ms - 1
        for where, values in sorted(wave.records.items()):
            records = [NewRecord(where.partition, None, value) for value in values]
            if where in wave.aborted:
                given_up = self._broker.transaction()
                given_up.append(where.topic, records)
                given_up.abort()
            if where in wave.pinned:
                if wave.stale:
                    self._broker.stale_ends[where] = self._broker.end_offset(where)
                    self.run.faults["stale ends of a partition"] += 1
                # A marker would move the end, which a restart notes anew: other bytes, same money.
                transaction = self._broker.transaction(marker=False)
                transaction.append(where.topic, records)
                self._pinned.append(transaction)
                self.run.faults["pinned partition"] += 1
            else:
                self._broker.publish(where.topic, records)
        self._broker.clock.now_ms = wave.at_ms

    # Calls.

    async def call(
        self, log: SimulatedLog, name: str, effect: Callable[[], T], half: Callable[[], object]
    ) -> T:
        """Bring about the effect of a call, or what a fault leaves of it."""
        if len(self._tasks) > 1:
            await asyncio.sleep(0)
        number = self.run.calls
        self.run.calls += 1
        if number >= self._calls_max:
            raise Stuck
        if self._delayed:
            self._deliver(number)
        fault = self._fault(number, name)
        try:
            if fault is None:
                return effect()
            self._faults.remove(fault)
            self.run.faults[fault.kind] += 1
            self.run.last_fault = number
            return self._go_wrong(fault, log, name, effect, half)
        finally:
            self._observe()

    def _fault(self, number: int, name: str) -> Fault | None:
        for fault in self._faults:
            if fault.call > number:  # they are sorted
                return None
            if fault.fits(name):
                return fault
        return None

    def _go_wrong(
        self,
        fault: Fault,
        log: SimulatedLog,
        name: str,
        effect: Callable[[], T],
        half: Callable[[], object],
    ) -> T:
        kind = fault.kind
        if kind == Kind.DELAYED:
            self._delayed.append((self.run.calls + fault.delay, effect))
        elif kind == Kind.CRASH_AMID:
            half()
        if kind in {Kind.DELAYED, Kind.NO_ANSWER}:
            raise unanswered(name)
        if kind in {Kind.CRASH_BEFORE, Kind.CRASH_AMID}:
            raise Crash
        result = effect()
        if kind == Kind.CRASH_AFTER:
            raise Crash
        if kind == Kind.LOST_REPLY:
            raise unanswered(name)
        if kind == Kind.RIVAL:
            self._start()
        elif kind == Kind.LEDGER_DAMAGED:
            self._damage(fault.delay)
        elif kind == Kind.CLOCK_JUMP:
            self._processes[log].clock.skew_ms = JUMP_MS if fault.delay % 2 else -JUMP_MS
        return _behind(fault, result)

    def _damage(self, back: int) -> None:
        """Take an entry out of the ledger, but not the last: that nobody could tell by the rest."""
        entries = self._broker.appended_to(LEDGER)
        if len(entries) > back + 1 and len(self._tasks) == 1:
            self._broker.delete(LEDGER, entries[-1 - back].record.offset)
            self.run.damaged_length = len(entries)
            self._faults, self._delayed = [], []
            raise Crash

    def _deliver(self, number: int) -> None:
        due = [effect for at, effect in self._delayed if at <= number]
        self._delayed = [one for one in self._delayed if one[0] > number]
        for effect in due:
            try:
                effect()
            except FencedError:
                self.run.faults["delayed commit fenced"] += 1

    def _observe(self) -> None:
        if self._observed_version != self._broker.version:
            self._observed_version = self._broker.version
            batch = self._broker.read(LEDGER, self._observed_to, _READ_MAX)
            self._observed_to = batch.next_offset
            self.run.observed += [record.value or b"" for record in batch.records]


def _behind(fault: Fault, result: T) -> T:
    """Return an answer that is behind the truth."""
    if fault.kind == Kind.STALE_END and isinstance(result, int):
        return max(0, result - fault.delay)  # type: ignore[return-value]
    if fault.kind == Kind.SLOW and isinstance(result, Batch) and result.records:
        return Batch([], result.records[0].offset)  # type: ignore[return-value]
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    # What the service warns of when something goes wrong is what is made to go wrong here.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
