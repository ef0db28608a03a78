"""Inputs under the bus's names and in the exchange's own form: on real files, to the same end."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.ledger import CheckpointCause, InputCause
from insurance_fund.streams import merge as merge_module
from insurance_fund.streams import processor as processor_module
from insurance_fund.streams.adapters import Adapter
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.processor import Processor
from insurance_fund.streams.renamed import RenamedLog, renamed
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.verify import Verifier
from tests.embedded.command import command_json, run_command
from tests.embedded.log_contract import records_to_end
from tests.embedded.sessions import run_session_command, session
from tests.embedded.shard import (
    DUE_MS,
    GARBAGE,
    HOUR_MS,
    MAIN,
    ManualClock,
    NoWallClock,
    Site,
    clock_causes,
    deposit,
    fill,
    fills,
    instrument,
    report,
    takeover,
)
from tests.embedded.test_event_mode import SHORT, publish_mixed
from tests.embedded.test_golden import SCENARIO, TOPICS
from tests.unit.life import START_MS
from tests.unit.test_whatif import ask, assert_the_same

PAGE: Final = Path(__file__).parents[2] / "docs" / "adapters.md"
NAMES: Final = {topic: f"acme.{topic}.v2" for topic in topics.INPUT_TOPICS}
NOT_FOR_THE_FUND: Final = b'{"acme":null,"liquidation_id":"of nobody"}'
TRADES: Final = TopicPartition(NAMES[topics.FILLS], 0)


def own(value: bytes | None) -> bytes | None:
    """Return a message of ours as the exchange writes it; what is none stays as it is."""
    try:
        return json.dumps({"acme": json.loads(value or b"")}).encode()
    except ValueError:
        return value


def unwrap(value: bytes) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(value)["acme"]
    return found


class AcmeSite(Site):
    """A shard beside the bus: `publish` writes the exchange's own records to its own topics."""

    async def publish(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """Append records to the exchange's topic, in its form."""
        await super().publish(NAMES[topic], *map(own, values), partition=partition)

    async def start(self, shard: Shard = MAIN, **options: Any) -> Processor:
        """Return a started processor that reads by way of the adapters."""
        log = options.pop("log", None) or self.open()
        adapter = Adapter("acme_bus:unwrap", unwrap)
        options.setdefault("adapters", dict.fromkeys(NAMES, adapter))
        other: Any = renamed(log, NAMES)
        return await super().start(shard, log=other, snapshots=log, **options)


@pytest.fixture
async def acme(tmp_path: Path, clock: ManualClock) -> AsyncIterator[AcmeSite]:
    opened = AcmeSite(tmp_path / "acme.db", clock)
    yield opened
    await opened.close()


def comparable(line: bytes) -> dict[str, Any]:
    """Leave out of an entry what tells in which form its record came."""
    entry: dict[str, Any] = json.loads(line)
    for name in ("record", "record_base64", "adapted", "adapter", "adapter_error"):
        entry["cause"].pop(name, None)
    for effect in entry["effects"]:
        if effect["type"] == "rejected" and effect["reason"] in ("not_json", "adapter_failed"):
            effect.update(reason="", detail="")
        for name in ("value_base64", "adapted_base64"):
            effect.pop(name, None)
    for emitted in entry["emitted"]:
        if emitted["topic"] == topics.DEAD_LETTERS:
            del emitted["sha256"]
    del entry["previous"]
    return entry


def assert_clean(lines: list[bytes]) -> None:
    for audit in (Verifier(), Replayer()):
        for line in lines:
            audit.take(line)
        assert audit.finish().findings == []


class TestTheSame:
    """What came beside the bus is decided as if it had come as ours."""

    async def test_in_event_mode_with_every_kind_of_disorder(self, tmp_path: Path) -> None:
        found = []
        for kind, name in ((Site, "plain.db"), (AcmeSite, "acme.db")):
            site = kind(tmp_path / name, NoWallClock())
            await publish_mixed(site)
            await site.settle(clock="event", policy=SHORT)
            found.append(await site.lines())
            await site.close()
        plain, acme = found
        assert len(plain) > 50
        assert [comparable(line) for line in acme] == [comparable(line) for line in plain]
        assert sum(b'"adapted":{' in line for line in acme) > 30
        assert sum(b'"adapter_error":' in line for line in acme) > 0
        assert_clean(acme)
        assert_the_same(ask(acme, SHORT))

    async def test_by_the_wall_clock_with_early_records_and_a_backlog(
        self, site: Site, acme: AcmeSite, clock: ManualClock
    ) -> None:
        for one in (site, acme):
            clock.wall, clock.monotonic = START_MS, 0
            await one.publish("fills", fill("early", "5"), GARBAGE)
            await one.settle()
            await one.open_fund(takeover(), takeover("liq-8"))
            await one.settle()
            clock.advance(HOUR_MS)
            await one.publish("fills", *fills(0, 10, quantity="5"))
            await one.publish("liquidations", report("liq-8:1", "expired", "50"))
            await one.settle(batch_max=2)
            clock.advance(HOUR_MS)
            await one.settle()
        plain, lines = await site.lines(), await acme.lines()
        assert [comparable(line) for line in lines] == [comparable(line) for line in plain]
        told = clock_causes(await acme.entries())
        assert {where for cause in told for where in cause.read_to} == {"fills:0", "liquidations:0"}
        assert_clean(lines)
        assert_the_same(ask(lines, {}))

    def test_through_the_commands_with_the_scenario_of_the_examples(self, tmp_path: Path) -> None:
        found = []
        for name in ("plain", "acme"):
            folder = tmp_path / name
            folder.mkdir()
            if name == "acme":
                write_settings(folder)
            for topic in TOPICS:
                lines = (SCENARIO / f"{topic}.ndjson").read_bytes().splitlines()
                given = b"\n".join((own(one) if name == "acme" else one) or b"" for one in lines)
                run_command(folder, "publish", topic, stdin=given, PYTHONPATH=".")
            arguments = ("--clock", "event", "--until-idle", "--policy", SCENARIO / "policy.json")
            run_command(folder, "run", *arguments, PYTHONPATH=".")
            (folder / "acme_bus.py").unlink(missing_ok=True)
            for command in ("verify", "replay"):
                assert "clean" in run_command(folder, command).stdout
            run_command(folder, "export", "ledger.ndjson")
            found.append((folder / "ledger.ndjson").read_bytes().splitlines())
        plain, acme = found
        assert [comparable(line) for line in acme] == [comparable(line) for line in plain]
        assert b'"adapter":"acme_bus:unwrap"' in acme[1]


class TestNotForTheFund:
    async def test_it_makes_no_entry_whatever_bytes_it_has(self, acme: AcmeSite) -> None:
        await acme.open_fund(takeover())
        await super_publish(acme, topics.FILLS, NOT_FOR_THE_FUND, own(fill("f1")))
        processor = await acme.settle()
        assert processor.inputs.skipped_total == 1
        assert (await acme.story())[-1] == "fills:0:1"

    async def test_it_is_counted_up_to_a_checkpoint_and_not_read_again(
        self, acme: AcmeSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processor_module, "CHECKPOINT_SKIPPED", 3)
        await acme.open_fund()
        await super_publish(acme, topics.FILLS, *[NOT_FOR_THE_FUND] * 3)
        await acme.settle()
        cause = (await acme.entries())[-1].cause
        assert isinstance(cause, CheckpointCause)
        assert cause.positions["fills:0"].next_offset == 3
        assert (await acme.settle()).inputs.skipped_total == 0

    async def test_record_without_the_bytes_of_the_filter_is_taken(self, acme: AcmeSite) -> None:
        def short(_value: bytes) -> dict[str, Any]:
            return dict(json.loads(fill("f1")))

        await super_publish(acme, topics.FILLS, b"x")
        await acme.settle(adapters={topics.FILLS: Adapter("a:b", short)})
        entry = (await acme.entries())[-1]
        assert isinstance(entry.cause, InputCause)
        assert entry.cause.value() == b"x"

    async def test_record_without_a_value_is_refused_and_not_adapted(self, acme: AcmeSite) -> None:
        await super_publish(acme, topics.FILLS, None)
        await acme.settle()
        (letter,) = await acme.messages(topics.DEAD_LETTERS)
        assert letter["reason"] == "null_value"
        assert "adapter" not in json.loads((await acme.lines())[-1])["cause"]

    async def test_record_above_the_limit_is_refused_and_not_adapted(self, acme: AcmeSite) -> None:
        def never(_value: bytes) -> None:
            raise AssertionError("it was given to the adapter")

        await super_publish(acme, topics.FILLS, b"x" * 1025)
        adapters = {topics.FILLS: Adapter("a:b", never)}
        await acme.settle(record_bytes_max=1024, adapters=adapters)
        (letter,) = await acme.messages(topics.DEAD_LETTERS)
        assert letter["reason"] == "record_too_large"
        assert_clean(await acme.lines())


async def super_publish(site: AcmeSite, topic: str, *values: bytes | None) -> None:
    """Append what is in the exchange's form already."""
    await Site.publish(site, NAMES[topic], *values)


class TestFailures:
    async def test_failing_record_is_a_dead_letter_and_the_next_one_is_booked(
        self, acme: AcmeSite
    ) -> None:
        await acme.open_fund(takeover())
        await super_publish(acme, topics.FILLS, b"no json \xff", own(fill("f1")))
        await acme.settle()
        (letter,) = await acme.messages(topics.DEAD_LETTERS)
        assert letter["reason"] == "adapter_failed"
        assert (letter["topic"], letter["partition"], letter["offset"]) == ("fills", 0, 0)
        assert base64.b64decode(letter["value_base64"]) == b"no json \xff"
        kinds = [type(effect).__name__ for effect in (await acme.entries())[-1].effects]
        assert kinds == ["FillBooked"]
        assert_clean(await acme.lines())

    async def test_message_above_the_limit_of_records_is_refused(self, acme: AcmeSite) -> None:
        def long(_value: bytes) -> dict[str, Any]:
            return {"type": "fill", "memo": "x" * 1024}

        await super_publish(acme, topics.FILLS, b"x")
        await acme.settle(record_bytes_max=1024, adapters={topics.FILLS: Adapter("a:b", long)})
        (letter,) = await acme.messages(topics.DEAD_LETTERS)
        assert "its message has 1049 bytes, above record_bytes_max" in letter["detail"]
        assert_clean(await acme.lines())


class TestRestart:
    async def test_every_place_to_stop_at_comes_to_the_same_bytes(self, tmp_path: Path) -> None:
        whole = AcmeSite(tmp_path / "whole.db", NoWallClock())
        await publish_mixed(whole)
        await whole.settle(clock="event", policy=SHORT)
        expected = await whole.lines()
        await whole.close()
        for commits in (1, 2, 3, 5, 8):
            site = AcmeSite(tmp_path / f"stopped{commits}.db", NoWallClock())
            await publish_mixed(site)
            for _ in range(1000):
                if await run_commits(site, commits):
                    break
            assert await site.lines() == expected
            await site.close()

    @pytest.mark.parametrize("look_back", [1, 1_000])
    async def test_record_that_fails_has_the_time_of_the_one_before_it_after_a_restart_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_back: int
    ) -> None:
        monkeypatch.setattr(merge_module, "LOOK_BACK", look_back)
        site = AcmeSite(tmp_path / "log.db", NoWallClock())
        late = START_MS + 500
        await site.open_fund(takeover())
        await site.publish("fills", fill("f1", time_ms=late))
        await site.settle(clock="event")
        await super_publish(site, topics.FILLS, NOT_FOR_THE_FUND, b"no json")
        await site.publish("liquidations", takeover("liq-8", late - 1))
        await site.settle()
        story = await site.story()
        await site.close()
        assert story.index("liquidations:0:1") < story.index("fills:0:2")

    async def test_fingerprint_is_of_the_exchanges_own_bytes(self, acme: AcmeSite) -> None:
        await acme.open_fund(takeover())
        await acme.publish(topics.FILLS, fill("f1"))
        await acme.settle()
        await acme.settle(adapters={})
        acme.sql_on(TRADES, "UPDATE records SET value = ?", b"altered")
        with pytest.raises(CorruptionError, match="fills:0 offset 0 is not the record"):
            await acme.settle()

    async def test_other_topic_in_the_place_of_the_one_that_was_read_is_refused(
        self, acme: AcmeSite
    ) -> None:
        await acme.open_fund(takeover())
        await acme.publish(topics.FILLS, fill("f1"), fill("f2"))
        await acme.settle()
        with pytest.raises(CorruptionError, match="fills:0 is gone"):
            await Site.start(acme, log=acme.open())
        await Site.publish(acme, topics.FILLS, fill("f1"))
        with pytest.raises(CorruptionError, match="fills:0 ends at offset 1"):
            await Site.start(acme, log=acme.open())

    async def test_parked_record_is_taken_from_a_snapshot(self, acme: AcmeSite) -> None:
        await acme.publish(topics.FILLS, fill("f1"))
        await acme.open_fund()
        await acme.settle(snapshot_entries=1)
        await acme.publish(topics.LIQUIDATIONS, takeover())
        processor = await acme.start(snapshot_entries=1)
        assert processor.recovered.snapshot.sequence > 0
        await processor.run()
        kinds = [type(effect).__name__ for effect in (await acme.entries())[-1].effects]
        assert kinds[-1] == "FillBooked"
        assert_clean(await acme.lines())


