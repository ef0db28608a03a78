"""The processor by the wall clock: what it takes, in which order and when, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import ClockError, CommitUnknownError, FencedError
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.processor import Processor
from tests.embedded.shard import (
    DUE_MS,
    GARBAGE,
    HANG_S,
    HOUR_MS,
    LEDGER,
    ORDINARY,
    ManualClock,
    Site,
    at_once,
    clock_causes,
    deposit,
    fill,
    fills,
    in_turn,
    instrument,
    kinds,
    story,
    takeover,
)
from tests.unit.life import START_MS

ORDER = "order:liq-7/liq-7:1"
OPENED = ["policy", "instruments:0:0", "fund-transfers:0:0", "liquidations:0:0"]


class TestPoll:
    async def test_instruments_are_read_to_their_end_before_anything_else(self, site: Site) -> None:
        await site.publish("liquidations", takeover(instrument_id="I4"))
        await site.publish("fund-transfers", deposit())
        await site.publish("instruments", *[instrument(instrument_id=f"I{n}") for n in range(5)])
        await site.settle(batch_max=2)
        defined = [f"instruments:0:{offset}" for offset in range(5)]
        rest = ["fund-transfers:0:0", "liquidations:0:0"]
        assert await site.story() == ["policy", *defined, *rest]
        assert kinds((await site.entries())[-1])[0] == "position_taken_over"

    async def test_poll_takes_instruments_transfers_liquidations_and_fills_in_this_order(
        self, site: Site
    ) -> None:
        await site.publish("instruments", instrument())

        def publish(_: Processor) -> None:
            # At the commit of the instruments: one poll finds all of this.
            for partition in (1, 0):
                site.publish_now("fills", GARBAGE, GARBAGE, partition=partition)
            site.publish_now("liquidations", takeover())
            site.publish_now("fund-transfers", deposit())
            site.publish_now("instruments", instrument(instrument_id="I2"))

        processor = await site.start(on_commit=in_turn(None, publish))
        await processor.run()
        assert (await site.story())[2:] == [
            "instruments:0:1",
            "fund-transfers:0:0",
            "liquidations:0:0",
            *("fills:0:0", "fills:0:1"),
            *("fills:1:0", "fills:1:1"),
        ]

    async def test_clock_is_read_once_for_all_that_a_poll_takes(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle()
        clock.advance(HOUR_MS)
        clock.tick_ms = 7
        await site.publish("fund-transfers", deposit("d2"), deposit("d3"))
        await site.publish("fills", *fills(0, 2))
        before = len(await site.entries())
        await site.settle()
        entries = (await site.entries())[before:]
        assert len(story(entries)) == 5
        assert story(entries)[-1] == ORDER
        (now_ms,) = {entry.now_ms for entry in entries}
        assert now_ms in clock.readings

    async def test_clock_is_read_anew_for_the_next_poll(
        self, site: Site, clock: ManualClock
    ) -> None:
        clock.tick_ms = 7
        await site.publish("fund-transfers", *[deposit(f"d{n}") for n in range(3)])
        await site.settle(batch_max=1)
        times = [entry.now_ms for entry in (await site.entries())[1:]]
        assert times == [times[0], times[0] + 7, times[0] + 14]

    @pytest.mark.parametrize("batch_max", [1, 3, 5_000])
    async def test_everything_is_taken_once_whatever_a_batch_may_hold(
        self, site: Site, batch_max: int
    ) -> None:
        await site.open_fund(takeover())
        await site.publish("fills", *fills(0, 7))
        await site.publish("fills", *fills(7, 5), partition=3)
        processor = await site.settle(batch_max=batch_max)
        told = await site.story()
        taken = {*(f"fills:0:{n}" for n in range(7)), *(f"fills:3:{n}" for n in range(5))}
        assert (set(told[4:]), len(told)) == (taken, 16)
        assert processor.entries_written == 16

    async def test_nothing_is_written_when_there_is_nothing_to_read_and_nothing_due(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle()
        before = await site.lines()
        clock.advance(31_999)
        async with site.running() as processor:
            await site.publish("fills", ORDINARY)
            await site.until(lambda: processor.inputs.skipped_total == 1)
            polls = len(clock.readings)
            await site.publish("fills", ORDINARY)
            await site.until(lambda: len(clock.readings) > polls + 1)
        assert (await site.lines(), processor.entries_written) == (before, 0)

    async def test_stopped_processor_ends_after_the_transaction_in_hand_and_the_next_goes_on(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover())
        await site.publish("fills", *fills(0, 6))
        await site.settle(batch_max=2, on_commit=in_turn(None, None, None, Processor.stop))
        assert await site.story() == [*OPENED, "fills:0:0", "fills:0:1"]
        await site.settle()
        assert await site.story() == [*OPENED, *(f"fills:0:{n}" for n in range(6))]

    async def test_records_that_come_while_it_runs_are_taken(self, site: Site) -> None:
        await site.open_fund(takeover())
        async with site.running() as processor:
            await site.until(lambda: processor.state.sequence == 4)
            await site.publish("fills", fill("f0"))
            await site.until(lambda: processor.entries_written == 5)
        assert await site.story() == [*OPENED, "fills:0:0"]


class TestClock:
    async def test_deadline_is_not_taken_a_millisecond_too_early(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle()
        clock.advance(DUE_MS - START_MS - 1)
        await site.settle()
        assert await site.story() == OPENED
        clock.advance(1)
        await site.settle()
        assert await site.story() == [*OPENED, ORDER]

    async def test_deadline_is_taken_at_the_time_of_the_poll_that_finds_it_due(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle()
        clock.advance(HOUR_MS)
        await site.settle()
        last = (await site.entries())[-1]
        assert last.now_ms == START_MS + HOUR_MS
        (cause,) = clock_causes([last])
        assert (cause.deadline, cause.due_ms) == (ORDER, DUE_MS)

    async def test_deadlines_are_taken_by_time_and_then_by_name(
        self, site: Site, clock: ManualClock
    ) -> None:
        lifetimes = {"I1": {"attempts": [["0.01", 1_000]]}, "I2": {"attempts": [["0.01", 900]]}}
        terms = [instrument(instrument_id=name) for name in ("I1", "I2")]
        await site.publish("instruments", *terms)
        await site.publish("fund-transfers", deposit())
        for name, of in (("c", "I1"), ("b", "I2"), ("a", "I1")):
            await site.publish("liquidations", takeover(name, instrument_id=of))
        await site.settle(policy={"instruments": lifetimes})
        clock.advance(HOUR_MS)
        await site.settle()
        taken = [cause.deadline for cause in clock_causes(await site.entries())]
        assert taken == ["order:b/b:1", "order:a/a:1", "order:c/c:1"]

    async def test_deadline_that_another_one_makes_due_is_taken_in_the_same_run(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle(policy={"reservation_hold_ms": 0})
        clock.advance(HOUR_MS)
        await site.settle()
        assert await site.story() == [*OPENED, ORDER, "hold:liq-7/liq-7:1"]

    async def test_time_of_the_ledger_stands_still_while_the_wall_clock_goes_back(
        self, site: Site, clock: ManualClock
    ) -> None:
        def go_back(_: Processor) -> None:
            clock.jump(-4_000)
            site.publish_now("fund-transfers", deposit("d2"))

        await site.publish("fund-transfers", deposit())
        await site.settle(on_commit=in_turn(None, go_back))
        assert [entry.now_ms for entry in await site.entries()] == [START_MS] * 3

    async def test_restart_on_a_wall_clock_that_is_behind_goes_on_at_the_time_of_the_ledger(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.settle()
        clock.jump(-5_000)
        await site.publish("fund-transfers", deposit())
        await site.settle()
        assert [entry.now_ms for entry in await site.entries()] == [START_MS] * 2

    async def test_start_is_refused_where_the_ledger_is_more_than_5_s_ahead(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.settle()
        before = await site.lines()
        clock.jump(-5_001)
        with pytest.raises(ClockError, match="5001 ms ahead of this machine's clock"):
            await site.settle(policy={"parked_ms": 1})
        assert await site.lines() == before

    @pytest.mark.parametrize("jump_ms", [5_001, -5_001])
    async def test_wall_clock_that_jumps_against_the_monotonic_one_halts_before_the_batch(
        self, site: Site, clock: ManualClock, jump_ms: int
    ) -> None:
        def jump(_: Processor) -> None:
            clock.jump(jump_ms)
            site.publish_now("fund-transfers", deposit("d2"))

        await site.publish("fund-transfers", deposit())
        with pytest.raises(ClockError, match=f"jumped by {jump_ms} ms"):
            await site.settle(on_commit=in_turn(None, jump))
        assert await site.story() == ["policy", "fund-transfers:0:0"]

    @pytest.mark.parametrize("jump_ms", [5_000, -5_000])
    async def test_wall_clock_that_is_set_by_5_s_is_followed(
        self, site: Site, clock: ManualClock, jump_ms: int
    ) -> None:
        def jump(_: Processor) -> None:
            clock.jump(jump_ms)
            site.publish_now("fund-transfers", deposit("d2"))

        await site.publish("fund-transfers", deposit())
        await site.settle(on_commit=in_turn(None, jump))
        assert (await site.entries())[-1].now_ms == START_MS + max(0, jump_ms)

    async def test_time_that_passes_on_both_clocks_is_no_jump(
        self, site: Site, clock: ManualClock
    ) -> None:
        def pass_time(_: Processor) -> None:
            clock.advance(HOUR_MS)
            site.publish_now("fund-transfers", deposit("d2"))

        await site.publish("fund-transfers", deposit())
        await site.settle(on_commit=in_turn(None, pass_time))
        assert (await site.entries())[-1].now_ms == START_MS + HOUR_MS


class TestUntilIdle:
    async def test_open_orders_stay_open_when_nothing_is_due(self, site: Site) -> None:
        await site.open_fund(takeover())
        processor = await site.settle()
        assert processor.state.liquidations["liq-7"].orders["liq-7:1"].status == "open"
        assert processor.state.schedule.first() == (DUE_MS, ORDER)

    async def test_it_goes_on_while_inputs_come(self, site: Site) -> None:
        more = [lambda _, n=n: site.publish_now("fund-transfers", deposit(f"d{n}")) for n in "abc"]
        await site.publish("fund-transfers", deposit())
        await site.settle(on_commit=in_turn(None, *more))
        assert len(await site.entries()) == 5

    async def test_record_that_comes_with_the_last_deadline_is_still_taken(
        self, site: Site, clock: ManualClock
    ) -> None:
        def publish(_: Processor) -> None:
            site.publish_now("fund-transfers", deposit("d2"))

        await site.open_fund(takeover())
        await site.settle()
        clock.advance(HOUR_MS)
        await site.settle(on_commit=in_turn(publish))
        assert await site.story() == [*OPENED, ORDER, "fund-transfers:0:1"]

    async def test_inputs_that_end_in_holes_are_at_their_ends(self, site: Site) -> None:
        await site.publish("fund-transfers", *[deposit(f"d{n}") for n in range(4)])
        transfers = LEDGER._replace(topic=topics.FUND_TRANSFERS)
        site.delete(transfers, "offset IN (1, 3)")
        await site.settle()
        assert await site.story() == ["policy", "fund-transfers:0:0", "fund-transfers:0:2"]


class TestFilter:
    NO_ENTRY = (None, b"", b"null", ORDINARY, b"\xff\xfe", b"{", b"liquidation_id", b"[" * 99)

    async def test_fills_without_the_bytes_make_no_entry_whatever_they_are(
        self, site: Site
    ) -> None:
        await site.publish("fills", *self.NO_ENTRY, fill("f0"))
        processor = await site.settle()
        assert await site.story() == ["policy", f"fills:0:{len(self.NO_ENTRY)}"]
        assert processor.inputs.skipped_total == len(self.NO_ENTRY)

    @pytest.mark.parametrize("topic", ["instruments", "fund-transfers", "liquidations"])
    async def test_the_same_on_another_topic_is_rejected(self, site: Site, topic: str) -> None:
        await site.publish(topic, *self.NO_ENTRY)
        processor = await site.settle()
        assert [kinds(entry) for entry in (await site.entries())[1:]] == [["rejected"]] * 8
        assert len(await site.messages("dead-letters")) == 8
        assert processor.inputs.skipped_total == 0

    async def test_garbage_with_the_bytes_is_rejected_on_fills(self, site: Site) -> None:
        await site.publish("fills", GARBAGE, b'["liquidation_id"]', b'\xff"liquidation_id"')
        await site.settle()
        assert [kinds(entry) for entry in (await site.entries())[1:]] == [["rejected"]] * 3


class TestFencing:
    async def test_second_start_fences_the_first_whose_next_commit_leaves_nothing(
        self, site: Site
    ) -> None:
        first = await site.start()
        second = await site.start()
        await site.open_fund(takeover())
        before = await site.lines()
        with pytest.raises(FencedError):
            await first.run()
        assert await site.lines() == before
        assert await site.messages("liquidation-orders") == []
        await second.run()
        assert await site.story() == OPENED

    async def test_fence_stands_before_the_ledger_is_read(self, site: Site) -> None:
        await site.settle()
        old, refused = site.open(), []
        await old.take("main")

        def commit_as_the_old_one(_offset: int, _end: int) -> None:
            with pytest.raises(FencedError):
                at_once(old.commit(LEDGER, [NewRecord(0, b"main", b"zombie")], []))
            refused.append(True)

        await site.start(progress=commit_as_the_old_one)
        assert refused == [True]

    async def test_unknown_outcome_of_a_commit_ends_the_run_and_a_restart_reads_what_is_true(
        self, site: Site
    ) -> None:
        log = site.open()
        processor = await site.start(log=log)
        await site.publish("fund-transfers", deposit(), deposit("d2"))
        # A constraint that SQLite checks at COMMIT only: the one moment whose failure is unknown.
        for statement in (
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TRIGGER fail AFTER INSERT ON records BEGIN INSERT INTO child VALUES (1); END",
        ):
            site.sql_on(LEDGER, statement)
        log._connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(CommitUnknownError):
            async with asyncio.timeout(HANG_S):
                await processor.run()
        assert await site.story() == ["policy"]
        site.sql_on(LEDGER, "DROP TRIGGER fail")
        await site.settle()
        assert await site.story() == ["policy", "fund-transfers:0:0", "fund-transfers:0:1"]
