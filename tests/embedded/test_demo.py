"""The demo as a person runs it, and what it leaves: a log like that of any fund."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace as replace_struct

from insurance_fund.cli.live import PORT, PORTS_TRIED, Show
from insurance_fund.cli.play import keep_log, money
from insurance_fund.events import topics
from insurance_fund.fund.policy import Policy, parse_policy
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.paper.crash import crash
from insurance_fund.streams.paper.game import Game, play_game
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import HANG_S, command_json, run_command
from tests.embedded.log_contract import records_to_end
from tests.embedded.served import serve
from tests.embedded.shard import MAIN, NoWallClock

DEMO = ("demo", "--headless", "--seed", 4, "--liquidations", 300)
SHORT = ("demo", "--headless", "--liquidations", 5)
# A crash of half an hour in a quarter of a minute.
LIVE = ("demo", "--speed", 100, "--liquidations", 12)
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
    (fund,) = [one for one in status["funds"] if one["in_use"]]
    played = told["with_compensation"]
    assert {o: group["liquidations"] for o, group in played["ended"].items()} == fund["closed"]
    assert sum(fund["closed"].values()) == 300
    assert played["after"] == fund["total"]
    for name in ("lowest", "gains", "draws", "granted", "used", "shortfall"):
        assert played[name] == fund[name]
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
    assert sum(map(Decimal, played["by_instrument"].values())) == Decimal(played["draws"]) < 0


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


def cells_under(shown: str, head: str) -> list[str]:
    """Return the cells of the first row under the head of a table."""
    lines = [line.split() for line in shown.splitlines()]
    return lines[lines.index(head.split()) + 2]


def test_figures_for_people_are_those_for_programs(tmp_path: Path) -> None:
    shown = run_command(tmp_path, *SHORT, TMPDIR=str(tmp_path)).stdout
    told = command_json(tmp_path, *SHORT, "--log", "sqlite:log.db")
    played, bare = told["with_compensation"], told["without_compensation"]

    def figures(told: dict[str, Any], *names: str) -> list[str]:
        return [f"{Decimal(told[name]):,.2f}" for name in names]

    names = ("before", "lowest", "after", "gains", "draws")
    assert cells_under(shown, "before lowest after gains draws") == figures(played, *names)
    assert cells_under(shown, "granted used") == figures(played, "granted", "used")
    assert Decimal(played["granted"]) > Decimal(played["used"]) > 0
    for policy, one in (("default", played), ("no compensation", bare)):
        deleveraged = one["deleveraged"]
        row = [str(deleveraged["liquidations"]), *figures(deleveraged, "notional")]
        assert [*policy.split(), *row, *figures(one, "after")] in map(str.split, shown.splitlines())


def test_demo_in_which_nothing_was_drawn_names_a_liquidation_all_the_same(tmp_path: Path) -> None:
    told = command_json(
        tmp_path, *SHORT, "--seed", 3, "--liquidations", 1, "--log", "sqlite:log.db"
    )
    assert told["with_compensation"]["draws"] == "0"
    _, explain, _, _ = told["next"]
    assert command(tmp_path, explain).startswith("Liquidation liq-0001")


def test_hints_of_the_module_run_by_python_can_be_typed(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            words,
            check=True,
            capture_output=True,
            cwd=tmp_path,
            # Where no `insurance-fund` is found.
            env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
            timeout=HANG_S,
        )
        return done.stdout

    module = (sys.executable, "-m", "insurance_fund")
    arguments = (*map(str, SHORT), "--log", "sqlite:log.db", "--format", "json")
    status, *_ = json.loads(run(*module, *arguments))["next"]
    assert shlex.split(status) == [*module, "status", "--log", "sqlite:log.db"]
    assert "Ledger main" in run(*shlex.split(status))


@pytest.mark.parametrize(
    ("scale", "shown"),
    [(0, "1,235"), (1, "1,234.6"), (2, "1,234.57"), (6, "1,234.57"), (8, "1,234.56789012")],
)
def test_money_is_shown_in_cents_and_coins_are_not_rounded_to_them(scale: int, shown: str) -> None:
    assert money(Decimal("1234.567890123456789"), scale) == shown
    assert money(Decimal("1234.567890123456789"), 18) == "1,234.56789012"


def test_log_that_has_records_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    before = (folder / "log.db").read_bytes()
    refused = run_command(folder, *SHORT, "--log", "sqlite:log.db", code=2)
    assert "sqlite:log.db has records on fund-ledger already" in refused.stderr
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
        (("--headless", "--speed", "2"), "--speed and --port are of the live demo"),
        (("--headless", "--port", "0"), "--speed and --port are of the live demo"),
        (("--format", "json"), "--format json needs --headless"),
        (("--speed", "0"), "--speed must be from 0.1 to 100; got 0"),
        (("--speed", "nan"), "--speed must be from"),
        (("--log", "kafka://127.0.0.1:1"), "keeps its log in a file"),
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


class TestLiveDemo:
    """The demo as a service: one process, one port, until Ctrl-C."""

    def test_crash_is_played_to_its_end_and_what_it_leaves_can_be_audited(
        self, tmp_path: Path
    ) -> None:
        with serve(tmp_path, *LIVE, "--log", "sqlite:log.db", "--port", 0) as live:
            live.wait_for(b"The crash is over; the dashboard is served until Ctrl-C.")
            assert b"<title>Insurance fund</title>" in fetched(live.url)
            deadline_s = time.monotonic() + HANG_S
            while any_open(live.url):
                assert time.monotonic() < deadline_s
            shown = live.stop()
        assert "The demo has ended: 12 liquidations started, 12 ended" in shown
        status = command_json(tmp_path, "status")
        (fund,) = [one for one in status["funds"] if one["in_use"]]
        assert sum(fund["closed"].values()) == 12
        assert status["rejected"] == {}
        *_, verify, replay, served = shown.splitlines()
        for line in (verify, replay):
            assert "\nclean\n" in command(tmp_path, line)
        assert served.endswith("serve --log sqlite:log.db --database sqlite:log-views.db")

    def test_demo_that_is_stopped_in_the_middle_leaves_a_ledger_that_goes_on(
        self, tmp_path: Path
    ) -> None:
        arguments = ("demo", "--speed", 100, "--log", "sqlite:log.db", "--port", 0)
        with serve(tmp_path, *arguments) as live:
            live.stop()
        before = command_json(tmp_path, "status")["entries"]
        assert before > 0
        (ran,) = command_json(tmp_path, "run", "--until-idle")
        assert ran["entries"] >= before
        assert "\nclean\n" in run_command(tmp_path, "verify").stdout

    def test_port_that_is_taken_is_told_and_the_usual_one_gives_way(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            refused = run_command(tmp_path, *LIVE, "--port", port, code=2, TMPDIR=str(tmp_path))
            assert f"port {port} of 127.0.0.1 cannot be had" in refused.stderr
        with usual_port_taken(), serve(tmp_path, *LIVE, "--log", "sqlite:log.db") as live:
            found = urlsplit(live.url).port
            assert found is not None
            assert PORT < found <= PORT + PORTS_TRIED
            live.stop()

    @pytest.mark.parametrize(("speed", "life_ms"), [(0.5, 60_000), (3.0, 10_000), (100.0, 1_000)])
    def test_orders_live_as_much_shorter_as_the_crash_is_faster(
        self, speed: float, life_ms: int
    ) -> None:
        policy = Show(Path("log.db"), "main", 1, speed).policy
        assert policy.default.attempts == (("0.01", life_ms),)
        usual = Policy()
        assert policy == replace_struct(usual, default=policy.default)


def any_open(url: str) -> bool:
    funds = json.loads(fetched(f"{url}v1/funds"))["funds"]
    return any(fund["open_liquidations"] for fund in funds)


def usual_port_taken() -> AbstractContextManager[object]:
    try:
        return socket.create_server(("127.0.0.1", PORT))
    except OSError:
        return nullcontext()  # somebody else has it, which does as well


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
        content: bytes = answer.read()
    return content


@pytest.fixture(scope="module")
def game() -> Game:
    """A game under a policy that is not the default one."""
    policy = parse_policy({"default": {"attempts": [["0", 5_000], ["0.02", 15_000]]}})
    return asyncio.run(play_game(crash(9, 40), policy, MAIN))


@pytest.fixture(scope="module")
def kept(game: Game, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the log of the game is kept."""
    path = tmp_path_factory.mktemp("kept") / "log.db"
    keep_log(game, partial(SqliteLog.open, path, create=True))
    return path


