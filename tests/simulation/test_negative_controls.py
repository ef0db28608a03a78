"""With one protection switched off, the same checks fail: they are not blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import CommitUnknownError
from insurance_fund.events.ledger import Entry
from insurance_fund.fund import intake
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.streams import recovery
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.gate import DeadlineGate, Passage
from insurance_fund.streams.log import NewRecord, Outbound, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.simulator.client import SimulatedLog
from insurance_fund.streams.simulator.faults import Fault, Kind, random_faults
from insurance_fund.streams.simulator.play import Build, build
from insurance_fund.streams.simulator.run import SHARD, Run
from insurance_fund.streams.simulator.scenario import Scenario, random_scenario
from insurance_fund.streams.simulator.trial import INPUTS, disturbed, undisturbed

SEEDS: Final = 500

Prepared = tuple[Scenario, Run, Sequence[Fault]]


def prepared() -> Iterator[Prepared]:
    """Yield scenarios with faults, made up and played once with every protection on."""
    for seed in range(SEEDS):
        scenario = random_scenario(seed, INPUTS)
        calm = undisturbed(scenario)
        yield scenario, calm, random_faults(seed, scenario, calm.calls)


def is_found(
    words: str,
    build_of: Callable[[], Build] = lambda: build,
    broker_of: Callable[[Scenario], Broker] | None = None,
    wanted: Callable[[Sequence[Fault]], bool] = lambda _: True,
) -> bool:
    """Tell whether the checks find what the protection is there for, with any of the seeds."""
    for scenario, calm, faults in prepared():
        if not wanted(faults):
            continue
        broker = None if broker_of is None else broker_of(scenario)
        _, found = disturbed(scenario, faults, calm, build=build_of(), broker=broker)
        if any(words in finding for finding in found):
            return True
    return False


def is_found_in_both(
    words: str, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, to: Any
) -> bool:
    """Tell the same where the run without faults lacks the protection as well."""
    for scenario, _, faults in prepared():
        with monkeypatch.context() as broken:
            broken.setattr(where, name, to)
            calm = undisturbed(scenario)
            _, found = disturbed(scenario, faults, calm)
        if any(words in finding for finding in found):
            return True
    return False


class UnfencedBroker(Broker):
    """Lets writers of the past commit."""

    def check_epoch(self, shard: str, epoch: int) -> None:
        pass


class TornBroker(Broker):
    """Lets entries be seen before the messages that belong to them are committed."""

    def begin(self, shard: str, epoch: int, messages: Any) -> Any:
        sent = dict(messages)
        self.publish(topics.FUND_LEDGER, sent.pop(topics.FUND_LEDGER))
        return super().begin(shard, epoch, sent)


class Wrapped(SimulatedLog):
    """A connection that does something else on the way to the real one."""

    def __init__(self, log: SimulatedLog) -> None:
        super().__init__(log.broker, log.calls)
        self._log = log

    async def take(self, shard: str) -> None:
        await self._log.take(shard)

    async def wait(self, timeout_s: float) -> None:
        await self._log.wait(timeout_s)

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        await self._log.commit(ledger, entries, messages)


class LateTaker(Wrapped):
    """Takes its shard only when it first commits or waits, after the ledger was read."""

    _wanted: str | None = None

    async def take(self, shard: str) -> None:
        self._wanted = shard

    async def wait(self, timeout_s: float) -> None:
        await self._take()
        await super().wait(timeout_s)

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        await self._take()
        await super().commit(ledger, entries, messages)

    async def _take(self) -> None:
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            await super().take(wanted)


class Insister(Wrapped):
    """Commits again where it does not know whether a commit has happened."""

    async def commit(
        self, ledger: TopicPartition, entries: Sequence[NewRecord], messages: Sequence[Outbound]
    ) -> None:
        try:
            await super().commit(ledger, entries, messages)
        except CommitUnknownError:
            await super().commit(ledger, entries, messages)


class Forgetful(Processor):
    """Keeps its positions beside the ledger, noted after each commit."""

    def __init__(self, log: SimulatedLog, options: Options, clock: Clock, noted: Any) -> None:
        super().__init__(log, SHARD, options, clock, on_commit=lambda _: self._note())
        self._noted = noted

    async def start(self, progress: Any = None) -> None:
        await super().start(progress)
        if self.started:
            self.inputs.next_offsets = dict(self._noted)

    def _note(self) -> None:
        self._noted.clear()
        self._noted.update(self.inputs.next_offsets)


def through(wrapper: Callable[[SimulatedLog], SimulatedLog]) -> Callable[[], Build]:
    return lambda: lambda log, options, clock: build(wrapper(log), options, clock)


def test_every_protection_on_finds_nothing() -> None:
    for _, (scenario, calm, faults) in zip(range(20), prepared(), strict=False):
        assert disturbed(scenario, faults, calm)[1] == []


def test_without_fencing_something_is_found() -> None:
    assert is_found(
        "covered more than once",
        broker_of=lambda scenario: UnfencedBroker(holes=scenario.holes),
    )


def test_without_transactions_something_is_found() -> None:
    assert is_found(
        "are listed and were not sent",
        broker_of=lambda scenario: TornBroker(holes=scenario.holes),
    )


def test_reading_the_ledger_before_fencing_is_found() -> None:
    assert is_found("covered more than once", through(LateTaker))


def test_positions_outside_the_ledger_are_found() -> None:
    def build_of() -> Build:
        noted: dict[TopicPartition, int] = {}
        return lambda log, options, clock: Forgetful(log, options, clock, noted)

    assert is_found("covered more than once", build_of)


def test_going_on_after_a_lost_reply_is_found() -> None:
    assert is_found("covered more than once", through(Insister))


def damaging(faults: Sequence[Fault]) -> bool:
    return any(fault.kind == Kind.LEDGER_DAMAGED for fault in faults)


def test_recovery_without_the_chain_check_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply_anyway(state: State, entry: Entry, sha256: str) -> None:
        # The sequence alone tells of an entry that is lost, not of one that was altered.
        state.head = entry.previous
        apply_entry(state, entry, sha256)

    monkeypatch.setattr(recovery, "apply_entry", apply_anyway)
    assert is_found("the damaged ledger had", wanted=damaging)


def test_without_deduplication_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **_options: Any) -> bool:
        return False

    assert is_found_in_both("is booked 2 times", monkeypatch, intake, "is_duplicate", never)


def test_without_the_deadline_gate_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(*_: Any) -> Passage:
        return Passage({}, capped=False)

    words = "was taken before the backlog"
    assert is_found_in_both(words, monkeypatch, DeadlineGate, "passage", at_once)
