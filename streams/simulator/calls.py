"""Calls that go wrong: each has a number, and what becomes of it is what its fault says."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from insurance_fund.events.errors import FencedError
from insurance_fund.streams.log import Batch
from insurance_fund.streams.simulator.client import SimulatedLog, unanswered
from insurance_fund.streams.simulator.faults import LIES, Crash, Fault, Kind
from insurance_fund.streams.simulator.run import LEDGER, Run

JUMP_MS: Final = 60_000
TURNS_MAX: Final = 4

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

    # Whoever waits is woken by what others do; no clock of the machine has a part in it.
    real_time = False

    def __init__(
        self, run: Run, faults: Sequence[Fault], calls_max: int, around: Surroundings
    ) -> None:
        self._run = run
        self._faults = sorted(faults)
        self._calls_max = calls_max
        self._around = around
        self._delayed: list[tuple[int, Callable[[], object]]] = []
        self._rng = random.Random(repr(self._faults))  # noqa: S311 - to be made again, not secret

    async def idle(self, log: SimulatedLog) -> bool:
        """Let the surroundings go on while a connection waits; tell whether the wait is over."""
        return await self._around.idle(log)

    async def call(
        self, log: SimulatedLog, name: str, effect: Callable[[], T], half: Callable[[], object]
    ) -> T:
        """Bring about the effect of a call, or what a fault leaves of it."""
        if self._around.processes > 1:
            # Whose turn it is next is chance, the same for the same faults.
            for _ in range(self._rng.randint(1, TURNS_MAX)):
                await asyncio.sleep(0)
        run, number = self._run, self._run.calls
        run.calls += 1
        run.names.append(name)
        if number >= self._calls_max:
            raise Stuck
        if self._delayed:
            self._deliver(number)
        fault = self._fault(number, name)
        try:
            if fault is None:
                return effect()
            if fault.kind in LIES:
                return self._lie(fault, effect())
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
        return result

    def _lie(self, fault: Fault, truth: T) -> T:
        """Return another answer than the truth, if there is one; else the next call is lied to."""
        answer = _other_than(truth, fault)
        if answer is not truth:
            self._faults.remove(fault)
            self._run.faults[fault.kind] += 1
            self._run.last_fault = self._run.calls
        return answer

    def _damage(self, back: int) -> None:
        """Damage an entry of the ledger, but not the last: that nobody could tell by the rest."""
        broker = self._run.broker
        entries = broker.appended_to(LEDGER)
        if len(entries) > back + 1 and self._around.processes == 1:
            record = entries[-1 - back].record
            if back % 2:
                broker.delete(LEDGER, record.offset)
            else:
                broker.alter(LEDGER, record.offset, _altered(record.value or b""))
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


def _other_than(truth: T, fault: Fault) -> T:
    """Return an answer that is behind the truth, or says a record twice."""
    if fault.kind == Kind.STALE_END and isinstance(truth, int):
        return max(0, truth - fault.delay)  # type: ignore[return-value]
    if isinstance(truth, Batch) and truth.records:
        first, *others = truth.records
        if fault.kind == Kind.SLOW:
            return Batch([], first.offset)  # type: ignore[return-value]
        return Batch([first, first, *others], truth.next_offset)  # type: ignore[return-value]
    return truth


def _altered(line: bytes) -> bytes:
    # A digit of its record's time, or else of its own: nothing of it but the hash is wrong.
    digits = re.search(rb'"timestamp_ms":(\d+)', line) or re.search(rb'"now_ms":(\d+)', line)
    assert digits is not None, "every entry has a time"
    return line[: digits.end() - 1] + bytes([line[digits.end() - 1] ^ 1]) + line[digits.end() :]
