"""The demo as a person runs it, and what it leaves: a log like that of any fund."""

from __future__ import annotations

import json
import shlex
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import topics
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.copying import copy_log
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.lines import partition_values
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.paper.crash import crash
from insurance_fund.streams.paper.game import Game, play_game
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import command_json, run_command
from tests.embedded.log_contract import records_to_end
from tests.embedded.shard import MAIN, NoWallClock

DEMO = ("demo", "--seed", 4, "--liquidations", 300)
SHORT = ("demo", "--liquidations", 5)
ALL_TOPICS = (*topics.INPUT_TOPICS, *topics.OUTPUT_TOPICS, topics.FUND_LEDGER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo was run; tests only look at it."""
    made = tmp_path_factory.mktemp("demo")
    told = command_json(made, *DEMO, "--log", "sqlite:log.db")
    (made / "told.json").write_text(json.dumps(told))
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What the demo printed for programs."""
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def command(folder: Path, line: str) -> str:
    """Run a line that the demo says to type."""
    words = shlex.split(line)
    assert Path(words[0]).name == "insurance-fund"
    return run_command(folder, *words[1:]).stdout


def exported(folder: Path, *arguments: object) -> bytes:
    run_command(folder, "export", "ledger.ndjson", *arguments)
    return (folder / "ledger.ndjson").read_bytes()


def test_outcomes_are_those_that_the_status_of_its_ledger_shows(
    folder: Path, told: dict[str, Any]
) -> None:
    status = command_json(folder, "status")
    assert (status["open_liquidations"], status["rejected"], status["parked"]) == ([], {}, 0)
    assert status["next_deadline"] is None
    (fund,) = [one for one in status["funds"] if one["used"]]
    played = told["with_compensation"]
    assert {o: group["liquidations"] for o, group in played["ended"].items()} == fund["closed"]
    assert sum(fund["closed"].values()) == 300
    assert played["after"] == fund["total"]
    for name in ("lowest", "gains", "draws", "granted", "shortfall"):
        assert played[name] == fund[name]
    assert played["used"] == fund["used_of_granted"]
    assert played["before"] == fund["transfers"]


def test_compensation_costs_the_fund_and_less_is_deleveraged_for_it(told: dict[str, Any]) -> None:
    played, bare = told["with_compensation"], told["without_compensation"]
    assert min(group["liquidations"] for group in played["ended"].values()) > 40
    assert bare["ended"]["compensated"] == {"liquidations": 0, "notional": "0"}
    assert (bare["granted"], bare["used"], bare["draws"]) == ("0", "0", "0")
    deleveraged, more = (Decimal(one["deleveraged"]["notional"]) for one in (played, bare))
    assert 0 < 4 * deleveraged < 3 * more
    lowest, before, after = (Decimal(played[name]) for name in ("lowest", "before", "after"))
    assert lowest < before
    assert after == before + Decimal(played["gains"]) + Decimal(played["draws"])
    assert sum(map(Decimal, played["by_instrument"].values())) == after - before


def test_log_of_the_demo_verifies_replays_and_explains(folder: Path, told: dict[str, Any]) -> None:
    status, explain, verify, replay = told["next"]
    assert "Ledger main" in command(folder, status)
    assert command(folder, explain).splitlines()[0].startswith("Liquidation liq-")
    for line in (verify, replay):
        assert "\nclean\n" in command(folder, line)


def test_same_seed_gives_the_same_ledger_and_the_same_numbers(
    folder: Path, told: dict[str, Any], tmp_path: Path
) -> None:
    again = command_json(tmp_path, *DEMO, "--log", "sqlite:again.db")
    assert exported(tmp_path, "--log", "sqlite:again.db") == exported(folder)
    numbers = ("with_compensation", "without_compensation")
    assert [again[name] for name in numbers] == [told[name] for name in numbers]


async def test_fund_that_reads_the_same_records_afterwards_writes_the_same_ledger(
    folder: Path, tmp_path: Path
) -> None:
    played = SqliteLog.open_reader(folder / "log.db")
    log = SqliteLog.open(tmp_path / "log.db", create=True)
    for topic in topics.INPUT_TOPICS:
        records, _ = await records_to_end(played, TopicPartition(topic, 0), 0)
        new = [NewRecord(0, r.key, r.value, timestamp_ms=r.timestamp_ms) for r in records]
        await log.publish(topic, new)
    options = Options(clock="event", policy=Policy(), until_idle=True)
    processor = Processor(log, MAIN, options, NoWallClock())
    await processor.start()
    await processor.run()
    for topic in ALL_TOPICS:
        where = TopicPartition(topic, 0)
        values = [value async for value in partition_values(log, where)]
        assert values == [value async for value in partition_values(played, where)]
    assert processor.state.sequence > 1_000
    await log.close()
    await played.close()


def test_summary_for_people_names_the_outcomes_and_what_to_type_next(tmp_path: Path) -> None:
    shown = run_command(
        tmp_path, *SHORT, TMPDIR=str(tmp_path), INSURANCE_FUND_LOG="sqlite:live.db"
    ).stdout
    for text in ("The crash of seed 1", "better than bankruptcy", "with compensation", "by ADL"):
        assert text in shown
    *_, status, _explain, _verify, _replay = shown.splitlines()
    assert Path(status.rpartition("sqlite:")[2]).is_relative_to(tmp_path)
    assert "Ledger main" in command(tmp_path, status)
    # What is set for a live fund is none of the demo's business.
    assert not (tmp_path / "live.db").exists()


def test_log_that_has_records_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    before = (folder / "log.db").read_bytes()
    refused = run_command(folder, *SHORT, "--log", "sqlite:log.db", code=2)
    assert "log.db has records on fund-ledger already" in refused.stderr
    assert (folder / "log.db").read_bytes() == before
    run_command(tmp_path, "publish", "fills", stdin=b"{}\n")
    refused = run_command(tmp_path, *SHORT, "--log", "sqlite:log.db", code=2)
    assert "log.db has records on fills already" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--log", "sqlite:nowhere/demo.db"), "no directory nowhere"),
        (("--log", "demo.db"), "no log URL"),
        (("--liquidations", "0"), "--liquidations"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in run_command(tmp_path, "demo", *arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_hints_name_the_ledger_where_the_settings_have_several(tmp_path: Path) -> None:
    (tmp_path / "insurance-fund.toml").write_text('[shards]\ndollars = ["USDT"]\ncoins = ["BTC"]\n')
    told = command_json(tmp_path, *SHORT, "--log", "sqlite:log.db")
    assert "Ledger dollars" in command(tmp_path, told["next"][0])


class TestCopy:
    """Of a game in memory into a file, at whatever size of the game."""

    @pytest.fixture
    async def game(self) -> Game:
        return await play_game(crash(9, 40), Policy(), MAIN)

    async def test_records_keep_offsets_times_keys_and_values(
        self, game: Game, tmp_path: Path
    ) -> None:
        log = SqliteLog.open(tmp_path / "log.db", create=True)
        await copy_log(game.broker, log, MAIN)
        for topic in ALL_TOPICS:
            where = TopicPartition(topic, 0)
            copied, _ = await records_to_end(log, where, 0)
            assert copied == [appended.record for appended in game.broker.appended_to(where)]
        assert len([line async for line in partition_values(log, MAIN_LEDGER)]) > 100
        await log.close()

    async def test_fund_goes_on_with_the_copy_as_with_its_own_ledger(
        self, game: Game, tmp_path: Path
    ) -> None:
        log = SqliteLog.open(tmp_path / "log.db", create=True)
        await copy_log(game.broker, log, MAIN)
        processor = Processor(log, MAIN, Options(until_idle=True), NoWallClock())
        await processor.start()
        await processor.run()
        assert processor.entries_written == 0
        assert processor.state.sequence == len(game.lines)
        await log.close()

    async def test_copy_with_holes_in_its_offsets_is_refused(self, tmp_path: Path) -> None:
        broker = Broker(holes=True)
        transaction = broker.transaction()
        transaction.append(topics.FILLS, [NewRecord(0, None, b"{}")])
        transaction.commit()
        broker.publish(topics.FILLS, [NewRecord(0, None, b"{}")])
        log = SqliteLog.open(tmp_path / "log.db", create=True)
        with pytest.raises(ValueError, match="fills:0 has no record at offset 1"):
            await copy_log(broker, log, Shard("main"))
        await log.close()


MAIN_LEDGER = TopicPartition(topics.FUND_LEDGER, 0)
