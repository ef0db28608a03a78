"""What-if on real ledgers: through the processor in both clock modes, and through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.streams.whatif import CAVEAT
from tests.embedded.command import command_json, run_command
from tests.embedded.shard import (
    HOUR_MS,
    ORDINARY,
    ManualClock,
    NoWallClock,
    Site,
    fill,
    fills,
    report,
    submitted,
    takeover,
)
from tests.embedded.test_binance_source import REAL_FILES
from tests.embedded.test_event_mode import SHORT, publish_mixed
from tests.embedded.test_recordings import real
from tests.unit.life import START_MS
from tests.unit.test_whatif import NO_CONCESSION, ask, assert_the_same, pair

SCENARIO = Path(__file__).parents[2] / "examples" / "scenario"
TOPICS = ("instruments", "fund-transfers", "liquidations", "fills")
POLICY = json.loads((SCENARIO / "policy.json").read_text())


class TestProcessor:
    async def test_ledger_of_event_mode_comes_out_the_same_under_its_own_policy(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "log.db", NoWallClock())
        await publish_mixed(site)
        await site.settle(clock="event", policy=SHORT)
        lines = await site.lines()
        await site.close()
        assert len(lines) > 50
        assert_the_same(ask(lines, SHORT))

    async def test_outage_with_a_backlog_comes_out_the_same_under_its_own_policy(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover(), takeover("liq-8"), takeover("liq-9"))
        await site.settle()
        clock.advance(HOUR_MS)
        await site.publish("fills", *fills(0, 10, quantity="10"), ORDINARY)
        await site.publish("fills", fill("x", "30", "liq-8:1"), partition=1)
        await site.publish("liquidations", report("liq-8:1", "expired", "50"))
        await site.settle(batch_max=2)
        clock.advance(HOUR_MS)
        await site.publish("fills", fill("y", "20", "liq-8:1"), partition=1)
        await site.settle(batch_max=2)
        what_if = ask(await site.lines(), {})
        assert_the_same(what_if)
        assert [one.outcome for one in what_if.after.liquidations.values()] == [
            "better_than_bankruptcy",
            "deleveraging",
            "deleveraging",
        ]

    async def test_backlog_of_an_outage_fills_the_order_of_its_time(
        self, site: Site, clock: ManualClock
    ) -> None:
        # The what-if's order ended during the outage; what filled it stands in the backlog.
        await site.open_fund(takeover())
        await site.settle()
        clock.advance(HOUR_MS)
        in_time = fill("in-time", "40", price="45100", time_ms=START_MS + 9_000)
        late = fill("late", "60", price="45100", time_ms=START_MS + 11_000)
        await site.publish("fills", in_time, late)
        await site.settle()
        what_if = ask(await site.lines(), {"default": {"attempts": [["0", 10_000]]}})
        assert what_if.fills() == [("in-time", "liq-7:1")]
        assert what_if.sums()["asked_notional"] == pair("0", "27000", "27000")

    async def test_order_of_the_exchange_that_waits_in_a_backlog_comes_out_the_same(
        self, site: Site, clock: ManualClock
    ) -> None:
        policy = {"default": {"order_pricing": "exchange"}}
        await site.open_fund(takeover())
        await site.settle(policy=policy)
        clock.advance(HOUR_MS)
        order = submitted("o1", "100", clock.wall + HOUR_MS)
        await site.publish("liquidations", *[takeover()] * 6, order)
        await site.publish("fills", fill("f1", "100", "o1", clock.wall, liquidation_id="liq-7"))
        await site.settle(batch_max=2)
        assert_the_same(ask(await site.lines(), policy))


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log and an export of the scenario, and two policies."""
    folder = tmp_path_factory.mktemp("scenario")
    for topic in TOPICS:
        run_command(folder, "publish", topic, SCENARIO / f"{topic}.ndjson")
    (folder / "own.json").write_text(json.dumps(POLICY))
    other = {**NO_CONCESSION, "currencies": POLICY["currencies"]}
    (folder / "other.json").write_text(json.dumps(other))
    run_command(folder, "run", "--clock", "event", "--until-idle", "--policy", "own.json")
    run_command(folder, "export", "ledger.ndjson")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    # Of SQLite's own files beside the log a reader may leave an empty one.
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("log.db-")}


