"""Snapshots: a start that begins from one comes to what a start without comes to, or ignores it.

Everything happens on real files and in the simulated log, with chunks so small that even these
short lives have many of them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import (
    CommitUnknownError,
    CorruptionError,
    InsuranceFundError,
    LogUnavailableError,
)
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.fund.policy import parse_policy
from insurance_fund.fund.state import STATE_VERSION, State, snapshot_bytes
from insurance_fund.streams import snapshot_writer
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.recovery import Recovered, recover
from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.simulator.client import SimulatedLog
from insurance_fund.streams.snapshot_writer import SnapshotWriter
from insurance_fund.streams.snapshots import NOWHERE, Manifest, Place, encode_content, seal
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import command_json, run_command
from tests.embedded.shard import (
    HOUR_MS,
    LEDGER,
    MAIN,
    ORDINARY,
    ManualClock,
    NoWallClock,
    Site,
    deposit,
    fill,
    fills,
    kinds,
    report,
    takeover,
)
from tests.property.choices import Seeded
from tests.property.lives import Lives
from tests.property.test_lives import EFFECTS

SCENARIO: Final = Path(__file__).parents[2] / "examples" / "scenario"
SNAPSHOTS: Final = TopicPartition(topics.FUND_SNAPSHOTS, 0)
LOGGERS: Final = "insurance_fund.streams.snapshot"
# A life that brings about every effect, in two currencies, with records that wait.
SEED: Final = 69
ACTIONS: Final = 120
CHUNK_BYTES: Final = 2_000
# As many commits between two snapshots; of the life some are left behind the last one.
EVERY: Final = 20


class Life(NamedTuple):
    """What is published, and the policy that it happens under."""

    policy: dict[str, Any]
    messages: list[tuple[str, bytes]]


class WithoutSnapshots(SqliteLog):
    """A log that says nothing of its snapshots."""

    async def partitions(self, topic: str) -> Sequence[int]:
        return [] if topic == topics.FUND_SNAPSHOTS else await super().partitions(topic)


class SimulatedWithoutSnapshots(SimulatedLog):
    """A simulated log that says nothing of its snapshots."""

    async def partitions(self, topic: str) -> Sequence[int]:
        return [] if topic == topics.FUND_SNAPSHOTS else await super().partitions(topic)


class Crash(BaseException):
    """The process is gone."""


class Unreadable(WithoutSnapshots):
    """A log whose snapshots cannot be reached."""

    async def partitions(self, topic: str) -> Sequence[int]:
        if topic == topics.FUND_SNAPSHOTS:
            raise LogUnavailableError("out of reach")
        return await super().partitions(topic)


class Publisher:
    """Publishes and keeps the manifests; behind `left` records it ends with an error, once."""

    def __init__(self, log: SqliteLog, left: int = 0, error: BaseException | None = None) -> None:
        self.log = log
        self.left = left
        self.error = error
        self.manifests: list[tuple[str, Manifest]] = []

    async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
        if self.error is not None and len(records) > self.left:
            error, self.error = self.error, None
            await self.log.publish(topic, records[: self.left])
            raise error
        self.left -= len(records)
        await self.log.publish(topic, records)
        for record in records:
            _, slot, part = (record.key or b"").decode().split("/")
            if part == "manifest":
                self.manifests.append((slot, manifest_of(record.value or b"")))

    @property
    def slots(self) -> list[str]:
        return [slot for slot, _ in self.manifests]

    @property
    def sequences(self) -> list[int]:
        return [manifest.sequence for _, manifest in self.manifests]


@pytest.fixture(scope="module")
def life() -> Life:
    lives = Lives(Seeded(SEED))
    for _ in range(ACTIONS):
        lives.act_by_weight()
    policy = {key: value for key, value in lives.world.model.policy.items() if value is not None}
    sent = [(topic, json.dumps(message).encode()) for topic, message in lives.world.sent_messages]
    return Life(policy, sent)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_writer, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(snapshot_writer, "CHUNKS_A_PUBLISH", 2)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A log file by event time, which is the same in every run."""
    opened = Site(tmp_path / "log.db", NoWallClock())
    yield opened
    await opened.close()


async def publish(log: Any, life: Life) -> None:
    for topic, value in life.messages:
        await log.publish(topic, [NewRecord(0, None, value)])


