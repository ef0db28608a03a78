"""Recovery: what a start reads of the ledger and of the inputs, and what it makes of damage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.events.terms import Position
from insurance_fund.fund.state import State, snapshot_bytes
from insurance_fund.streams.clocks import Clock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.processor import Processor
from insurance_fund.streams.recovery import recover
from tests.embedded.shard import (
    FILLS,
    GARBAGE,
    HANG_S,
    HOUR_MS,
    LEDGER,
    ORDINARY,
    ManualClock,
    NoWallClock,
    Site,
    deposit,
    fill,
    fills,
    report,
    takeover,
)
from tests.unit.life import START_MS

OPENED = ["policy", "instruments:0:0", "fund-transfers:0:0", "liquidations:0:0"]
TRANSFERS = TopicPartition(topics.FUND_TRANSFERS, 0)
LOGGER = "insurance_fund.streams.recovery"
NO_ENTRIES = [(None, "a null stands in its place"), (b"{}", "not a ledger entry")]


@pytest.fixture(params=["wall", "event"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A shard with five fills, by each of the clocks."""
    clock: Clock = ManualClock() if request.param == "wall" else NoWallClock()
    opened = Site(tmp_path / "log.db", clock)
    await opened.open_fund(takeover())
    await opened.publish("fills", *fills(0, 5))
    await opened.settle(clock=request.param)
    yield opened
    await opened.close()


