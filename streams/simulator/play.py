"""Plays a scenario: the real processor on the simulated log, through crashes and rivals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from insurance_fund.events.errors import CorruptionError, InsuranceFundError
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker, Transaction, VirtualClock
from insurance_fund.streams.simulator.calls import FaultyCalls, Stuck
from insurance_fund.streams.simulator.client import SimulatedLog
from insurance_fund.streams.simulator.faults import Crash, Fault, Kind
from insurance_fund.streams.simulator.run import SHARD, Run
from insurance_fund.streams.simulator.scenario import OUTPUT_PARTITIONS, PARTITIONS, Scenario, Wave

# What a lie of the log looks like to a process, which must not go on then.
_TAKEN_FOR = (
    (Kind.STALE_END, "was the topic made anew?"),
    (Kind.TWICE, "twice"),
    (Kind.TWICE, "stands where"),
)


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


# How a process is put together; tests take a protection out here.
Build = Callable[[SimulatedLog, Options, Clock], Processor]


def build(log: SimulatedLog, options: Options, clock: Clock) -> Processor:
    """Put a process together as the service does."""
    return Processor(log, SHARD, options, clock, snapshots=log)


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
    """What goes on around the calls: the processes that make them, and the exchange."""

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
        self._calls = FaultyCalls(self.run, faults, calls_max, self)
        self._broker = broker
        self._build = build
        self._wave = 0
        self._pinned: list[Transaction] = []
        self._processes: dict[SimulatedLog, Process] = {}
        self._tasks: dict[asyncio.Task[None], Process] = {}
        self._changed = asyncio.Event()
        # By the times of events a process ends by itself, when nothing is left to do.
        self._all_is_said = scenario.clock == "event"
        self._over = False

    async def live(self) -> None:
        """Let processes run, one after the other or beside each other, until all is said."""
        for topic, partitions in (PARTITIONS | OUTPUT_PARTITIONS).items():
            self._broker.make_topic(topic, partitions)
        if self._scenario.clock == "event":
            while self._wave < len(self._scenario.waves):
                self._publish()
        else:
            self._publish()
        try:
            while not self._over:
                if not self._tasks:
                    self.start()
                await self._changed.wait()
                self._changed.clear()
                for task in [task for task in self._tasks if task.done()]:
                    self._ended(self._tasks.pop(task), task.exception())
        except Stuck:
            self.run.troubles.append(f"not at its end after {self.run.calls} calls")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._calls.deliver_all()

    # Processes.

    @property
    def processes(self) -> int:
        """Return how many processes there are now."""
        return len(self._tasks)

    def jump(self, log: SimulatedLog, milliseconds: int) -> None:
        """Let the clock of a process jump."""
        self._processes[log].clock.skew_ms = milliseconds

    def start(self) -> None:
        """Start a process, beside those that run."""
        scenario, log = self._scenario, SimulatedLog(self._broker, self._calls)
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
        process = Process(log, clock, processor)
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
        self.run.from_snapshots += process.processor.recovered.snapshot.sequence > 0
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
            self._over = True

    def _may_end(self, error: BaseException) -> bool:
        if isinstance(error, CorruptionError):
            return any(self.run.faults[kind] and words in str(error) for kind, words in _TAKEN_FOR)
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
        for where in wave.expired:
            self.run.expired += [(where, one.record) for one in self._broker.appended_to(where)]
            self._broker.delete_before(where, self._broker.end_offset(where))
            self.run.faults["records deleted by retention"] += 1
        for where, values in sorted(wave.records.items()):
            records = [NewRecord(where.partition, None, value) for value in values]
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
            if where in wave.aborted:
                # The log ends in a hole then.
                given_up = self._broker.transaction()
                given_up.append(where.topic, records)
                given_up.abort()
        self._broker.clock.now_ms = wave.at_ms


@contextmanager
def _quiet() -> Iterator[None]:
    # What the service warns of when something goes wrong is what is made to go wrong here.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