async def run_commits(site: AcmeSite, commits: int) -> bool:
    """Run for some commits from a start; tell whether nothing was left to do."""
    left = [commits]

    def count(processor: Processor) -> None:
        left[0] -= 1
        if not left[0]:
            processor.stop()

    options: dict[str, Any] = {"clock": "event", "policy": SHORT, "batch_max": 3}
    processor = await site.start(on_commit=count, **options)
    await processor.run()
    return left[0] > 0


async def test_currency_that_the_message_names_decides_whose_record_it_is(
    tmp_path: Path, clock: ManualClock
) -> None:
    site = AcmeSite(tmp_path / "log.db", clock)
    assigned = {"USDT": "usdt", "XBT": "coins"}
    policy = {"currencies": {"USDT": {"scale": 6}, "XBT": {"scale": 8}}}
    await site.publish(topics.FUND_TRANSFERS, deposit(margin_currency="XBT"), deposit("d2"))
    await super_publish(site, topics.FUND_TRANSFERS, b"no json")
    for index, name in enumerate(("usdt", "coins")):
        await site.settle(Shard(name, index, assigned), policy=policy)
    assert await site.story(0) == ["policy", "fund-transfers:0:1", "fund-transfers:0:2"]
    assert await site.story(1) == ["policy", "fund-transfers:0:0"]
    await site.close()