class TestCommand:
    def test_own_policy_of_the_scenario_makes_no_difference(self, scenario: Path) -> None:
        told = command_json(scenario, "replay", "--policy", "own.json")
        assert (told["liquidations"], told["liquidations_in_all"]) == ([], 12)
        (sums,) = told["currencies"]
        assert {figure["difference"] for figure in sums.values() if isinstance(figure, dict)} == {
            "0"
        }
        assert told["notes"] == [CAVEAT]
        assert "0 of 12 liquidations: none" in (
            run_command(scenario, "replay", "--policy", "own.json").stdout
        )

    def test_other_policy_is_shown_per_liquidation_and_in_sum_and_nothing_is_written(
        self, scenario: Path
    ) -> None:
        before = files_of(scenario)
        told = command_json(scenario, "replay", "--policy", "other.json")
        assert files_of(scenario) == before
        rows = {row["liquidation_id"]: row for row in told["liquidations"]}
        lost = rows["L11-below-limit"]
        assert lost["outcome"] == {"recorded": "compensated", "what_if": "deleveraging"}
        assert lost["asked_notional"] == pair("0", "88.2", "88.2")
        assert lost["deleveraged_notional"] == pair("0", "0", "0")
        (sums,) = told["currencies"]
        assert sums["granted"]["what_if"] == "0"
        # Three that were deleveraged are asked for more here, and four others are asked for.
        assert sums["deleveraged"]["difference"] == "-3"
        assert sums["deleveraging"]["difference"] == "7"
        assert told["notes"][0] == CAVEAT

    def test_table_for_people_has_differences_sums_and_the_caveat(self, scenario: Path) -> None:
        shown = run_command(scenario, "replay", "--policy", "other.json").stdout
        assert "decided under another policy" in shown
        assert "compensated -> deleveraging" in shown
        assert "Sums in XBT" in shown
        assert f"note: {CAVEAT}" in shown

    def test_export_gives_the_same_answer_as_the_log(self, scenario: Path, tmp_path: Path) -> None:
        arguments = ("--policy", scenario / "other.json")
        exported = scenario / "ledger.ndjson"
        by_file = command_json(tmp_path, "replay", *arguments, "--ledger", exported)
        assert by_file == command_json(scenario, "replay", *arguments)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("policy", "says"),
        [
            ({"grace": 5}, "unknown field `grace`"),
            ({"default": {"attempt": []}}, "unknown field `attempt` - at `$.default`"),
            ({"default": {"attempts": [["0", 0]]}}, "$.default.attempts[0][1]"),
            ({"default": {"attempts": []}}, "$.default.attempts"),
            ({"default": {"attempts": [["1", 10]]}}, "policy: default.attempts[0]"),
            ({"default": {"liquidation_limit": "-1"}}, "policy: default.liquidation_limit"),
            ({"default": {"instrument_share": "1.1"}}, "policy: default.instrument_share"),
            ({"currencies": {"XBT": {"scale": 8, "floor": "-5"}}}, "currencies.XBT.floor"),
            ({"instruments": {"A": {"attempts": [["-1", 5]]}}}, "instruments.A.attempts[0]"),
            ({"currencies": {"USDT": {}}}, "policy: currencies.XBT is missing"),
            ({"currencies": {"XBT": {"scale": 2}}}, "policy: currencies.XBT.scale is 2"),
        ],
    )
    def test_policy_that_cannot_be_used_is_refused_by_its_key_and_nothing_is_written(
        self, scenario: Path, tmp_path: Path, policy: dict[str, Any], says: str
    ) -> None:
        (tmp_path / "bad.json").write_text(json.dumps(policy))
        before, log = files_of(tmp_path), files_of(scenario)
        refused = run_command(scenario, "replay", "--policy", tmp_path / "bad.json", code=2)
        assert says in refused.stderr
        assert refused.stdout == ""
        assert (files_of(tmp_path), files_of(scenario)) == (before, log)

    def test_policy_that_is_no_file_is_refused(self, scenario: Path) -> None:
        refused = run_command(scenario, "replay", "--policy", "none.json", code=2)
        assert "policy none.json: No such file" in refused.stderr

    def test_damaged_ledger_is_refused_with_its_sequence(
        self, scenario: Path, tmp_path: Path
    ) -> None:
        lines = (scenario / "ledger.ndjson").read_bytes().splitlines(keepends=True)
        (tmp_path / "gap.ndjson").write_bytes(b"".join(lines[:7] + lines[8:]))
        arguments = ("replay", "--policy", scenario / "own.json", "--ledger", "gap.ndjson")
        refused = run_command(tmp_path, *arguments, code=2)
        assert "sequence 7: entry 8 stands where 7 is expected" in refused.stderr
        assert "insurance-fund verify" in refused.stderr

    def test_recording_of_an_exchange_comes_out_the_same_under_its_own_policy(
        self, tmp_path: Path
    ) -> None:
        path = real(REAL_FILES[0])
        run_command(tmp_path, "import", "binance-forceorders", path, "--write-policy", "own.json")
        run_command(tmp_path, "run", "--clock", "event", "--until-idle", "--policy", "own.json")
        told = command_json(tmp_path, "replay", "--policy", "own.json")
        assert told["liquidations_in_all"] > 100
        assert (told["liquidations"], told["notes"]) == ([], [CAVEAT])

    def test_log_without_a_ledger_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "own.json").write_text(json.dumps(POLICY))
        run_command(tmp_path, "publish", "fills", SCENARIO / "fills.ndjson")
        refused = run_command(tmp_path, "replay", "--policy", "own.json", code=2)
        assert "the ledger is empty" in refused.stderr