async def live_a_life(site: Site, clock: ManualClock) -> dict[int, bytes]:
    """Let much happen, in many transactions; return the live state by sequence."""
    live: dict[int, bytes] = {}

    def keep(processor: Processor) -> None:
        live[processor.state.sequence] = snapshot_bytes(processor.state)

    twice = {"attempts": [["0", 5_000], ["0.01", 25_000]]}
    policy = {"default": twice, "parked_ms": HOUR_MS}
    options: dict[str, Any] = {"policy": policy, "batch_max": 1, "on_commit": keep}
    await site.open_fund(takeover(), takeover("liq-8"), GARBAGE, takeover("liq-9"))
    await site.publish("fills", *fills(0, 3), fill("f9", order="nobody:1"), ORDINARY)
    await site.publish("liquidations", report("liq-8:1", "expired", "4"))
    await site.settle(**options)
    for _ in range(3):
        clock.advance(HOUR_MS // 2)
        await site.settle(**options)
    await site.publish("fills", fill("late", "90", order="liq-7:2"), fill("f0"))
    await site.publish("liquidations", report("liq-9:2", "expired", "0"), takeover())
    await site.settle(**options)
    return live


async def fold(site: Site, lines: list[bytes], name: str) -> State:
    """Return the state that a ledger of these lines recovers to."""
    other = Site(site.path.with_name(name), site.clock)
    await other.log.publish(topics.FUND_LEDGER, [NewRecord(0, b"main", line) for line in lines])
    recovered = await recover(other.log, LEDGER, "main")
    await other.close()
    return recovered.state


class TestState:
    async def test_ledger_that_was_cut_anywhere_folds_to_the_live_state_of_then(
        self, site: Site, clock: ManualClock
    ) -> None:
        live = await live_a_life(site, clock)
        lines = await site.lines()
        assert (len(lines), len(live)) == (26, 26)
        for sequence, expected in live.items():
            state = await fold(site, lines[:sequence], f"{sequence}.db")
            assert snapshot_bytes(state) == expected

    async def test_restarted_processor_has_the_state_that_the_last_one_ended_with(
        self, site: Site, clock: ManualClock
    ) -> None:
        await live_a_life(site, clock)
        ended = await site.settle()
        started = await site.start()
        assert snapshot_bytes(started.state) == snapshot_bytes(ended.state)
        assert started.state.schedule.first() == ended.state.schedule.first()

    async def test_log_without_a_ledger_gives_an_empty_state(self, site: Site) -> None:
        recovered = await recover(site.log, LEDGER, "main")
        assert (recovered.state, recovered.positions) == (State(), {})


class TestPositions:
    async def test_they_are_what_the_last_entry_of_each_partition_says(self, site: Site) -> None:
        await site.open_fund(takeover())
        await site.publish("fills", fill("f0"), GARBAGE)
        await site.publish("fills", ORDINARY, partition=1)
        await site.publish("liquidations", None, partition=2)
        await site.settle()
        recovered = await recover(site.log, LEDGER, "main")
        places = {str(where): p for where, p in recovered.positions.items()}
        assert {name: p.last_offset for name, p in places.items()} == {
            "instruments:0": 0,
            "fund-transfers:0": 0,
            "liquidations:0": 0,
            "liquidations:2": 0,
            "fills:0": 1,
        }
        assert places["fills:0"] == Position(
            next_offset=2, last_offset=1, sha256=sha256_hex(GARBAGE), timestamp_ms=START_MS
        )
        assert places["liquidations:2"].sha256 == sha256_hex(b"")

    @pytest.mark.parametrize("batch_max", [1, 2, 5])
    async def test_first_input_after_each_restart_is_the_next_one(
        self, site: Site, batch_max: int
    ) -> None:
        await site.open_fund(takeover())
        await site.publish("fills", *fills(0, 9))
        for _ in range(14):
            await site.settle(batch_max=batch_max, on_commit=Processor.stop)
        assert await site.story() == [*OPENED, *(f"fills:0:{n}" for n in range(9))]

    async def test_progress_is_told_to_the_end_of_the_ledger(self, site: Site) -> None:
        await site.open_fund(takeover())
        await site.settle()
        told: list[tuple[int, int]] = []
        await site.start(progress=lambda offset, end: told.append((offset, end)))
        assert told[-1] == (4, 4)


class TestInputsThatChanged:
    async def test_changed_last_record_halts(self, either: Site) -> None:
        before = await either.lines()
        either.sql_on(FILLS, "UPDATE records SET value = ? WHERE offset = 4", fill("other"))
        with pytest.raises(CorruptionError, match="fills:0 offset 4 is not the record"):
            await either.start()
        assert await either.lines() == before

    async def test_last_record_of_the_rejected_is_compared_too(self, either: Site) -> None:
        await either.publish("fills", GARBAGE)
        await either.settle()
        either.sql_on(FILLS, "UPDATE records SET value = NULL WHERE offset = 5")
        with pytest.raises(CorruptionError, match="fills:0 offset 5 is not the record"):
            await either.start()

    async def test_last_record_gone_by_compaction_is_only_warned_of(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        either.delete(FILLS, "offset = 4")
        await either.publish("fills", fill("f5"))
        await either.settle()
        assert (await either.story())[-1] == "fills:0:5"
        (logged,) = caplog.record_tuples
        assert logged[:2] == (LOGGER, logging.WARNING)
        assert "fills:0 offset 4, read last, was compacted" in logged[2]

    async def test_last_record_gone_by_retention_is_only_warned_of(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        await either.publish("fills", fill("f5"))
        either.delete(FILLS, "offset < 5")
        await either.settle()
        assert (await either.story())[-1] == "fills:0:5"
        (logged,) = caplog.record_tuples
        assert logged[:2] == (LOGGER, logging.WARNING)
        assert "fills:0 offset 4, read last, is gone by retention" in logged[2]

    async def test_partition_of_which_nothing_is_retained_is_only_warned_of(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        either.delete(FILLS, "true")
        await either.settle()
        assert [level for _, level, _ in caplog.record_tuples] == [logging.WARNING]
        await either.publish("fills", fill("f5"))
        await either.settle()
        assert (await either.story())[-1] == "fills:0:5"

    async def test_partition_that_begins_behind_the_position_goes_on_from_its_first_record(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        await either.publish("fills", *fills(5, 4))
        either.delete(FILLS, "offset < 7")
        await either.settle()
        assert (await either.story())[-2:] == ["fills:0:7", "fills:0:8"]
        (logged, _) = caplog.record_tuples
        assert logged[:2] == (LOGGER, logging.ERROR)
        assert "fills:0 begins at offset 7, the ledger reads on from 5" in logged[2]

    async def test_partition_that_begins_at_the_position_has_lost_nothing(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        await either.publish("fills", fill("f5"))
        either.delete(FILLS, "offset < 5")
        await either.start()
        assert logging.ERROR not in [level for _, level, _ in caplog.record_tuples]

    async def test_topic_that_was_made_anew_and_is_shorter_halts(self, either: Site) -> None:
        either.delete(FILLS, "offset > 1")
        either.sql_on(FILLS, "UPDATE partitions SET next_offset = 2 WHERE topic = 'fills'")
        with pytest.raises(CorruptionError, match=r"fills:0 ends at offset 2.* read offset 4"):
            await either.start()

    async def test_topic_that_was_made_anew_with_other_records_halts(self, either: Site) -> None:
        either.sql_on(FILLS, "UPDATE records SET value = CAST('{}' || offset AS BLOB)")
        await either.publish("fills", *fills(5, 9))
        with pytest.raises(CorruptionError, match="was the topic made anew"):
            await either.start()

    async def test_partition_that_is_gone_halts(self, either: Site) -> None:
        either.sql_on(FILLS, "DELETE FROM partitions WHERE topic = 'fills'")
        with pytest.raises(CorruptionError, match="fills:0 is gone; the ledger has read it up to"):
            await either.start()

    async def test_nothing_is_said_of_inputs_that_are_as_they_were(
        self, either: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert (await either.settle()).entries_written == 0
        assert caplog.record_tuples == []

    async def test_record_of_a_checkpoint_is_compared_too(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.publish("fills", ORDINARY, ORDINARY)
        processor = await site.start()
        clock.advance(60_000)
        await processor.run()
        assert await site.story() == ["policy", "checkpoint"]
        site.sql_on(FILLS, "UPDATE records SET value = x'00' WHERE offset = 1")
        with pytest.raises(CorruptionError, match="fills:0 offset 1 is not the record"):
            await site.start()


class TestDamagedLedger:
    """Six entries; whoever repairs it must be told where to look."""

    @pytest.fixture
    async def damaged(self, site: Site) -> Site:
        await site.open_fund(takeover())
        await site.publish("fills", *fills(0, 2))
        await site.settle()
        return site

    async def halts(self, site: Site, message: str) -> CorruptionError:
        """Check that a start halts, says this, and leaves everything as it was."""
        before = await site.records(LEDGER)
        await site.publish("fund-transfers", deposit("more"))
        with pytest.raises(CorruptionError, match=message) as caught:
            async with asyncio.timeout(HANG_S):
                await site.settle()
        assert await site.records(LEDGER) == before
        return caught.value

    async def halts_at(self, site: Site, sequence: int, message: str) -> None:
        """Check that a start halts, and that its error has the place."""
        assert (await self.halts(site, message)).sequence == sequence

    async def test_gap_halts(self, damaged: Site) -> None:
        damaged.delete(LEDGER, "offset = 3")
        await self.halts_at(damaged, 3, "entry 4 stands where 3 is expected")

    async def test_missing_beginning_halts(self, damaged: Site) -> None:
        damaged.delete(LEDGER, "offset < 2")
        await self.halts_at(damaged, 0, "entry 2 stands where 0 is expected")

    async def test_swapped_entries_halt(self, damaged: Site) -> None:
        for old, new in ((3, 99), (4, 3), (99, 4)):
            damaged.sql_on(LEDGER, "UPDATE records SET offset = ? WHERE offset = ?", new, old)
        await self.halts_at(damaged, 3, "entry 4 stands where 3 is expected")

    async def test_entry_that_stands_twice_halts(self, damaged: Site) -> None:
        damaged.sql_on(
            LEDGER,
            "INSERT INTO records SELECT 6, 1, key, value, NULL FROM records WHERE offset = 5",
        )
        damaged.sql_on(LEDGER, "UPDATE partitions SET next_offset = 7 WHERE topic = 'fund-ledger'")
        await self.halts_at(damaged, 6, "entry 5 stands where 6 is expected")

    async def test_altered_entry_halts_at_the_one_that_is_chained_to_it(
        self, damaged: Site
    ) -> None:
        damaged.sql_on(
            LEDGER,
            "UPDATE records SET value = CAST(replace(value, '100000', '900000') AS BLOB)"
            " WHERE offset = 2",
        )
        await self.halts_at(damaged, 3, "entry 3 does not continue the chain")

    @pytest.mark.parametrize(("value", "message"), NO_ENTRIES)
    async def test_what_is_no_entry_halts(
        self, damaged: Site, value: bytes | None, message: str
    ) -> None:
        damaged.sql_on(LEDGER, "UPDATE records SET value = ? WHERE offset = 3", value)
        await self.halts(damaged, message)

    @pytest.mark.parametrize(("value", "message"), NO_ENTRIES)
    async def test_place_of_what_is_no_entry_is_named(
        self, damaged: Site, value: bytes | None, message: str
    ) -> None:
        damaged.sql_on(LEDGER, "UPDATE records SET value = ? WHERE offset = 3", value)
        await self.halts_at(damaged, 3, message)

    async def test_entry_of_another_ledger_halts(self, damaged: Site) -> None:
        (line,) = (await damaged.lines())[3:4]
        other = line.replace(b'"ledger":"main"', b'"ledger":"other"')
        assert decode_entry(other).ledger == "other"
        damaged.sql_on(LEDGER, "UPDATE records SET value = ? WHERE offset = 3", other)
        await self.halts_at(damaged, 3, "entry 3 belongs to ledger 'other', not 'main'")

    async def test_ledger_of_another_shard_is_not_taken_over(self, damaged: Site) -> None:
        with pytest.raises(SettingsError, match="place 0 of the log holds ledger 'main'"):
            await damaged.start(Shard("second"))