class TestRenamedLog:
    async def test_only_topics_with_another_name_are_looked_for_under_it(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "log.db", ManualClock())
        await site.publish("acme.fills.v2", b"retained no more", b"theirs")
        site.delete(TopicPartition("acme.fills.v2", 0), "offset = 0")
        await site.publish("fills", *[b"nobody's"] * 3)
        await site.publish("liquidations", b"ours", partition=1)
        log = RenamedLog(site.log, {"fills": "acme.fills.v2"})
        where = TopicPartition("fills", 0)
        assert [r.value for r in (await records_to_end(log, where, 1))[0]] == [b"theirs"]
        assert await log.first_offset(where) == 1
        assert await log.end_offset(where) == 2
        assert list(await log.partitions("liquidations")) == [1]
        assert list(await log.partitions("fills")) == [0]
        assert list(await log.partitions("acme.trades")) == []
        await site.close()

    async def test_log_without_other_names_is_itself(self, site: Site) -> None:
        assert renamed(site.log, {}) is site.log

    async def test_backlog_of_the_bus_is_waited_for_before_a_deadline(
        self, acme: AcmeSite, clock: ManualClock
    ) -> None:
        await acme.open_fund(takeover())
        await acme.settle()
        clock.wall = DUE_MS
        await acme.publish(topics.FILLS, *fills(0, 7, quantity="10"))
        await acme.settle(batch_max=1)
        story = await acme.story()
        assert story.index("order:liq-7/liq-7:1") > story.index("fills:0:6")


