"""Event mode: records by their own times, deadlines between them, the same bytes in every run."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.ledger import CheckpointCause
from insurance_fund.streams import processor as processor_module
from insurance_fund.streams.processor import Processor
from tests.embedded.shard import (
    FILLS,
    GARBAGE,
    HOUR_MS,
    ORDINARY,
    ManualClock,
    NoWallClock,
    Site,
    clock_causes,
    deposit,
    fill,
    instrument,
    report,
    story,
    submitted,
    takeover,
)
from tests.unit.life import START_MS as T

ORDER = "order:liq-7/liq-7:1"
WEEK_MS = 7 * 24 * HOUR_MS
# An order is dead a second after it was sent, and its reservation goes then too.
SHORT: dict[str, Any] = {
    "default": {"attempts": [["0.01", 1_000]]},
    "grace_ms": 0,
    "reservation_hold_ms": 0,
}
HOLD = "hold:liq-7/liq-7:1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    opened = Site(tmp_path / "log.db", NoWallClock())
    yield opened
    await opened.close()


async def settle(site: Site, **options: Any) -> list[tuple[str, int]]:
    """Run to the end; return what caused each entry behind the policy, and when after T."""
    await site.settle(clock="event", **options)
    return await told(site)


async def told(site: Site) -> list[tuple[str, int]]:
    entries = (await site.entries())[1:]
    times = [entry.now_ms - T for entry in entries]
    return list(zip(story(entries), times, strict=True))


async def publish_mixed(site: Site) -> None:
    """Publish a seeded mix: several partitions, disorder, equal times, poison and ends of orders.

    No fill is an ordinary one, so that nothing is skipped.
    """
    chance = random.Random(7)  # noqa: S311 - a case, not a secret
    await site.publish("instruments", instrument(T - 10))
    await site.publish("fund-transfers", deposit(time_ms=T - 10))
    now_ms = T
    for number in range(12):
        now_ms += chance.choice((0, 1, 500, 3_000))
        name = f"liq-{number}"
        order, where = f"{name}:1", number % 3
        await site.publish("liquidations", takeover(name, now_ms), partition=where)
        for part in range(chance.randrange(4)):
            at_ms = now_ms + chance.choice((-5, 0, 400, 1_000, 1_500))
            value = fill(f"f{part}", "20", order, at_ms)
            await site.publish("fills", value, partition=chance.randrange(2))
        if chance.random() < 0.5:
            at_ms = now_ms + chance.choice((0, 900, 1_000, 4_000))
            await site.publish(
                "liquidations", report(order, "expired", "0", at_ms), partition=where
            )
        if chance.random() < 0.5:
            topic = chance.choice(topics.INPUT_TOPICS)
            await site.publish(topic, *[GARBAGE] * chance.randrange(1, 4))
    await site.publish("fund-transfers", deposit("far", now_ms + WEEK_MS + HOUR_MS), GARBAGE)


class TestOrder:
    async def test_records_are_taken_by_time_topic_partition_and_offset_over_all_heads(
        self, site: Site
    ) -> None:
        await site.publish("fills", fill("f0", time_ms=T + 10), fill("f1", time_ms=T + 10))
        await site.publish("liquidations", takeover("b", T + 10), partition=1)
        await site.publish("liquidations", takeover("a", T + 10))
        await site.publish(
            "fund-transfers", deposit("d3", T + 10), deposit("d4", T + 5), partition=1
        )
        await site.publish("fund-transfers", deposit("d1", T + 10), deposit("d2", T + 11))
        await site.publish("instruments", instrument(T + 10))
        await site.publish("fills", fill("f2", time_ms=T + 9), partition=1)
        assert (await settle(site))[:9] == [
            ("fills:1:0", 9),
            ("instruments:0:0", 10),
            ("fund-transfers:0:0", 10),
            ("fund-transfers:1:0", 10),
            # Its time is before that of the record that stood in front of it.
            ("fund-transfers:1:1", 10),
            ("liquidations:0:0", 10),
            ("liquidations:1:0", 10),
            ("fills:0:0", 10),
            ("fills:0:1", 10),
        ]

    async def test_record_without_a_usable_time_takes_that_of_the_one_before_in_its_partition(
        self, site: Site
    ) -> None:
        late = GARBAGE.replace(b"broken", b"broken twice")
        await site.publish("fund-transfers", *[deposit(f"d{n}", T + n) for n in (50, 150)])
        await site.publish("liquidations", takeover(time_ms=T + 100), GARBAGE, late)
        assert await settle(site, policy={"parked_ms": 0}) == [
            ("fund-transfers:0:0", 50),
            ("liquidations:0:0", 100),
            ("parked:liquidations:0:0", 100),
            ("liquidations:0:1", 100),
            ("liquidations:0:2", 100),
            ("fund-transfers:0:1", 150),
        ]

    async def test_refused_record_with_a_usable_time_stands_at_that_time(self, site: Site) -> None:
        await site.publish("fund-transfers", *[deposit(f"d{n}", T + n) for n in (50, 150)])
        await site.publish("liquidations", takeover(time_ms=T + 100, margin="-1"))
        assert await settle(site) == [
            ("fund-transfers:0:0", 50),
            ("liquidations:0:0", 100),
            ("fund-transfers:0:1", 150),
        ]

    async def test_what_cannot_be_decoded_moves_no_clock_while_nothing_was_accepted(
        self, site: Site
    ) -> None:
        await site.publish("fills", GARBAGE)
        await site.publish("instruments", instrument(T + 10 * WEEK_MS, tick_size="-1"))
        await site.settle(clock="event")
        assert [entry.now_ms for entry in await site.entries()] == [0, 0, 0]

    @pytest.mark.parametrize(
        ("before", "restarted"),
        [([], False), ([], True), ([GARBAGE], False), ([GARBAGE], True)],
    )
    async def test_time_of_the_one_before_is_known_after_others_without_and_after_a_restart(
        self, site: Site, before: list[bytes], restarted: bool
    ) -> None:
        options: dict[str, Any] = {
            "clock": "event",
            "policy": {"default": {"order_pricing": "exchange"}, "grace_ms": 0},
        }
        await site.publish("instruments", instrument(T - 30))
        await site.publish("fills", fill("f0", order="of:nobody", time_ms=T - 20), *before)
        # An order that was over when it was submitted: due at T - 10.
        await site.publish("liquidations", takeover(), submitted("o1", "100", T - 10))
        taken = 5 + len(before)

        async def go_on(processor: Processor) -> None:
            await site.publish("fills", GARBAGE)
            await site.publish("fund-transfers", deposit(time_ms=T + 1))
            await site.until(lambda: processor.state.sequence == taken + 3)

        async with site.running(**options) as processor:
            await site.until(lambda: processor.state.sequence == taken)
            if not restarted:
                await go_on(processor)
        if restarted:
            async with site.running(**options) as processor:
                await go_on(processor)
        last = f"fills:0:{1 + len(before)}"
        assert (await site.story())[taken:] == [last, "order:liq-7/o1", "fund-transfers:0:0"]

    async def test_time_of_the_one_before_is_found_behind_records_too_large_to_be_read_at_once(
        self, site: Site
    ) -> None:
        # More than one read of a file gives, all within reach of the look back.
        padding = b',"padding":"' + b"x" * 900_000 + b'"}'
        large = [fill(f"f{n}", order="of:nobody", time_ms=T + n) for n in range(20)]
        await site.publish("fills", *(one[:-1] + padding for one in large))
        await site.settle(clock="event", policy={"parked_max": 1})
        await site.publish("fills", GARBAGE)
        await site.publish("fund-transfers", deposit(time_ms=T + 19))
        await site.settle()
        assert (await site.story())[-2:] == ["fund-transfers:0:0", "fills:0:20"]


class TestDeadlines:
    async def test_deadline_due_before_or_at_a_records_time_is_taken_in_front_of_it(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover())
        times = (999, 1_000, 1_001)
        records = [fill(f"f{n}", time_ms=T + n) for n in times]
        await site.publish("fills", *records)
        assert (await settle(site, policy=SHORT))[3:] == [
            ("fills:0:0", 999),
            (ORDER, 1_000),
            (HOLD, 1_000),
            ("fills:0:1", 1_000),
            ("fills:0:2", 1_001),
        ]

    async def test_deadlines_are_taken_in_order_of_time_and_name_at_their_own_times(
        self, site: Site
    ) -> None:
        attempts = {"default": {"attempts": [["0", 1_000], ["0.01", 500]]}}
        await site.open_fund(takeover("b"), takeover("a"), takeover("c", T + 600))
        await site.publish("fund-transfers", deposit("d2", T + HOUR_MS))
        assert (await settle(site, policy={**SHORT, **attempts}))[5:] == [
            ("order:a/a:1", 1_000),
            ("order:b/b:1", 1_000),
            ("order:a/a:2", 1_500),
            ("hold:a/a:2", 1_500),
            ("order:b/b:2", 1_500),
            ("hold:b/b:2", 1_500),
            ("order:c/c:1", 1_600),
            ("order:c/c:2", 2_100),
            ("hold:c/c:2", 2_100),
            ("fund-transfers:0:1", HOUR_MS),
        ]

    async def test_remaining_deadlines_are_taken_at_the_end_of_all_inputs(self, site: Site) -> None:
        await site.open_fund(takeover())
        processor = await site.settle(clock="event")
        assert (await told(site))[3:] == [(ORDER, 32_000), (HOLD, 632_000)]
        assert processor.state.schedule.first() is None

    async def test_causes_say_that_no_backlog_was_waited_for(self, site: Site) -> None:
        await site.open_fund(takeover())
        await settle(site)
        causes = clock_causes(await site.entries())
        assert [(cause.read_to, cause.capped) for cause in causes] == [({}, False)] * 2

    async def test_remaining_deadlines_stay_while_inputs_may_still_come(self, site: Site) -> None:
        await site.open_fund(takeover())
        async with site.running(clock="event") as processor:
            await site.until(lambda: processor.state.sequence == 4)
            await site.publish("fills", fill("f0", time_ms=T + 31_999))
            await site.until(lambda: processor.state.sequence == 5)
            assert ORDER in processor.state.deadlines
            await site.publish("fills", fill("f1", time_ms=T + 32_000))
            await site.until(lambda: processor.state.sequence == 7)
        assert (await site.story())[4:] == ["fills:0:0", ORDER, "fills:0:1"]


class TestJump:
    async def test_record_from_too_far_ahead_is_rejected_and_moves_no_clock(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover())
        far = T + WEEK_MS + 1
        await site.publish("fund-transfers", deposit("d2", far), GARBAGE)
        assert (await settle(site))[3:] == [
            ("fund-transfers:0:1", 0),
            # It stands at the time of the one before, which is out of reach.
            ("fund-transfers:0:2", 0),
            (ORDER, 32_000),
            (HOLD, 632_000),
        ]
        effects = [effect for entry in await site.entries() for effect in entry.effects]
        reasons = [effect.reason for effect in effects if isinstance(effect, fx.Rejected)]
        assert reasons == ["too_far_ahead", "not_json"]

    async def test_record_just_within_reach_is_accepted_behind_what_is_due_before_it(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover())
        await site.publish("fund-transfers", deposit("d2", T + WEEK_MS))
        assert (await settle(site))[3:] == [
            (ORDER, 32_000),
            (HOLD, 632_000),
            ("fund-transfers:0:1", WEEK_MS),
        ]


class TestSameBytes:
    async def test_two_runs_on_copies_of_a_file_write_the_same_ledger_and_messages(
        self, site: Site
    ) -> None:
        await publish_mixed(site)
        other = site.copy()
        await settle(site, policy=SHORT)
        await settle(other, policy=SHORT)
        assert await site.lines() == await other.lines()
        for topic in topics.OUTPUT_TOPICS:
            assert await site.messages(topic) == await other.messages(topic)
            assert len(await site.messages(topic)) > 5

    @pytest.mark.parametrize("batch_max", [1, 2, 3, 7])
    async def test_size_of_a_batch_makes_no_difference(self, site: Site, batch_max: int) -> None:
        await publish_mixed(site)
        other = site.copy()
        await settle(site, policy=SHORT)
        await settle(other, policy=SHORT, batch_max=batch_max)
        assert await site.lines() == await other.lines()

    @pytest.mark.parametrize("batch_max", [1, 4])
    async def test_run_that_was_stopped_and_started_again_and_again_writes_the_same_ledger(
        self, site: Site, batch_max: int
    ) -> None:
        await publish_mixed(site)
        other = site.copy()
        await settle(site, policy=SHORT)
        written = 1
        while written:
            processor = await other.settle(
                clock="event", policy=SHORT, batch_max=batch_max, on_commit=Processor.stop
            )
            written = processor.entries_written
        assert await site.lines() == await other.lines()

    async def test_the_wall_clock_is_never_read(self, site: Site) -> None:
        await publish_mixed(site)
        clock = ManualClock()
        await settle(site.copy(clock), policy=SHORT)
        assert clock.readings == []


class TestCheckpoint:
    @pytest.fixture
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processor_module, "CHECKPOINT_SKIPPED", 3)

    @pytest.mark.usefixtures("few")
    async def test_it_is_written_when_everything_that_was_read_ahead_has_been_taken(
        self, site: Site
    ) -> None:
        await site.open_fund(takeover())
        ahead = [ORDINARY, fill("f0", time_ms=T + 900), *[ORDINARY] * 5]
        await site.publish("fills", *ahead)
        await site.publish("liquidations", takeover("liq-8", T + 950))
        await site.settle(clock="event", policy=SHORT)
        assert (await site.story())[4:7] == ["fills:0:1", "liquidations:0:1", "checkpoint"]
        (cause,) = [
            entry.cause
            for entry in await site.entries()
            if isinstance(entry.cause, CheckpointCause)
        ]
        assert [(n, p.next_offset) for n, p in cause.positions.items()] == [("fills:0", 7)]

    @pytest.mark.usefixtures("few")
    async def test_restart_reads_on_from_it(self, site: Site) -> None:
        await site.publish("fills", *[ORDINARY] * 5)
        await site.settle(clock="event")
        await site.publish("fills", ORDINARY, fill("f0"))
        processor = await site.settle(clock="event")
        assert processor.inputs.skipped_total == 1

    async def test_last_record_that_is_gone_is_no_obstacle(self, site: Site) -> None:
        await site.publish("fills", GARBAGE, fill("f0", time_ms=T + 5), fill("f1", time_ms=T + 5))
        await site.settle(clock="event", policy={"parked_ms": 0})
        await site.publish("fills", GARBAGE)
        site.delete(FILLS, "offset < 3")
        assert (await settle(site))[-1] == ("fills:0:3", 5)
