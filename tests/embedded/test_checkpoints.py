"""Checkpoints: where to read on after records that made no entry."""

from __future__ import annotations

import pytest

from insurance_fund.events.ledger import CheckpointCause, sha256_hex
from insurance_fund.events.terms import Position
from tests.embedded.shard import (
    FILLS,
    ORDINARY,
    ManualClock,
    Site,
    deposit,
    fill,
    in_turn,
    kinds,
)
from tests.unit.life import START_MS

OTHER = ORDINARY.replace(b"of-nobody", b"of-others")


async def settle_later(site: Site, clock: ManualClock, milliseconds: int) -> int:
    """Start, let time pass, run to the end; return how many records were skipped."""
    processor = await site.start()
    clock.advance(milliseconds)
    await processor.run()
    return processor.inputs.skipped_total


async def checkpoints(site: Site) -> list[dict[str, Position]]:
    causes = [entry.cause for entry in await site.entries()]
    return [cause.positions for cause in causes if isinstance(cause, CheckpointCause)]


async def test_one_is_written_when_100_000_records_were_skipped(site: Site) -> None:
    await site.publish("fills", *[ORDINARY] * 99_999)
    assert (await site.settle()).inputs.skipped_total == 99_999
    assert await checkpoints(site) == []
    await site.publish("fills", OTHER)
    assert (await site.settle()).inputs.skipped_total == 100_000
    assert await checkpoints(site) == [
        {
            "fills:0": Position(
                next_offset=100_000,
                last_offset=99_999,
                sha256=sha256_hex(OTHER),
                timestamp_ms=START_MS,
            )
        }
    ]
    assert (await site.settle()).inputs.skipped_total == 0
    assert await site.story() == ["policy", "checkpoint"]


async def test_records_that_were_skipped_are_read_again_where_none_was_written(site: Site) -> None:
    await site.publish("fills", fill("f0"), *[ORDINARY] * 5)
    assert (await site.settle()).inputs.skipped_total == 5
    assert (await site.settle()).inputs.skipped_total == 5
    assert await site.story() == ["policy", "fills:0:0"]


@pytest.mark.parametrize(("waited_ms", "written"), [(59_999, 0), (60_000, 1)])
async def test_one_is_written_60_s_after_an_entry_if_positions_moved(
    site: Site, clock: ManualClock, waited_ms: int, written: int
) -> None:
    await site.publish("fills", ORDINARY, ORDINARY, OTHER)
    assert await settle_later(site, clock, waited_ms) == 3
    assert len(await checkpoints(site)) == written
    assert (await site.settle()).inputs.skipped_total == 3 * (1 - written)


async def test_none_is_written_where_no_position_moved(site: Site, clock: ManualClock) -> None:
    await site.open_fund()
    await site.settle()
    before = await site.lines()
    assert await settle_later(site, clock, 3_600_000) == 0
    assert await site.lines() == before


async def test_the_60_s_begin_anew_with_each_entry(site: Site, clock: ManualClock) -> None:
    await site.publish("fills", ORDINARY)
    await site.publish("fund-transfers", deposit())
    processor = await site.start(on_commit=in_turn(None, lambda _: clock.advance(59_999)))
    clock.advance(59_999)
    await processor.run()
    assert await site.story() == ["policy", "fund-transfers:0:0"]


async def test_restart_does_not_put_it_off(site: Site, clock: ManualClock) -> None:
    await site.publish("fills", ORDINARY)
    await site.settle()
    clock.advance(60_000)
    await site.settle()
    assert len(await checkpoints(site)) == 1


async def test_it_names_the_partitions_that_moved_over_skipped_records_and_no_other(
    site: Site, clock: ManualClock
) -> None:
    await site.publish("fund-transfers", deposit())
    await site.publish("fills", ORDINARY, fill("f0"))
    await site.publish("fills", fill("f1"), OTHER, partition=1)
    await site.publish("fills", ORDINARY, OTHER, partition=4)
    await site.settle()
    await settle_later(site, clock, 60_000)
    (positions,) = await checkpoints(site)
    assert {name: p.last_offset for name, p in positions.items()} == {"fills:1": 1, "fills:4": 1}
    assert kinds((await site.entries())[-1]) == ["checkpoint"]


async def test_none_is_written_where_an_entry_stands_behind_what_was_skipped(
    site: Site, clock: ManualClock
) -> None:
    await site.publish("fills", ORDINARY, fill("f0"))
    await settle_later(site, clock, 60_000)
    assert await site.story() == ["policy", "fills:0:1"]


async def test_next_one_is_only_due_when_positions_move_again(
    site: Site, clock: ManualClock
) -> None:
    await site.publish("fills", ORDINARY)
    await settle_later(site, clock, 60_000)
    await settle_later(site, clock, 60_000)
    assert len(await checkpoints(site)) == 1
    await site.publish("fills", OTHER)
    assert await settle_later(site, clock, 60_000) == 1
    assert [p["fills:0"].next_offset for p in await checkpoints(site)] == [1, 2]


async def test_holes_in_front_of_a_checkpoint_do_not_count(site: Site, clock: ManualClock) -> None:
    await site.publish("fills", *[ORDINARY] * 3, fill("f3"), *[OTHER] * 6)
    site.delete(FILLS, "offset IN (0, 2, 5, 9)")
    await site.settle()
    await settle_later(site, clock, 60_000)
    (positions,) = await checkpoints(site)
    assert (positions["fills:0"].last_offset, positions["fills:0"].next_offset) == (8, 9)
    await site.publish("fills", ORDINARY)
    assert (await site.settle()).inputs.skipped_total == 1