MODULE: Final = """
import json


def unwrap(value):
    fields = json.loads(value)["acme"]
    ordinary = fields and fields.get("type") == "fill" and "liquidation_id" not in fields
    return None if ordinary else fields
"""
TABLE: Final = '[inputs.{0}]\ntopic = "acme.{0}.v2"\nadapter = "acme_bus:unwrap"\n'


def write_settings(folder: Path, text: str | None = None) -> None:
    (folder / "acme_bus.py").write_text(MODULE)
    every = "\n".join(TABLE.format(topic) for topic in topics.INPUT_TOPICS)
    (folder / "insurance-fund.toml").write_text(every if text is None else text)


def values(folder: Path, topic: str) -> list[bytes | None]:
    async def read() -> list[bytes | None]:
        log = SqliteLog.open_reader(folder / "log.db")
        found, _ = await records_to_end(log, TopicPartition(topic, 0), 0)
        await log.close()
        return [record.value for record in found]

    return asyncio.run(read())


class TestCommand:
    def test_publish_writes_the_exchanges_bytes_to_its_topic_at_the_time_of_the_event(
        self, tmp_path: Path
    ) -> None:
        write_settings(tmp_path)
        line = own(instrument()) or b""
        done = run_command(tmp_path, "publish", "instruments", stdin=line, PYTHONPATH=".")
        assert done.stdout == "1 record published to acme.instruments.v2\n"
        assert values(tmp_path, "acme.instruments.v2") == [line]
        assert run_command(tmp_path, "read", "instruments").stdout.encode() == line + b"\n"
        run_command(tmp_path, "run", "--until-idle", "--clock", "event", PYTHONPATH=".")
        run_command(tmp_path, "export", "ledger.ndjson")
        cause = json.loads((tmp_path / "ledger.ndjson").read_bytes().splitlines()[1])["cause"]
        assert (cause["timestamp_ms"], cause["topic"]) == (START_MS, "instruments")

    def test_publish_says_how_many_lines_the_adapter_fails_at(self, tmp_path: Path) -> None:
        write_settings(tmp_path)
        given = b"no json\n" + NOT_FOR_THE_FUND
        done = run_command(tmp_path, "publish", "fills", stdin=given, PYTHONPATH=".")
        assert done.stdout == "2 records published to acme.fills.v2\n"
        assert "acme_bus:unwrap fails: 1 line" in done.stderr

    def test_publish_of_another_input_needs_no_module(self, tmp_path: Path) -> None:
        write_settings(tmp_path, TABLE.format("fills"))
        done = run_command(tmp_path, "publish", "instruments", stdin=instrument())
        assert done.stdout == "1 record published to instruments\n"
        done = run_command(tmp_path, "publish", "fills", stdin=b"", code=2)
        assert "acme_bus cannot be imported" in " ".join(done.stderr.split())

    def test_run_needs_the_module_and_says_how_to_have_it_found(self, tmp_path: Path) -> None:
        write_settings(tmp_path)
        done = run_command(tmp_path, "run", "--until-idle", code=2)
        said = " ".join(done.stderr.split())
        assert "inputs.instruments.adapter: acme_bus cannot be imported" in said
        assert "PYTHONPATH=." in said
        assert not (tmp_path / "log.db").exists()

    def test_recordings_are_not_imported_where_an_adapter_would_read_them(
        self, tmp_path: Path
    ) -> None:
        write_settings(tmp_path, TABLE.format("fills"))
        done = run_command(tmp_path, "import", "binance-forceorders", "x.csv", code=2)
        assert "the settings have adapters for: fills" in " ".join(done.stderr.split())

    def test_input_with_another_name_alone_is_filtered_as_ever(self, tmp_path: Path) -> None:
        write_settings(tmp_path, '[inputs.fills]\ntopic = "trades"')
        given = fill("f1") + b"\n" + b'{"ordinary":1}'
        run_command(tmp_path, "publish", "fills", stdin=given)
        (row,) = command_json(tmp_path, "run", "--until-idle", "--clock", "event")
        assert (row["entries"], row["skipped"]) == (3, 1)
        assert len(values(tmp_path, "trades")) == 2

    def test_config_shows_inputs_and_where_they_came_from(self, tmp_path: Path) -> None:
        write_settings(
            tmp_path,
            '[inputs.fills]\nadapter = "binance-order-update"\n[inputs.liquidations]\n'
            'topic = "liqs"\n',
        )
        shown = {r["name"]: (r["value"], r["source"]) for r in command_json(tmp_path, *SHOW)}
        assert {name: row for name, row in shown.items() if name.startswith("inputs.")} == {
            "inputs.fills.topic": ("fills", "default"),
            "inputs.fills.adapter": ("binance-order-update", "file insurance-fund.toml"),
            "inputs.liquidations.topic": ("liqs", "file insurance-fund.toml"),
            "inputs.liquidations.adapter": ("", "default"),
        }

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("inputs = 1", "inputs must be tables: [inputs.fills]"),
            ('[inputs]\nfills = "trades"', "inputs.fills must be a table: [inputs.fills]"),
            ("[inputs.trades]", "inputs: no input topic 'trades'; one of: instruments,"),
            (
                '[inputs.fills]\nname = "x"',
                "unknown setting 'name'; known are: topic, adapter",
            ),
            ("[inputs.fills]\ntopic = 1", "inputs.fills.topic must be the name of a topic"),
            ('[inputs.fills]\ntopic = ""', "inputs.fills.topic must be the name of a topic"),
            ('[inputs.fills]\ntopic = "a b"', "at most 249 of A-Z a-z 0-9 . _ -; got 'a b'"),
            ('[inputs.fills]\ntopic = ".."', "inputs.fills.topic must be the name of a topic"),
            (
                '[inputs.fills]\ntopic = "dead-letters"',
                "inputs.fills.topic: dead-letters is a topic that the fund itself writes",
            ),
            (
                '[inputs.fills]\ntopic = "fund-snapshots"',
                "fund-snapshots is a topic that the fund itself writes",
            ),
            (
                '[inputs.fills]\ntopic = "all"\n[inputs.liquidations]\ntopic = "all"',
                "inputs: liquidations and fills are both read from the topic all",
            ),
            (
                '[inputs.fills]\ntopic = "instruments"',
                "inputs: instruments and fills are both read from the topic instruments",
            ),
            ("[inputs.fills]\nadapter = 1", "inputs.fills.adapter must be a function, as"),
            (
                '[inputs.fills]\nadapter = "acme"',
                "as \"module:function\", or one of: binance-order-update; got 'acme'",
            ),
        ],
    )
    def test_settings_that_cannot_be_used_are_refused_by_name(
        self, tmp_path: Path, text: str, says: str
    ) -> None:
        write_settings(tmp_path, text)
        done = run_command(tmp_path, *SHOW, code=2)
        assert says in " ".join(done.stderr.split())

    def test_inputs_may_change_their_names_with_each_other(self, tmp_path: Path) -> None:
        swapped = '[inputs.fills]\ntopic = "liquidations"\n[inputs.liquidations]\ntopic = "fills"'
        write_settings(tmp_path, swapped)
        run_command(tmp_path, *SHOW)


SHOW: Final = ("config", "show")


def test_session_of_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    commands = list(session(PAGE.read_text(encoding="utf-8")))
    assert len(commands) > 10
    for command, shown in commands:
        assert run_session_command(command, tmp_path) == [line.rstrip() for line in shown], command