def options(life: Life, **changes: Any) -> dict[str, Any]:
    """Return how the life is run: many commits, and a snapshot every few."""
    few = {"clock": "event", "policy": life.policy, "batch_max": 4, "snapshot_entries": EVERY}
    return {**few, **changes}


async def lived(site: Site, life: Life, **changes: Any) -> Processor:
    """Run the whole life."""
    await publish(site.log, life)
    return await site.settle(**options(life, **changes))


async def without(
    site: Site,
    where: TopicPartition = LEDGER,
    ledger: str = "main",
    kind: type[SqliteLog] = WithoutSnapshots,
) -> Recovered:
    """Recover a ledger without its snapshots."""
    log = kind.open_reader(site.path)
    try:
        recovered = await recover(log, where, ledger)
    finally:
        await log.close()
    assert recovered.snapshot == NOWHERE
    return recovered


def come_to(recovered: Recovered) -> tuple[bytes, dict[TopicPartition, Any]]:
    """Return all that a recovery comes to."""
    return snapshot_bytes(recovered.state), recovered.positions


async def same_as_without(site: Site) -> Place:
    """Recover with and without snapshots, hold that it is the same; return which was used."""
    recovered = await recover(site.log, LEDGER, "main")
    assert come_to(recovered) == come_to(await without(site))
    return recovered.snapshot


async def stored(site: Site) -> dict[str, bytes]:
    """Return what stands in the snapshots' partition by key."""
    return {(r.key or b"").decode(): r.value or b"" for r in await site.records(SNAPSHOTS)}


def manifest_of(value: bytes) -> Manifest:
    return msgspec.json.decode(msgspec.json.encode(json.loads(value)["manifest"]), type=Manifest)


async def manifests(site: Site) -> dict[str, Manifest]:
    """Return the manifests by slot."""
    return {
        key.split("/")[1]: manifest_of(value)
        for key, value in (await stored(site)).items()
        if key.endswith("/manifest")
    }


class Slot(NamedTuple):
    """A good snapshot in a file."""

    slot: str
    sequence: int
    chunks: int

    @property
    def place(self) -> Place:
        return Place(self.slot, self.sequence)


async def both(site: Site) -> tuple[Slot, Slot]:
    """Return the snapshots of a log, the newest first."""
    found = [Slot(slot, m.sequence, m.chunks) for slot, m in (await manifests(site)).items()]
    older, newest = sorted(found, key=lambda slot: slot.sequence)
    return newest, older


async def change_manifest(site: Site, slot: str, **changes: Any) -> None:
    """Let a manifest say something else, properly sealed."""
    manifest = (await manifests(site))[slot]
    value = seal(msgspec.structs.replace(manifest, **changes))
    await put(site, f"main/{slot}/manifest", value)


async def put(site: Site, key: str, value: bytes | None) -> None:
    await site.log.publish(topics.FUND_SNAPSHOTS, [NewRecord(0, key.encode(), value)])


def set_end(site: Site, offset: int) -> None:
    """Let the ledger end at another offset."""
    sql = "UPDATE partitions SET next_offset = ? WHERE topic = 'fund-ledger'"
    site.sql_on(LEDGER, sql, offset)


