"""The processor: reads inputs, keeps the ledger, commits. One shard, one writer.

Start: (1) take the shard, so that older writers can no longer commit; (2) read the ledger to its
end and evolve it; (3) compare the inputs with the positions in the ledger; (4) write the policy if
it changed; (5) run. Loop: read; for each record decide, evolve, write; one atomic commit of
entries and messages. Any doubt about a commit ends the process; a restart reads what is true.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from insurance_fund.events import topics
from insurance_fund.events.codec import Decoder, Refusal
from insurance_fund.events.fields import Clock as ClockMode
from insurance_fund.events.ledger import CheckpointCause, ClockCause
from insurance_fund.fund.bookkeeper import Bookkeeper, Written
from insurance_fund.fund.intake import in_reach
from insurance_fund.fund.policy import Policy
from insurance_fund.fund.state import State
from insurance_fund.streams.adapters import Adapter
from insurance_fund.streams.clocks import Clock, LedgerClock
from insurance_fund.streams.gate import DeadlineGate, Passage
from insurance_fund.streams.inputs import Inputs, Shard, Taken
from insurance_fund.streams.log import LogPublisher, LogWriter, NewRecord, TopicPartition
from insurance_fund.streams.merge import EventMerge, Head
from insurance_fund.streams.opening import clock_mode, policy_cause, refuse_taken
from insurance_fund.streams.outbox import Outbox
from insurance_fund.streams.recovery import Recovered, check_inputs, recover
from insurance_fund.streams.snapshot_writer import SnapshotWriter

_log = logging.getLogger(__name__)

CHECKPOINT_SKIPPED: Final = 100_000
CHECKPOINT_MS: Final = 60_000
# Longer than a healthy producer's transaction takes.
PINNED_WARN_MS: Final = 10_000
IDLE_WAIT_S: Final = 0.5
HELD_WAIT_S: Final = 0.02
# While records may still come, one of them may have to be taken in front of any deadline.
NO_DEADLINE_MS: Final = -1
# With the largest records a transaction stays far below what memory and a broker's time-out allow.
PENDING_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How a shard runs. None for `policy` or `clock` keeps what the ledger has.

    A snapshot is written once a recovery would have `snapshot_entries` to fold; 0 for none.
    `adapters` are those of the input topics that have one.
    """

    clock: ClockMode | None = None
    policy: Policy | None = None
    batch_max: int = 5_000
    record_bytes_max: int = 1024 * 1024
    deadline_wait_ms_max: int = 600_000
    snapshot_entries: int = 100_000
    until_idle: bool = False
    adapters: Mapping[str, Adapter] = field(default_factory=dict)


class Observer(Protocol):
    """Is told of each transaction, and has no part in it: it must not raise."""

    def committing(self) -> None:
        """Learn that a transaction begins."""
        ...

    def committed(self, written: Sequence[Written]) -> None:
        """Learn that it is done, with these entries; the state is what they have come to."""
        ...


