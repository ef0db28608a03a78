"""The deadline gate: no deadline is taken before the backlog as of its being due was read.

Each backlog is longer than a poll, so that a gate that is not there shows.
"""

from __future__ import annotations

from typing import Any

import pytest

from insurance_fund.streams.processor import Processor
from tests.embedded.shard import (
    DUE_MS,
    FILLS,
    GARBAGE,
    HOUR_MS,
    ManualClock,
    Site,
    clock_causes,
    deposit,
    fill,
    fills,
    in_turn,
    instrument,
    kinds,
    report,
    story,
    submitted,
    takeover,
)
from tests.unit.life import START_MS

ORDER = "order:liq-7/liq-7:1"
REPLACEMENT = "replacement:liq-7"
EXCHANGE: dict[str, Any] = {"default": {"order_pricing": "exchange"}}


@pytest.fixture
async def outage(site: Site, clock: ManualClock) -> Site:
    """A shard that has been down since an hour before now, with an order that ended meanwhile."""
    await site.open_fund(takeover())
    await site.settle()
    clock.advance(HOUR_MS)
    return site


async def taken(site: Site) -> list[str]:
    """Return what was taken after the fund had been opened."""
    return (await site.story())[4:]


def of_fills(first: int, end: int) -> list[str]:
    return [f"fills:0:{offset}" for offset in range(first, end)]