class TestKeptLog:
    """The log of a game, written by a fund of its own."""

    async def test_topics_have_the_keys_and_the_bytes_of_the_game(
        self, game: Game, kept: Path
    ) -> None:
        log = SqliteLog.open_reader(kept)
        for topic in ALL_TOPICS:
            where = TopicPartition(topic, 0)
            records, _ = await records_to_end(log, where, 0)
            played = [appended.record for appended in game.broker.appended_to(where)]
            assert [(r.key, r.value) for r in records] == [(r.key, r.value) for r in played]
            if topic in topics.INPUT_TOPICS:
                assert records == played
            if topic == topics.FUND_LEDGER:
                assert len(records) == len(game.lines) > 100
        await log.close()

    async def test_fund_goes_on_with_it_as_with_its_own(self, game: Game, kept: Path) -> None:
        log = SqliteLog.open(kept, create=False)
        fund = Processor(log, MAIN, Options(until_idle=True), NoWallClock())
        await fund.start()
        await fund.run()
        assert (fund.entries_written, fund.state.head) == (0, game.head)
        await log.close()

    def test_game_that_its_inputs_do_not_lead_to_is_noticed(
        self, game: Game, tmp_path: Path
    ) -> None:
        other = replace(game, policy=parse_policy({}))
        with pytest.raises(AssertionError, match="the same records make the same ledger"):
            keep_log(other, partial(SqliteLog.open, tmp_path / "log.db", create=True))
