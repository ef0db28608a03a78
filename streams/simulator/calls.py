"""Calls that go wrong: each has a number, and what becomes of it is what its fault says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from insurance_fund.events.errors import FencedError
from insurance_fund.streams.log import Batch
from insurance_fund.streams.simulator.client import SimulatedLog, unanswered
from insurance_fund.streams.simulator.faults import Crash, Fault, Kind
from insurance_fund.streams.simulator.run import LEDGER, Run

JUMP_MS: Final = 60_000

T = TypeVar("T")


class Stuck(BaseException):
    """The bound on calls is reached and the scenario is not over."""


class Surroundings(Protocol):
    """What goes on around the calls."""

    @property
    def processes(self) -> int:
        """Return how many processes there are now."""
        ...

    def start(self) -> None:
        """Start a process."""
        ...

    def jump(self, log: SimulatedLog, milliseconds: int) -> None:
        """Let the clock of a process jump."""
        ...

    async def idle(self, log: SimulatedLog) -> bool:
        """Go on while a process waits; tell whether its wait is over."""
        ...


class FaultyCalls:
    """Numbers all calls of a run, and lets faults happen to them."""

    def __init__(
        self, run: Run, faults: Sequence[Fault], calls_max: int, around: Surroundings
    ) -> None:
        self._run = run
        self._faults = sorted(faults)
        self._calls_max = calls_max
        self._around = around
        self._delayed: list[tuple[int, Callable[[], object]]] = []

    async def idle(self, log: SimulatedLog) -> bool:
        """Let the surroundings go on while a connection waits; tell whether the wait is over."""
        return await self._around.idle(log)

    async def call(
        self, log: SimulatedLog, name: str, effect: Callable[[], T], half: Callable[[], object]
    ) -> T:
        """Bring about the effect of a call, or what a fault leaves of it."""
        if self._around.processes > 1:
            await asyncio.sleep(0)
        run, number = self._run, self._run.calls
        run.calls += 1
        if number >= self._calls_max:
            raise Stuck
        if self._delayed:
            self._deliver(number)
        fault = self._fault(number, name)
        try:
            if fault is None:
                return effect()
            self._faults.remove(fault)
            run.faults[fault.kind] += 1
            run.last_fault = number
            return self._go_wrong(fault, log, name, effect, half)
        finally:
            run.observe()

    def deliver_all(self) -> None:
        """Bring about everything that is still delayed."""
        self._deliver(max((at for at, _ in self._delayed), default=0))
        self._run.observe()

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
            self._delayed.append((self._run.calls + fault.delay, effect))
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
            self._around.start()
        elif kind == Kind.LEDGER_DAMAGED:
            self._damage(fault.delay)
        elif kind == Kind.CLOCK_JUMP:
            self._around.jump(log, JUMP_MS if fault.delay % 2 else -JUMP_MS)
        return _behind(fault, result)

    def _damage(self, back: int) -> None:
        """Take an entry out of the ledger, but not the last: that nobody could tell by the rest."""
        broker = self._run.broker
        entries = broker.appended_to(LEDGER)
        if len(entries) > back + 1 and self._around.processes == 1:
            broker.delete(LEDGER, entries[-1 - back].record.offset)
            self._run.damaged_length = len(entries)
            self._faults, self._delayed = [], []
            raise Crash

    def _deliver(self, number: int) -> None:
        due = [effect for at, effect in self._delayed if at <= number]
        self._delayed = [one for one in self._delayed if one[0] > number]
        for effect in due:
            try:
                effect()
            except FencedError:
                self._run.faults["delayed commit fenced"] += 1


def _behind(fault: Fault, result: T) -> T:
    """Return an answer that is behind the truth."""
    if fault.kind == Kind.STALE_END and isinstance(result, int):
        return max(0, result - fault.delay)  # type: ignore[return-value]
    if fault.kind == Kind.SLOW and isinstance(result, Batch) and result.records:
        return Batch([], result.records[0].offset)  # type: ignore[return-value]
    return result