class TestBacklog:
    async def test_order_that_was_filled_during_an_outage_is_not_deleveraged(
        self, outage: Site
    ) -> None:
        await outage.publish("fills", *fills(0, 10, quantity="10"))
        await outage.settle(batch_max=2)
        assert await taken(outage) == of_fills(0, 10)
        assert kinds((await outage.entries())[-1])[-1] == "liquidation_closed"
        assert await outage.messages("adl-triggers") == []

    async def test_report_that_is_read_late_in_the_backlog_ends_the_order_itself(
        self, outage: Site
    ) -> None:
        again = [takeover()] * 6
        await outage.publish("liquidations", *again, report("liq-7:1", "expired", "0"))
        await outage.settle(batch_max=2)
        assert ORDER not in await outage.story()
        (trigger,) = await outage.messages("adl-triggers")
        assert (trigger["reason"], trigger["quantity"]) == ("order_expired", "100")

    async def test_deadline_is_taken_behind_the_last_record_of_the_backlog(
        self, outage: Site
    ) -> None:
        await outage.publish("fills", *fills(0, 8))
        await outage.settle(batch_max=2)
        assert await taken(outage) == [*of_fills(0, 8), ORDER]
        (trigger,) = await outage.messages("adl-triggers")
        assert (trigger["reason"], trigger["quantity"]) == ("deadline", "92")

    async def test_first_order_that_waits_in_the_backlog_prevents_its_deadline(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle(policy=EXCHANGE)
        clock.advance(HOUR_MS)
        order = submitted("o1", "100", clock.wall + HOUR_MS)
        await site.publish("liquidations", *[takeover()] * 6, order)
        await site.settle(batch_max=2)
        assert clock_causes(await site.entries()) == []

    async def test_first_order_that_never_came_is_missed_behind_the_backlog(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle(policy=EXCHANGE)
        clock.advance(HOUR_MS)
        await site.publish("fills", *fills(0, 8, order="liq-8:1"))
        await site.settle(batch_max=2)
        assert await taken(site) == [*of_fills(0, 8), "first_order:liq-7"]

    async def test_cause_lists_the_ends_of_all_partitions_of_fills_and_liquidations(
        self, outage: Site
    ) -> None:
        await outage.publish("fund-transfers", deposit("d2"), partition=1)
        await outage.publish("fills", *fills(0, 5))
        await outage.publish("fills", *fills(5, 2), partition=1)
        await outage.publish("liquidations", GARBAGE, GARBAGE, GARBAGE, partition=2)
        await outage.settle(batch_max=2)
        (cause,) = clock_causes(await outage.entries())
        assert (cause.deadline, cause.due_ms, cause.capped) == (ORDER, DUE_MS, False)
        assert cause.read_to == {
            "fills:0": 5,
            "fills:1": 2,
            "liquidations:0": 1,
            "liquidations:2": 3,
        }

    async def test_backlog_of_another_partition_is_waited_for_too(self, outage: Site) -> None:
        await outage.publish("fills", GARBAGE)
        await outage.publish("fills", *fills(0, 6), partition=1)
        await outage.settle(batch_max=2)
        last = [f"fills:1:{offset}" for offset in range(2, 6)]
        assert (await taken(outage))[-5:] == [*last, ORDER]

    async def test_backlog_that_ends_in_holes_is_read_when_its_last_record_was_passed(
        self, outage: Site
    ) -> None:
        await outage.publish("fills", *fills(0, 8))
        outage.delete(FILLS, "offset IN (3, 6, 7)")
        await outage.settle(batch_max=2)
        read = [f"fills:0:{offset}" for offset in (0, 1, 2, 4, 5)]
        assert await taken(outage) == [*read, ORDER]
        (cause,) = clock_causes(await outage.entries())
        assert cause.read_to["fills:0"] == 8

    async def test_records_appended_after_that_moment_do_not_hold_a_deadline_up(
        self, outage: Site
    ) -> None:
        await outage.publish("fills", *fills(0, 6))
        # The first commit is that of the first two fills; then the deadline is first seen due.
        # From there on two more fills come for each two that are read.
        more = [fills(first, 2) for first in range(6, 30, 2)]
        add = [lambda _, two=two: outage.publish_now("fills", *two) for two in more]
        await outage.settle(batch_max=2, on_commit=in_turn(None, *add))
        assert await taken(outage) == [*of_fills(0, 6), ORDER, *of_fills(6, 30)]
        (cause,) = clock_causes(await outage.entries())
        assert cause.read_to["fills:0"] == 6


class TestCap:
    """Two fills a poll, then one commit, at which `advance` lets time pass."""

    async def settle(self, site: Site, clock: ManualClock, **options: Any) -> list[str]:
        def advance(_: Processor) -> None:
            clock.advance(10_000)

        await site.publish("fills", *fills(0, 20))
        await site.settle(batch_max=2, on_commit=advance, **options)
        return await taken(site)

    @pytest.mark.parametrize(("wait_ms_max", "read"), [(30_000, 8), (30_001, 10)])
    async def test_wait_ends_when_it_has_lasted_as_long_as_is_allowed(
        self, outage: Site, clock: ManualClock, wait_ms_max: int, read: int
    ) -> None:
        # First seen due behind fills 0 and 1; each poll lasts 10 s.
        told = await self.settle(outage, clock, deadline_wait_ms_max=wait_ms_max)
        assert told == [*of_fills(0, read), ORDER, *of_fills(read, 20)]
        (cause,) = clock_causes(await outage.entries())
        assert (cause.capped, cause.read_to) == (True, {"fills:0": 20, "liquidations:0": 1})

    async def test_wait_that_was_long_enough_is_not_called_capped(
        self, outage: Site, clock: ManualClock
    ) -> None:
        told = await self.settle(outage, clock, deadline_wait_ms_max=90_000)
        assert told == [*of_fills(0, 20), ORDER]
        (cause,) = clock_causes(await outage.entries())
        assert not cause.capped

    async def test_wait_is_not_counted_from_the_expiry(
        self, outage: Site, clock: ManualClock
    ) -> None:
        # Overdue for an hour, and seen for the first time.
        await outage.publish("fills", *fills(0, 20))
        await outage.settle(batch_max=2, deadline_wait_ms_max=1)
        assert await taken(outage) == [*of_fills(0, 20), ORDER]

    async def test_wait_is_measured_by_the_monotonic_clock(
        self, outage: Site, clock: ManualClock
    ) -> None:
        def drift(_: Processor) -> None:
            clock.jump(2_000)

        await outage.publish("fills", *fills(0, 20))
        await outage.settle(batch_max=2, on_commit=drift, deadline_wait_ms_max=4_000)
        assert await taken(outage) == [*of_fills(0, 20), ORDER]

    async def test_no_wait_at_all_takes_the_deadline_in_the_first_poll(
        self, outage: Site, clock: ManualClock
    ) -> None:
        told = await self.settle(outage, clock, deadline_wait_ms_max=0)
        assert told == [*of_fills(0, 2), ORDER, *of_fills(2, 20)]

    async def test_records_that_come_after_a_capped_wait_are_booked_all_the_same(
        self, outage: Site, clock: ManualClock
    ) -> None:
        await self.settle(outage, clock, deadline_wait_ms_max=0)
        quantities = [m["quantity"] for m in await outage.messages("adl-triggers")]
        assert quantities == [str(left) for left in range(98, 79, -1)]


class TestRestart:
    async def test_restart_notes_the_ends_anew(self, outage: Site) -> None:
        await outage.publish("fills", *fills(0, 6))
        await outage.settle(batch_max=2, on_commit=in_turn(None, Processor.stop))
        assert await taken(outage) == of_fills(0, 4)
        await outage.publish("fills", *fills(6, 4))
        await outage.settle(batch_max=2)
        assert await taken(outage) == [*of_fills(0, 10), ORDER]
        (cause,) = clock_causes(await outage.entries())
        assert cause.read_to["fills:0"] == 10

    async def test_restart_counts_the_longest_wait_anew(
        self, outage: Site, clock: ManualClock
    ) -> None:
        await outage.publish("fills", *fills(0, 8))
        await outage.settle(batch_max=2, on_commit=in_turn(None, Processor.stop))
        clock.advance(HOUR_MS)
        await outage.settle(batch_max=2, deadline_wait_ms_max=1_000)
        assert await taken(outage) == [*of_fills(0, 8), ORDER]


class TestOtherDeadlines:
    async def test_deadlines_that_need_no_backlog_pass_one_that_waits(
        self, site: Site, clock: ManualClock
    ) -> None:
        # The hold is due before the order that waits, the others after it.
        waits = {"parked_ms": 90_000, "missing_fills_alert_ms": 80_000}
        await site.open_fund(takeover("held"), takeover("missing"))
        await site.publish("liquidations", report("missing:1", "expired", "4"))
        await site.publish("fills", fill("f0", order="nobody:1"))
        await site.settle(policy={**waits, "reservation_hold_ms": 10_000})
        clock.advance(35_000)
        await site.publish("liquidations", takeover())
        await site.settle()
        assert clock_causes(await site.entries())[-1].deadline == "order:held/held:1"
        before = len(await site.entries())
        clock.advance(HOUR_MS)
        await site.publish("fills", *fills(1, 6))
        await site.settle(batch_max=2)
        entries = (await site.entries())[before:]
        ungated = ["hold:held/held:1", "missing_fills:missing/missing:1", "parked:fills:0:0"]
        assert story(entries) == [*of_fills(1, 3), *ungated, *of_fills(3, 7), ORDER]
        read_to = [(cause.read_to, cause.capped) for cause in clock_causes(entries)[:3]]
        assert read_to == [({}, False)] * 3

    async def test_deadline_that_was_moved_while_it_waited_waits_for_the_backlog_as_of_then(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover(), submitted("o1", "100", START_MS + 10 * HOUR_MS))
        await site.settle(policy={**EXCHANGE, "replacement_wait_ms": 0})
        before = len(await site.entries())
        clock.advance(HOUR_MS)
        ended: dict[str, Any] = {"liquidation_id": "liq-7", "final": False}
        await site.publish("liquidations", report("o1", "cancelled", "0", **ended))
        await site.publish("fills", *[GARBAGE] * 8)

        def replace(_: Processor) -> None:
            # The wait that began in the first poll has been noted and is still going on.
            order = submitted("o2", "100", START_MS + 10 * HOUR_MS)
            site.publish_now("liquidations", order, report("o2", "cancelled", "0", **ended))
            site.publish_now("fills", *[GARBAGE] * 6)
            clock.advance(1)

        await site.settle(batch_max=2, on_commit=in_turn(None, replace))
        entries = (await site.entries())[before:]
        assert story(entries) == [
            "liquidations:0:2",
            *of_fills(0, 4),
            "liquidations:0:3",
            "liquidations:0:4",
            *of_fills(4, 14),
            REPLACEMENT,
        ]
        (cause,) = clock_causes(entries)
        assert cause.due_ms == clock.wall
        assert cause.read_to == {"fills:0": 14, "liquidations:0": 5}


async def test_deadline_that_another_due_with_it_has_cleared_is_not_taken(
    site: Site, clock: ManualClock
) -> None:
    # The end of the first order lets the second go out, which a parked fill has waited for until
    # just after; by the time both are seen due, its own deadline is none any more.
    attempts = {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}, "parked_ms": 8_000}
    await site.open_fund(takeover())
    await site.publish("fills", fill("f1", order="liq-7:2", price="44900"))
    await site.settle(policy=attempts)
    assert kinds((await site.entries())[-1]) == ["record_parked"]
    clock.advance(20_000)
    await site.settle()
    assert (await taken(site))[1:] == [ORDER]
    assert "fill_booked" in kinds((await site.entries())[-1])


async def test_deadlines_that_others_make_due_are_taken_in_the_same_order_after_a_restart(
    site: Site, clock: ManualClock
) -> None:
    # Two orders end one after the other, and what they held is given back at once, by name.
    lifetimes = {"I1": {"attempts": [["0.01", 1_000]]}, "I2": {"attempts": [["0.01", 2_000]]}}
    policy = {"instruments": lifetimes, "reservation_hold_ms": 0}
    for name in lifetimes:
        await site.publish("instruments", instrument(START_MS, instrument_id=name))
    await site.publish("fund-transfers", deposit())
    await site.publish(
        "liquidations",
        takeover("liq-98", instrument_id="I1"),
        takeover("liq-102", instrument_id="I2"),
    )
    await site.settle(policy=policy)
    clock.advance(HOUR_MS)
    through, stopped = site, site.copy(clock)
    await through.settle()
    run = await stopped.start(batch_max=1, on_commit=in_turn(Processor.stop))
    await run.run()
    assert len(await stopped.lines()) == len(await through.lines()) - 3
    await stopped.settle()
    assert await stopped.lines() == await through.lines()
    assert (await through.story())[-4:] == [
        "order:liq-98/liq-98:1",
        "order:liq-102/liq-102:1",
        "hold:liq-102/liq-102:1",
        "hold:liq-98/liq-98:1",
    ]
    await stopped.close()
