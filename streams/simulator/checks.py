"""What must be true after a scenario, whatever went wrong in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import ClockCause, Entry, InputCause, decode_entry, sha256_hex
from insurance_fund.streams.log import Record, TopicPartition
from insurance_fund.streams.simulator.run import Run
from insurance_fund.streams.simulator.scenario import TAKEN, Scenario
from insurance_fund.streams.verify import Verifier

# The deadlines that must wait for the backlog, in the words of the rules: not those of the code.
GATED: Final = ("order:", "replacement:", "first_order:")
CALLS_MORE: Final = 500


def calls_allowed(undisturbed: Run) -> int:
    """Return in how many calls a process must come to the end after the last fault."""
    return 2 * undisturbed.calls + CALLS_MORE


def findings(scenario: Scenario, run: Run, undisturbed: Run) -> list[str]:
    """Return what is wrong with a run; `undisturbed` is the same scenario without faults."""
    if run.damaged_length is not None:
        return [*run.troubles, *_halted(run, undisturbed)]
    lines = run.lines
    found = list(run.troubles)
    if run.calls - run.last_fault > calls_allowed(undisturbed):
        found.append(f"{run.calls - run.last_fault} calls after the last fault: no progress")
    if run.observed != lines:
        found.append("a reader saw entries that are not, or not so, in the final ledger")
    verifier = Verifier()
    for line in lines:
        verifier.take(line)
    report = verifier.finish()
    found += [f"sequence {finding.sequence}: {finding.message}" for finding in report.findings]
    found += _emitted(run, Counter((one.topic, one.sha256) for one in verifier.emitted))
    if _messages(run) != _messages(undisturbed):
        found.append("messages stand elsewhere, or otherwise, than without faults")
    try:
        entries = [decode_entry(line) for line in lines]
    except CorruptionError as error:
        return [*found, str(error)]
    found += _covered(run, entries)
    found += _booked_once(entries)
    if scenario.clock == "wall":
        found += _gated(scenario, run, entries)
    if lines != undisturbed.lines:
        found.append(_difference(lines, undisturbed.lines))
    return found


def _halted(run: Run, undisturbed: Run) -> Iterator[str]:
    """Find what was written to a ledger after an entry was taken out of it."""
    if not run.endings["CorruptionError"]:
        yield "an entry of the ledger is lost or altered, and no process has halted"
    if len(run.lines) != run.damaged_length:
        yield f"the damaged ledger had {run.damaged_length} entries, now it has {len(run.lines)}"
    if len(set(run.lines) - set(undisturbed.lines)) > 1:
        yield "there are more entries than the altered one that are not there without faults"


def _emitted(run: Run, listed: Counter[tuple[str, str]]) -> Iterator[str]:
    sent = Counter(
        (topic, sha256_hex(one.record.value or b""))
        for topic in topics.OUTPUT_TOPICS
        for partition in run.broker.partitions(topic)
        for one in run.broker.appended_to(TopicPartition(topic, partition))
    )
    if sent != listed:
        extra, missing = sum((sent - listed).values()), sum((listed - sent).values())
        yield f"{extra} messages are listed by no entry, {missing} are listed and were not sent"


def _messages(run: Run) -> dict[TopicPartition, list[Any]]:
    """Return what was sent by partition, in order: key, value and headers."""
    return {
        (where := TopicPartition(topic, partition)): [
            (one.record.key, one.record.value, one.headers) for one in run.broker.appended_to(where)
        ]
        for topic in topics.OUTPUT_TOPICS
        for partition in run.broker.partitions(topic)
    }


def _inputs(run: Run) -> Iterator[tuple[TopicPartition, Record]]:
    """Yield every input record that must be covered, where it stands or once stood."""
    there = [(where, one.record) for where in TAKEN for one in run.broker.appended_to(where)]
    for where, record in [*run.expired, *there]:
        if where.topic != topics.FILLS or topics.FILLS_FILTER in (record.value or b""):
            yield where, record


def _causes(entries: list[Entry]) -> Iterator[tuple[Entry, tuple[str, int, int]]]:
    for entry in entries:
        cause = entry.cause
        if isinstance(cause, InputCause):
            yield entry, (cause.topic, cause.partition, cause.offset)


def _covered(run: Run, entries: list[Entry]) -> Iterator[str]:
    covered = Counter(where for _, where in _causes(entries))
    there = Counter((*where, record.offset) for where, record in _inputs(run))
    for where in sorted(there - covered):
        yield f"input {where} is covered by no entry"
    for where in sorted(covered - there):
        yield f"input {where} is covered more than once, or was never there"


def _booked_once(entries: list[Entry]) -> Iterator[str]:
    booked: Counter[tuple[str, ...]] = Counter()
    for entry in entries:
        for effect in entry.effects:
            if isinstance(effect, fx.FillBooked):
                booked["fill", effect.liquidation_id, effect.fill_id] += 1
            elif isinstance(effect, fx.AdlExecuted):
                booked["execution", effect.execution_id] += 1
            elif isinstance(effect, fx.PositionTakenOver):
                booked["takeover", effect.liquidation_id] += 1
            elif isinstance(effect, (fx.FundDeposited, fx.FundWithdrawn, fx.ShortfallPaid)):
                booked["transfer", effect.transfer_id] += 1
    for name, times in booked.items():
        if times > 1:
            yield f"{name} is booked {times} times"


def _gated(scenario: Scenario, run: Run, entries: list[Entry]) -> Iterator[str]:
    """Find deadlines that were taken in front of records that were there before they were due."""
    lied_about = {
        (where, wave.at_ms - 1) for wave in scenario.waves if wave.stale for where in wave.pinned
    }
    timestamps = {
        (*where, record.offset): record.timestamp_ms
        for where, record in _inputs(run)
        if where.topic in {topics.FILLS, topics.LIQUIDATIONS}
        and (where, record.timestamp_ms) not in lied_about
    }
    # The earliest time of what is still to come, read from the end.
    ahead_ms: dict[int, int] = {}
    earliest_ms = 2**62
    sequences: defaultdict[int, int] = defaultdict(lambda: 2**62)
    for entry, where in _causes(entries):
        sequences[entry.sequence] = timestamps.get(where, 2**62)
    for entry in reversed(entries):
        ahead_ms[entry.sequence] = earliest_ms
        earliest_ms = min(earliest_ms, sequences[entry.sequence])
    for entry in entries:
        cause = entry.cause
        if not isinstance(cause, ClockCause) or not cause.deadline.startswith(GATED):
            continue
        if cause.capped:
            yield f"sequence {entry.sequence}: {cause.deadline} did not wait to the end"
        if ahead_ms[entry.sequence] < entry.now_ms:
            yield f"sequence {entry.sequence}: {cause.deadline} was taken before the backlog"


def _difference(lines: list[bytes], expected: list[bytes]) -> str:
    for sequence, (one, other) in enumerate(zip(lines, expected, strict=False)):
        if one != other:
            return f"sequence {sequence} is not what it is without faults"
    return f"{len(lines)} entries where there are {len(expected)} without faults"