class Processor:
    """Runs one shard on a log until it is stopped, idle, or fails."""

    def __init__(
        self,
        log: LogWriter,
        shard: Shard,
        options: Options,
        clock: Clock,
        on_commit: Callable[[Processor], None] | None = None,
        *,
        snapshots: LogPublisher | None = None,
    ) -> None:
        self._log = log
        self._options = options
        self._clock = clock
        self._on_commit = on_commit
        self._publisher = snapshots
        self._snapshots: SnapshotWriter | None = None
        self._stop = asyncio.Event()
        self.shard = shard
        self.ledger = TopicPartition(topics.FUND_LEDGER, shard.index)
        self.decoder = Decoder(options.record_bytes_max)
        self.recovered = Recovered()
        self.observer: Observer | None = None
        self.entries_written = 0
        self.started = False
        self._pending: list[Written] = []
        self._pending_bytes = 0
        # What cannot be read yet, and since when that is known or was told.
        self._pinned: tuple[TopicPartition, int] | None = None

    @property
    def state(self) -> State:
        """Return the state of the ledger."""
        return self.recovered.state

    def stop(self) -> None:
        """Ask the processor to end after the transaction in hand."""
        self._stop.set()

    async def start(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Take the shard and recover it; see the module for the order and why.

        Asked to stop while it recovers, it leaves `started` false, and `run` ends at once.
        """
        await self._log.take(self.shard.name)
        self.recovered = await recover(
            self._log, self.ledger, self.shard.name, progress, self._stop.is_set
        )
        if self._stop.is_set():
            return
        await check_inputs(self._log, self.recovered.positions)
        if self._publisher is not None and self._options.snapshot_entries:
            self._snapshots = SnapshotWriter(
                self._log,
                self._publisher,
                self.ledger,
                self._options.snapshot_entries,
                self.recovered.snapshot,
            )
        self._keeper = Bookkeeper(self.shard.name, self.state, self.decoder)
        self.inputs = Inputs(
            self._log,
            self.shard,
            self.decoder,
            self.recovered.positions,
            self._options.adapters,
        )
        self._gate = DeadlineGate(self._log, self._options.deadline_wait_ms_max)
        self.mode = clock_mode(self.state, self.shard, self._options.clock)
        self._ledger_clock = (
            LedgerClock(self._clock, self.state.now_ms) if self.mode == "wall" else None
        )
        self._merge = EventMerge(self._log, self.inputs, self._options.batch_max)
        cause = policy_cause(self.state, self.shard, self._options.policy, self.mode)
        if cause is not None:
            routings = (self.state.routing, cause.routing)
            await refuse_taken(self._log, self.ledger, self.shard.name, *routings)
            self._keep(self._keeper.policy(cause, self._now_ms()))
        self._outbox = await Outbox.of(self._log, self.shard.name)
        await self._commit()
        self.started = True

    def _now_ms(self) -> int:
        return self.state.now_ms if self._ledger_clock is None else self._ledger_clock.now_ms()

    async def run(self) -> None:
        """Process until stopped or, with `until_idle`, until nothing is left to do."""
        if not self.started:
            return
        await (self._run_wall() if self.mode == "wall" else self._run_event())

    async def _run_event(self) -> None:
        while True:
            await self.advance(None if self._options.until_idle else NO_DEADLINE_MS)
            if self._stop.is_set() or self._options.until_idle:
                return
            await self._log.wait(IDLE_WAIT_S)

    async def advance(self, until_ms: int | None) -> None:
        """Take every record that is there, then each deadline due by `until_ms` (None: any).

        For event mode, and for whoever plays the world in lockstep with the fund: it publishes what
        happens up to a time, lets the fund come to that time, and sees what came of it.
        """
        while not self._stop.is_set():
            head = await self._merge.head()
            if head is not None:
                await self._take_in_time(head)
                await self._merge.pop()
            elif self._merge.pinned is not None:
                await self._commit()
                await self._wait_for(self._merge.pinned)
            elif self.inputs.skipped >= CHECKPOINT_SKIPPED:
                # Only here: whatever was read ahead has been taken, so positions may move.
                self._write_checkpoint(self.state.now_ms)
            elif not self._take_next_deadline(until_ms):
                break
            await self._commit_full()
        await self._commit()

    async def _wait_for(self, pinned: TopicPartition) -> None:
        now_ms = self._clock.monotonic_ms()
        if self._pinned is None or self._pinned[0] != pinned:
            self._pinned = (pinned, now_ms)
        elif now_ms - self._pinned[1] >= PINNED_WARN_MS:
            self._pinned = (pinned, now_ms)
            _log.warning(
                "%s from offset %d on: records are there that nobody may read yet, and one could "
                "be the next; is a producer's transaction still open?",
                pinned,
                self.inputs.next_offsets[pinned],
            )
        await self._log.wait(IDLE_WAIT_S)

    async def _take_in_time(self, head: Head) -> None:
        # A record out of reach is refused; it must neither move the clock nor make anything due.
        # While nothing was accepted, whatever cannot be decoded is out of reach.
        now_ms = self.state.now_ms
        refused = isinstance(head.taken.decoded, Refusal)
        unsure = refused and self.state.newest_event_ms is None
        if not unsure and in_reach(self.state, head.time_ms):
            while self._take_next_deadline(head.time_ms):
                await self._commit_full()
            now_ms = max(self.state.now_ms, head.time_ms)
        self._take(head.taken, now_ms)

    def _take_next_deadline(self, until_ms: int | None) -> bool:
        first = self.state.schedule.first()
        if first is None or (until_ms is not None and first[0] > until_ms):
            return False
        due_ms, name = first
        now_ms = max(self.state.now_ms, due_ms)
        self._take_deadline(due_ms, name, now_ms, Passage({}, capped=False))
        return True

    async def _run_wall(self) -> None:
        await self._read_instruments()
        while not self._stop.is_set():
            now_ms = self._now_ms()
            read = await self._poll(now_ms)
            waiting = await self._take_due(now_ms)
            if self._checkpoint_is_due(now_ms):
                self._write_checkpoint(now_ms)
            await self._commit()
            if read:
                await asyncio.sleep(0)
            elif self._options.until_idle and not waiting and await self.inputs.at_ends():
                return
            else:
                await self._idle(now_ms)

    async def _idle(self, now_ms: int) -> None:
        first = self.state.schedule.first()
        timeout_s = IDLE_WAIT_S
        if first is not None:
            # What is due already is held until more was read, and need not be looked at sooner.
            due_s = (first[0] - now_ms) / 1000
            timeout_s = min(timeout_s, due_s if due_s > 0 else HELD_WAIT_S)
        await self._log.wait(timeout_s)

    async def _read_instruments(self) -> None:
        now_ms = self._now_ms()
        for where in await self.inputs.partitions(topics.INSTRUMENTS):
            while not self._stop.is_set() and await self._take_from(where, now_ms):
                await self._commit()

    async def _poll(self, now_ms: int) -> int:
        read = 0
        for topic in topics.INPUT_TOPICS:
            for where in await self.inputs.partitions(topic):
                read += await self._take_from(where, now_ms)
                await self._commit_full()
        return read

    async def _take_from(self, where: TopicPartition, now_ms: int) -> int:
        taken, read = await self.inputs.read(where, self._options.batch_max)
        for one in taken:
            self._take(one, now_ms)
        return read

    def _take(self, taken: Taken, now_ms: int) -> None:
        where, record = taken.where, taken.record
        self._keep(
            self._keeper.record(
                where.topic,
                where.partition,
                record.offset,
                record.timestamp_ms,
                record.value,
                now_ms,
                taken.decoded,
                taken.made,
            )
        )

    def _take_deadline(self, due_ms: int, name: str, now_ms: int, passage: Passage) -> None:
        cause = ClockCause(
            deadline=name, due_ms=due_ms, read_to=passage.read_to, capped=passage.capped
        )
        self._keep(self._keeper.deadline(cause, now_ms))

    async def _take_due(self, now_ms: int) -> bool:
        """Take what is due and may pass, always the first due; tell whether some must still wait.

        What taking one has made due is taken in its turn, so a restart in between takes the same.
        """
        schedule, monotonic_ms = self.state.schedule, self._clock.monotonic_ms()
        waiting: list[tuple[int, str]] = []
        await self._gate.note(schedule.due(now_ms), monotonic_ms)
        while not self._stop.is_set():
            first = schedule.first()
            if first is None or first[0] > now_ms:
                break
            if not self._gate.knows(first):
                await self._gate.note(schedule.due(now_ms), monotonic_ms)
            passage = self._gate.passage(first, self.inputs.next_offsets, monotonic_ms)
            if passage is None:
                waiting.append(schedule.set_aside())
            else:
                due_ms, name = first
                self._take_deadline(due_ms, name, now_ms, passage)
                await self._commit_full()
        schedule.put_back(waiting)
        return bool(waiting) or self._stop.is_set()

    def _checkpoint_is_due(self, now_ms: int) -> bool:
        if self.inputs.skipped >= CHECKPOINT_SKIPPED:
            return True
        # By the ledger's own time: a restart in between neither hastens nor delays it.
        return bool(self.inputs.skipped) and now_ms - self.state.now_ms >= CHECKPOINT_MS

    def _write_checkpoint(self, now_ms: int) -> None:
        """Write down positions that moved over skipped records, if any did."""
        moved = self.inputs.moved_over(self.recovered.positions)
        self.inputs.skipped = 0
        if moved:
            self._keep(self._keeper.checkpoint(CheckpointCause(positions=moved), now_ms))

    def _keep(self, written: Written) -> None:
        self._pending.append(written)
        self._pending_bytes += len(written.line)
        self.recovered.move(written.entry.cause)

    async def _commit_full(self) -> None:
        """Commit if a whole transaction is pending, and give others a turn."""
        full = self._pending_bytes >= PENDING_BYTES_MAX
        if full or len(self._pending) >= self._options.batch_max:
            await self._commit()
            await asyncio.sleep(0)

    async def _commit(self) -> None:
        if not self._pending:
            return
        key = self.shard.name.encode()
        entries = [NewRecord(self.ledger.partition, key, w.line) for w in self._pending]
        messages = [self._outbox.outbound(m) for w in self._pending for m in w.messages]
        if self.observer is not None:
            self.observer.committing()
        await self._log.commit(self.ledger, entries, messages)
        self.entries_written += len(entries)
        written, self._pending, self._pending_bytes = self._pending, [], 0
        if self.observer is not None:
            self.observer.committed(written)
        if self._on_commit is not None:
            self._on_commit(self)
        if self._snapshots is not None and self._snapshots.is_due(self.state):
            await self._snapshots.write(self.state, self.recovered.positions)