def take_out(site: Site, key: str) -> None:
    site.sql_on(SNAPSHOTS, "DELETE FROM records WHERE key = ?", key.encode())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of since the last call; nothing else may have been said."""
    said = [(name, level) for name, level, _ in caplog.record_tuples]
    assert all(name.startswith(LOGGERS) and level == logging.WARNING for name, level in said)
    told = [message for _, _, message in caplog.record_tuples]
    caplog.clear()
    return told


class TestRecovery:
    async def test_life_has_every_effect_and_is_cut_by_snapshots(
        self, site: Site, life: Life
    ) -> None:
        await lived(site, life)
        told = {kind for entry in await site.entries() for kind in kinds(entry)}
        assert set(EFFECTS) - told == set()
        newest = max(m.sequence for m in (await manifests(site)).values())
        assert EVERY < newest < len(await site.lines())

    @pytest.mark.parametrize("every", [1, 7])
    async def test_it_is_the_same_at_every_entry_and_so_is_all_that_follows(
        self, site: Site, life: Life, tmp_path: Path, every: int
    ) -> None:
        undisturbed = Site(tmp_path / "undisturbed.db", NoWallClock())
        await lived(undisturbed, life, snapshot_entries=0)
        await publish(site.log, life)
        newest, entries = NOWHERE, 0

        def note(processor: Processor) -> None:
            nonlocal newest, entries
            processor.stop()
            entries = processor.state.sequence
            if entries - newest.sequence >= every:
                newest = Place("b" if newest.slot == "a" else "a", entries)

        # A process for each entry: it starts from a snapshot, writes one entry, and ends.
        how = options(life, batch_max=1, snapshot_entries=every, on_commit=note)
        used = newest
        while (processor := await site.settle(**how)).entries_written:
            assert processor.recovered.snapshot == used
            used = await same_as_without(site)
            assert used == newest
            recovered = await recover(site.log, LEDGER, "main")
            assert snapshot_bytes(recovered.state) == snapshot_bytes(processor.state)
        assert entries == len(await undisturbed.lines())
        assert await site.lines() == await undisturbed.lines()
        for topic in topics.OUTPUT_TOPICS:
            assert await site.messages(topic) == await undisturbed.messages(topic)
        await undisturbed.close()

    async def test_it_is_the_same_by_the_wall_clock_with_checkpoints_and_another_policy(
        self, tmp_path: Path
    ) -> None:
        ledgers = []
        for every in (0, 1, 3):
            clock = ManualClock()
            site = Site(tmp_path / f"{every}.db", clock)
            await site.open_fund(takeover(), takeover("liq-8"))
            await site.publish("fills", *fills(0, 3), fill("f9", order="nobody:1"), ORDINARY)
            await site.publish("fills", ORDINARY, ORDINARY, partition=1)
            await site.publish("liquidations", report("liq-8:1", "expired", "4"), None)
            how: dict[str, Any] = {"batch_max": 1, "snapshot_entries": every}
            # In the last hour there is no news and nothing is due: it is time for a checkpoint.
            for hour, policy in enumerate(({}, {"grace_ms": 5}, None, None, None, None)):
                if hour < 3:
                    await site.publish("liquidations", takeover(f"liq-at-{hour}"))
                while (
                    await site.settle(policy=policy, on_commit=Processor.stop, **how)
                ).entries_written:
                    await same_as_without(site)
                clock.advance(HOUR_MS)
            story = await site.story()
            assert (story.count("policy"), story.count("checkpoint")) == (2, 1)
            assert bool(await manifests(site)) == bool(every)
            ledgers.append(await site.lines())
            await site.close()
        assert ledgers[0] == ledgers[1] == ledgers[2]

    @pytest.mark.parametrize("holes", [False, True])
    async def test_it_is_the_same_in_the_simulated_log(self, life: Life, *, holes: bool) -> None:
        ledgers = []
        for every in (0, 1, 10):
            broker = Broker(holes=holes)
            await publish(SimulatedLog(broker), life)
            while (await commit_once(SimulatedLog(broker), life, every)).entries_written:
                recovered = await recover(SimulatedLog(broker), LEDGER, "main")
                bare = await recover(SimulatedWithoutSnapshots(broker), LEDGER, "main")
                assert come_to(recovered) == come_to(bare)
                entries = recovered.state.sequence
                assert bool(recovered.snapshot.sequence) == (0 < every <= entries)
                assert every == 0 or entries - recovered.snapshot.sequence < every
            ledgers.append([one.record.value for one in broker.appended_to(LEDGER)])
        assert ledgers[0] == ledgers[1] == ledgers[2]


async def commit_once(log: SimulatedLog, life: Life, every: int) -> Processor:
    """Run a processor of its own for one commit."""
    settings = options(life, batch_max=3, snapshot_entries=every, until_idle=True)
    settings["policy"] = parse_policy(life.policy)
    processor = Processor(
        log, MAIN, Options(**settings), NoWallClock(), Processor.stop, snapshots=log
    )
    await processor.start()
    await processor.run()
    return processor


class TestUse:
    async def test_what_a_snapshot_spares_is_not_read(self, site: Site, life: Life) -> None:
        await lived(site, life)
        before, entries = await without(site), len(await site.lines())
        newest = max(m.sequence for m in (await manifests(site)).values())
        site.delete(LEDGER, f"offset < {newest - 1}")
        told: list[tuple[int, int]] = []
        processor = await site.start(progress=lambda *moved: told.append(moved), **options(life))
        assert come_to(processor.recovered) == come_to(before)
        assert told[0] == (newest, entries)

    async def test_nothing_is_said_where_snapshots_are_good_or_none_is_there(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        await site.settle(**options(life))
        site.delete(SNAPSHOTS, "true")
        await site.settle(**options(life))
        assert warnings(caplog) == []

    async def test_older_records_of_a_key_that_are_still_there_do_not_count(
        self, site: Site, life: Life, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topics, "COMPACTED_TOPICS", ())
        await lived(site, life)
        found = await manifests(site)
        assert len(await site.records(SNAPSHOTS)) > sum(m.chunks + 1 for m in found.values())
        newest = await same_as_without(site)
        assert newest.sequence == max(m.sequence for m in found.values())

    async def test_verify_reads_the_whole_ledger_all_the_same(
        self, site: Site, life: Life, tmp_path: Path
    ) -> None:
        await lived(site, life)
        newest = max(m.sequence for m in (await manifests(site)).values())
        spoil = "UPDATE records SET value = CAST(value || ' ' AS BLOB) WHERE offset = 5"
        site.sql_on(LEDGER, spoil)
        assert (await recover(site.log, LEDGER, "main")).snapshot.sequence == newest
        for command in ("verify", "replay"):
            findings = command_json(tmp_path, command, code=1)
            assert findings["findings"], command


class TestIgnored:
    """Each of these is warned of; the other slot is used, or the whole ledger is read."""

    async def test_torn_one_that_lacks_a_chunk_or_its_manifest(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        newest, older = await both(site)
        parts = [*map(str, range(newest.chunks)), "manifest"]
        assert len(parts) >= 4
        for part in parts:
            torn = site.copy()
            take_out(torn, f"main/{newest.slot}/{part}")
            assert await same_as_without(torn) == older.place
            (told,) = warnings(caplog)
            lacks = "it has no manifest" if part == "manifest" else f"chunk {part} of its"
            assert f"ledger main: snapshot 'main/{newest.slot}' is ignored: {lacks}" in told
            assert told.endswith(f"; 'main/{older.slot}' is tried instead")
            take_out(torn, f"main/{older.slot}/0")
            assert await same_as_without(torn) == NOWHERE
            assert warnings(caplog)[1].endswith("; all of its entries are read instead")

    async def test_one_with_a_chunk_that_was_cut_or_is_null(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        newest, older = await both(site)
        for number in range(newest.chunks):
            key = f"main/{newest.slot}/{number}"
            value = (await stored(site))[key]
            for cut, why in ((value[:-1], "bytes, not"), (b"", "bytes, not"), (None, "is missing")):
                torn = site.copy()
                await put(torn, key, cut)
                assert await same_as_without(torn) == older.place
                (told,) = warnings(caplog)
                assert why in told

    async def test_one_of_which_any_part_was_altered_by_one_bit(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        newest, older = await both(site)
        whole = await stored(site)
        altered = site.copy()
        for part in (*map(str, range(newest.chunks)), "manifest"):
            key = f"main/{newest.slot}/{part}"
            value = whole[key]
            every = 1 if part == "manifest" else len(value) // 5
            for at in range(0, len(value), every):
                bit = 1 << (at % 7)
                await put(altered, key, value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :])
                found = await recover(altered.log, LEDGER, "main")
                assert found.snapshot == older.place, f"byte {at} of {part}"
                (told,) = warnings(caplog)
                assert f"snapshot 'main/{newest.slot}' is ignored" in told
            await put(altered, key, value)
        assert await same_as_without(altered) == newest.place

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"state_version": STATE_VERSION + 1}, f"this is 1 with {STATE_VERSION}"),
            ({"version": 2}, "wrote it in version 2"),
            ({"ledger": "other"}, "it is of ledger 'other'"),
            ({"head": "0" * 64}, "is not the one that it ends with"),
            ({"offset": 7}, "at offset 7, is not the one that it ends with"),
            ({"offset": -1}, "offset -1"),
            ({"offset": 10**9}, "there is no offset 1000000000 yet"),
            ({"sequence": 10**6}, "its state is of"),
            ({"chunks": 1}, "bytes, not"),
            ({"chunks": 100}, "of its 100 is missing"),
            ({"size": 1}, "bytes, not 1"),
            ({"sha256": "0" * 64}, "it was cut short or altered"),
        ],
    )
    async def test_one_whose_manifest_says_otherwise(
        self,
        site: Site,
        life: Life,
        caplog: pytest.LogCaptureFixture,
        changes: dict[str, Any],
        why: str,
    ) -> None:
        await lived(site, life)
        newest, older = await both(site)
        await change_manifest(site, newest.slot, **changes)
        assert await same_as_without(site) == older.place
        (told,) = warnings(caplog)
        assert f"snapshot 'main/{newest.slot}' is ignored: " in told
        assert why in told

    async def test_one_whose_state_is_another_than_its_manifest_says(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Properly hashed and sealed all the same.
        await lived(site, life)
        newest, older = await both(site)
        for content, why in (
            (encode_content(State(), {}), "its state is of ('', 0, "),
            (b"{}", "its content cannot be read"),
        ):
            await put(site, f"main/{newest.slot}/0", content)
            says = {"chunks": 1, "size": len(content), "sha256": sha256_hex(content)}
            await change_manifest(site, newest.slot, **says)
            assert await same_as_without(site) == older.place
            (told,) = warnings(caplog)
            assert why in told

    async def test_one_that_is_ahead_of_the_ledger(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Of a log that was put back to how it was before, snapshots are not.
        await lived(site, life)
        newest, older = await both(site)
        for end, place in ((newest.sequence - 1, older.place), (older.sequence - 1, NOWHERE)):
            site.delete(LEDGER, f"offset >= {end}")
            set_end(site, end)
            assert await same_as_without(site) == place
            told = warnings(caplog)
            assert len(told) == (1 if place == older.place else 2)
        site.sql_on(LEDGER, "DELETE FROM partitions WHERE topic = 'fund-ledger'")
        assert await same_as_without(site) == NOWHERE
        assert all("fund-ledger:0 has no ledger" in told for told in warnings(caplog))

    async def test_one_whose_entry_is_gone_or_another_one_now(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        newest, _ = await both(site)
        at = newest.sequence - 1
        for damage in (
            "DELETE FROM records WHERE offset = ?",
            "DELETE FROM records WHERE offset <= ?",
            "UPDATE records SET value = NULL WHERE offset = ?",
            "UPDATE records SET value = CAST(value || ' ' AS BLOB) WHERE offset = ?",
        ):
            spoilt = site.copy()
            spoilt.sql_on(LEDGER, damage, at)
            # Nothing is made good by a snapshot: both say the same of what is damaged.
            with pytest.raises(CorruptionError) as by_snapshot:
                await recover(spoilt.log, LEDGER, "main")
            with pytest.raises(CorruptionError) as by_entries:
                await without(spoilt)
            assert by_snapshot.value.sequence == by_entries.value.sequence
            assert f"snapshot 'main/{newest.slot}' is ignored" in warnings(caplog)[0]

    async def test_one_whose_entry_stands_elsewhere_now(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        # As in a ledger that was published anew elsewhere: offsets may differ, the chain does not.
        await lived(site, life)
        newest, older = await both(site)
        shift = "UPDATE records SET offset = offset + 1000 WHERE offset >= ?"
        site.sql_on(LEDGER, shift, newest.sequence - 1)
        set_end(site, 10_000)
        assert await same_as_without(site) == older.place
        (told,) = warnings(caplog)
        assert "is not the one that it ends with" in told

    async def test_one_of_another_log(
        self, site: Site, life: Life, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = Site(tmp_path / "other.db", NoWallClock())
        await other.publish("fund-transfers", deposit("not of here", 1))
        await lived(other, life)
        await lived(site, life)
        for record in await other.records(SNAPSHOTS):
            await site.log.publish(topics.FUND_SNAPSHOTS, [NewRecord(0, record.key, record.value)])
        assert await same_as_without(site) == NOWHERE
        told = warnings(caplog)
        assert len(told) == 2
        assert all("is not the one that it ends with" in text for text in told)
        await other.close()

    async def test_one_of_another_ledger_in_the_same_place(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        newest, older = await both(site)
        for key, value in (await stored(site)).items():
            await put(site, key.replace("main/", "other/"), value)
        await put(site, "no-slot", b"of somebody else")
        take_out(site, f"main/{newest.slot}/manifest")
        assert await same_as_without(site) == older.place
        told = "\n".join(warnings(caplog))
        assert f"snapshot 'main/{newest.slot}' is ignored: it has no manifest" in told
        assert f"snapshot 'other/{newest.slot}' is ignored: it is of ledger 'main'" in told
        assert "snapshot '' is ignored: it has no manifest" in told

    async def test_all_where_they_cannot_be_read(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        await lived(site, life)
        recovered = await without(site, kind=Unreadable)
        assert come_to(recovered) == come_to(await without(site))
        (told,) = warnings(caplog)
        assert told == "ledger main is read from its first entry: no snapshots: out of reach"

    async def test_run_goes_on_from_an_ignored_one_as_from_none(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        half = len(life.messages) // 2
        await lived(site, Life(life.policy, life.messages[:half]))
        bare = site.copy()
        bare.delete(SNAPSHOTS, "true")
        for slot in ("a", "b"):
            take_out(site, f"main/{slot}/0")
        for one in (site, bare):
            await lived(one, Life(life.policy, life.messages[half:]))
        assert await site.lines() == await bare.lines()
        assert len(warnings(caplog)) == 2


class TestWriting:
    async def test_it_is_due_when_a_recovery_would_fold_that_many_entries(
        self, site: Site, life: Life
    ) -> None:
        commits: list[int] = []
        publisher = Publisher(site.open())
        await lived(
            site,
            life,
            snapshot_entries=9,
            snapshots=publisher,
            on_commit=lambda processor: commits.append(processor.state.sequence),
        )
        expected = [0]
        for sequence in commits:
            if sequence - expected[-1] >= 9:
                expected.append(sequence)
        assert publisher.sequences == expected[1:]
        assert len(expected) > 6
        assert publisher.slots == list("ab" * len(expected))[: len(expected) - 1]

    async def test_ledger_that_has_none_gets_one_with_the_next_commit(
        self, site: Site, life: Life
    ) -> None:
        await lived(site, life, snapshot_entries=0)
        assert await site.log.partitions(topics.FUND_SNAPSHOTS) == []
        await site.publish("fund-transfers", deposit("one more"))
        await site.settle(**options(life))
        (manifest,) = (await manifests(site)).values()
        assert manifest.sequence == len(await site.lines())
        assert (await same_as_without(site)).sequence == manifest.sequence

    async def test_processor_without_a_publisher_writes_none(self, site: Site, life: Life) -> None:
        await publish(site.log, life)
        settings = Options(clock="event", snapshot_entries=1, until_idle=True)
        processor = Processor(site.open(), MAIN, settings, NoWallClock())
        await processor.start()
        await processor.run()
        assert processor.entries_written > EVERY
        assert await site.log.partitions(topics.FUND_SNAPSHOTS) == []

    async def test_it_never_takes_more_room_than_two_of_them(self, site: Site, life: Life) -> None:
        processor = await lived(site, life)
        writer = SnapshotWriter(site.log, site.log, LEDGER, 1, NOWHERE)
        sizes = []
        for _ in range(12):
            await writer.write(processor.state, processor.recovered.positions)
            records = await site.records(SNAPSHOTS)
            assert len({record.key for record in records}) == len(records)
            with closing(site.connect()) as connection:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
            sizes.append((pages, len(records)))
        assert len(set(sizes[2:])) == 1

    @pytest.mark.parametrize("error", [LogUnavailableError, CommitUnknownError])
    async def test_failure_of_one_is_warned_of_and_disturbs_nothing(
        self,
        life: Life,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        error: type[InsuranceFundError],
    ) -> None:
        undisturbed = Site(tmp_path / "undisturbed.db", NoWallClock())
        await lived(undisturbed, life)
        records = 0
        while True:
            site = Site(tmp_path / f"{records}.db", NoWallClock())
            publisher = Publisher(site.open(), records, error("no answer"))
            await lived(site, life, snapshots=publisher)
            assert await site.lines() == await undisturbed.lines()
            newest = await same_as_without(site)
            if publisher.error is not None:
                break
            told = warnings(caplog)
            assert re.fullmatch(
                r"ledger main: no snapshot of entry \d+: no answer; the run goes on without",
                told[0],
            )
            # One that is half there in front of or instead of a good one is warned of then.
            assert len(told) <= 2
            assert newest.sequence == max(publisher.sequences)
            failed = int(re.findall(r"entry (\d+)", told[0])[0]) + 1
            assert failed not in publisher.sequences
            assert all(abs(failed - sequence) >= EVERY for sequence in publisher.sequences)
            assert publisher.slots == list("abab")[: len(publisher.slots)], "the good one stays"
            await site.close()
            records += 1
        assert records > 20
        await site.close()
        await undisturbed.close()

    async def test_crash_between_any_two_records_of_one_costs_nothing(
        self, life: Life, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        undisturbed = Site(tmp_path / "undisturbed.db", NoWallClock())
        await lived(undisturbed, life)
        records = 0
        while True:
            site = Site(tmp_path / f"{records}.db", NoWallClock())
            publisher = Publisher(site.open(), records, Crash())
            try:
                await lived(site, life, snapshots=publisher)
            except Crash:
                spared = await same_as_without(site)
                assert spared.sequence == max(publisher.sequences, default=0)
            else:
                break
            again = await site.settle(**options(life))
            assert again.recovered.snapshot == spared
            assert await site.lines() == await undisturbed.lines()
            assert (await same_as_without(site)).sequence > spared.sequence
            assert len(warnings(caplog)) <= 3
            await site.close()
            records += 1
        assert records > 20
        await site.close()
        await undisturbed.close()

    async def test_entry_that_is_not_the_last_to_be_seen_gets_none_and_stays_due(
        self, site: Site, life: Life, caplog: pytest.LogCaptureFixture
    ) -> None:
        processor = await lived(site, life, snapshot_entries=0)
        state, positions = processor.state, processor.recovered.positions
        publisher = Publisher(site.log)
        writer = SnapshotWriter(site.log, publisher, LEDGER, EVERY, NOWHERE)
        rival = site.copy()
        await rival.log.publish(topics.FUND_LEDGER, [NewRecord(0, b"main", b"of a rival")])
        for log in (rival.log, SimulatedLog(Broker())):
            elsewhere = SnapshotWriter(log, publisher, LEDGER, EVERY, NOWHERE)
            await elsewhere.write(state, positions)
            (told,) = warnings(caplog)
            assert "it is not the last one that can be read; the run goes on without" in told
            assert elsewhere.is_due(state)
        assert publisher.manifests == []
        await writer.write(state, positions)
        assert not writer.is_due(state)
        assert publisher.sequences == [state.sequence]

    @pytest.mark.parametrize("markers", [1, 9, 5_000])
    async def test_last_entry_is_found_behind_whatever_takes_offsets(
        self, site: Site, life: Life, markers: int
    ) -> None:
        processor = await lived(site, life, snapshot_entries=0)
        set_end(site, processor.state.sequence + markers)
        writer = SnapshotWriter(site.log, site.log, LEDGER, 1, NOWHERE)
        await writer.write(processor.state, processor.recovered.positions)
        assert await same_as_without(site) == Place("a", processor.state.sequence)

    async def test_each_shard_has_its_own(self, site: Site, life: Life) -> None:
        await publish(site.log, life)
        assigned = {"USDT": "one", "XBT": "two"}
        for index, name in enumerate(("one", "two")):
            how = options(life, batch_max=1, snapshot_entries=5)
            processor = await site.settle(Shard(name, index, assigned), **how)
            assert processor.entries_written > EVERY
        for index, name in enumerate(("one", "two")):
            where = TopicPartition(topics.FUND_LEDGER, index)
            recovered = await recover(site.log, where, name)
            assert recovered.snapshot.sequence > EVERY
            assert come_to(recovered) == come_to(await without(site, where, name))


class TestCommand:
    async def test_run_writes_them_uses_them_and_warns_of_what_it_ignores(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "log.db", NoWallClock())
        for topic in topics.INPUT_TOPICS:
            await site.publish(topic, *(SCENARIO / f"{topic}.ndjson").read_bytes().splitlines())
        run = ("run", "--clock", "event", "--until-idle", "--policy", SCENARIO / "policy.json")
        every: dict[str, Any] = {"INSURANCE_FUND_SNAPSHOT_ENTRIES": "10"}
        every["INSURANCE_FUND_BATCH_MAX"] = "5"
        assert "WARNING" not in run_command(tmp_path, *run, **every).stderr
        newest, older = await both(site)
        assert older.sequence + 10 <= newest.sequence
        assert await same_as_without(site) == newest.place
        await put(site, f"main/{newest.slot}/0", b"torn")
        await site.publish("fund-transfers", deposit("more"))
        said = run_command(tmp_path, *run, **every).stderr
        assert f"snapshot 'main/{newest.slot}' is ignored: " in said
        assert f"'main/{older.slot}' is tried instead" in said
        assert (await same_as_without(site)).slot in (newest.slot, older.slot)
        run_command(tmp_path, "verify")
        run_command(tmp_path, "replay")
        await site.close()
