"""The backtest as a person runs it: on the real tape of 2023, and on what it must refuse."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.command import command_json, run_command
from tests.embedded.test_hyperliquid_source import EARLIER, LATER, LEG, LIQUIDATED, REAL, write

ROOT = Path(__file__).parents[2]
NONE, HALF, ONE, TWO, FIVE = "0", "0.005", "0.01", "0.02", "0.05"
# Real takeovers that come within the lifetime of each other's orders share this little of the fund.
TIGHT = {"instrument_share": "0.01"}


def policy_file(folder: Path, name: str, document: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def conceding(concession: str, **rules: str) -> dict[str, Any]:
    return {"default": {"attempts": [[concession, 20_000]], **rules}}


def backtest(folder: Path, *policies: Path, data: Path = REAL, **options: str) -> dict[str, Any]:
    """Run it; return its rows by the names of the policies."""
    arguments = [x for path in policies for x in ("--policy", path)]
    arguments += [x for name, value in options.items() for x in (f"--{name}", value)]
    told = command_json(folder, "backtest", "hyperliquid", data, *arguments)
    return {row["policy"]: row for row in told["policies"]}


def by_concession(folder: Path, **rules: str) -> list[Decimal]:
    """Return the notional deleveraged on the real tape, by rising concession."""
    made = folder / "policies"
    made.mkdir()
    files = [policy_file(made, k, conceding(k, **rules)) for k in (NONE, HALF, ONE, TWO, FIVE)]
    rows = backtest(folder, *files)
    return [Decimal(rows[file.stem]["deleveraged"]["notional"]) for file in files]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the backtest printed and kept of the real tape; tests only look at it."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not on this machine")
    folder = tmp_path_factory.mktemp("backtest")
    told = command_json(folder, "backtest", "hyperliquid", REAL, "--keep", "kept")
    (folder / "told.json").write_text(json.dumps(told))
    return folder


def rows_of(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "told.json").read_text())
    return {row["policy"]: row for row in told["policies"]}


def test_without_a_policy_the_default_stands_beside_no_compensation(played: Path) -> None:
    rows = rows_of(played)
    assert list(rows) == ["default", "no-compensation"]
    default, bare = rows.values()
    for row in rows.values():
        assert sum(group["liquidations"] for group in row["ended"].values()) == 69
        assert row["before"] == "1000"
        gained = Decimal(row["gains"]) + Decimal(row["draws"])
        assert Decimal(row["after"]) == Decimal(row["before"]) + gained
        drawn = {name: Decimal(amount) for name, amount in row["by_instrument"].items()}
        assert sum(drawn.values()) == Decimal(row["draws"])
        assert row["worst_instrument"] == min(drawn, key=lambda name: drawn[name], default=None)
    assert default["worst_instrument"] in default["by_instrument"]
    assert (bare["granted"], bare["draws"], bare["worst_instrument"]) == ("0", "0", None)
    deleveraged, more = (Decimal(row["deleveraged"]["notional"]) for row in (default, bare))
    assert 0 < deleveraged < more


@pytest.mark.parametrize("name", ["default", "no-compensation"])
def test_log_that_is_kept_verifies_replays_and_has_the_numbers_of_the_table(
    name: str, played: Path
) -> None:
    row = rows_of(played)[name]
    assert row["log"] == f"sqlite:kept/{name}.db"
    assert "\nclean\n" in run_command(played, "verify", "--log", row["log"]).stdout
    assert "\nclean\n" in run_command(played, "replay", "--log", row["log"]).stdout
    status = command_json(played, "status", "--log", row["log"])
    assert (status["open_liquidations"], status["rejected"], status["parked"]) == ([], {}, 0)
    (fund,) = [one for one in status["funds"] if one["in_use"]]
    assert {o: group["liquidations"] for o, group in row["ended"].items()} == fund["closed"]
    for figure in ("gains", "draws", "lowest", "granted", "used"):
        assert row[figure] == fund[figure]
    assert row["after"] == fund["total"]


def first_entry(folder: Path, log: str, tmp_path: Path) -> Any:
    file = tmp_path / "first.ndjson"
    run_command(folder, "export", file, "--log", log)
    return json.loads(file.read_text().splitlines()[0])


def test_without_compensation_an_order_lives_as_long_at_the_bankruptcy_price(
    played: Path, tmp_path: Path
) -> None:
    default, bare = (
        first_entry(played, row["log"], tmp_path)["cause"]["policy"]
        for row in rows_of(played).values()
    )
    ((_, lifetime_ms),) = default["default"]["attempts"]
    assert bare["default"]["attempts"] == [["0", lifetime_ms]]
    del default["default"]["attempts"], bare["default"]["attempts"]
    assert bare == default


def test_two_runs_of_the_whole_tape_give_the_same_bytes(played: Path, tmp_path: Path) -> None:
    again = command_json(tmp_path, "backtest", "hyperliquid", REAL, "--keep", "kept")
    assert again == json.loads((played / "told.json").read_text())
    for name in rows_of(played):
        ledgers: list[bytes] = []
        for folder in (played, tmp_path):
            file = tmp_path / f"{len(ledgers)}.ndjson"
            run_command(folder, "export", file, "--log", f"sqlite:kept/{name}.db")
            ledgers.append(file.read_bytes())
        assert ledgers[0] == ledgers[1]


@pytest.mark.usefixtures("played")
class TestConcession:
    def test_with_an_ample_share_of_the_fund_more_concession_deleverages_less(
        self, tmp_path: Path
    ) -> None:
        notionals = by_concession(tmp_path, instrument_share="1")
        assert notionals == sorted(notionals, reverse=True)
        assert notionals[0] > notionals[1] > notionals[2] > notionals[3]

    def test_with_little_to_share_more_concession_can_deleverage_more(self, tmp_path: Path) -> None:
        notionals = by_concession(tmp_path, **TIGHT)
        one, two, five = notionals[2:]
        assert one < two == five < notionals[0]


@pytest.mark.usefixtures("played")
def test_tables_of_the_policy_page_are_what_the_command_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n\$ insurance-fund backtest .*?\n(.*?)^```", page, re.DOTALL | re.M)
    assert len(blocks) == 2
    for block in blocks:
        head, _, *rows = block.rstrip().splitlines()
        files = [ROOT / "examples" / "policies" / f"{row.split()[0]}.json" for row in rows]
        policies = [x for file in files for x in ("--policy", file)]
        shown = run_command(tmp_path, "backtest", "hyperliquid", REAL, *policies).stdout
        printed = [line.rstrip() for line in shown.splitlines()]
        assert [line for line in (head, *rows) if line not in printed] == []


def test_table_for_people_has_a_line_a_policy(played: Path, tmp_path: Path) -> None:
    file = policy_file(tmp_path, "generous", conceding(FIVE))
    shown = run_command(
        played, "backtest", "hyperliquid", REAL, "--policy", file, "--fund", "20000.5"
    )
    assert shown.stdout.startswith(
        "62 liquidations, taken over as 69 positions on 14 instruments; 34,824 trades in 35,691 "
        "rows (729 stand there from both sides and count once)\n"
    )
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith(" generous")]
    assert "20,000.50" in line
    assert shown.stderr.count("note ") == 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data of one liquidation and some trades."""
    folder = tmp_path / "data"
    folder.mkdir()
    return write(folder, EARLIER, LEG, LATER)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"default": {"concession": "0.01"}}, "unknown field `concession`"),
        ({"default": {"liquidation_limit": "-1"}}, "default.liquidation_limit"),
        ({"instruments": {"ETH": {"attempts": [["-0.01", 5]]}}}, "instruments.ETH.attempts[0]"),
        (
            {"default": {"attempts": [["0.02", 5_000], ["0.01", 25_000]]}},
            "default.attempts[1] overlaps with the attempt before",
        ),
        (
            {"instruments": {"ETH": {"attempts": [["0", 5], ["0.03", 5], ["0.02", 5]]}}},
            "instruments.ETH.attempts[2] overlaps with the attempt before",
        ),
        ({"default": {"order_pricing": "exchange"}}, 'default.order_pricing must be "fund"'),
        ({"currencies": {"USDT": {"scale": 6}}}, "currencies names no USDC"),
    ],
)
def test_policy_file_that_is_wrong_is_refused_by_its_name_and_key_and_nothing_is_written(
    document: Any, said: str, data: Path, tmp_path: Path
) -> None:
    good = policy_file(tmp_path, "good", conceding(ONE))
    bad = policy_file(tmp_path, "bad", document)
    refused = run_command(
        tmp_path,
        *("backtest", "hyperliquid", data, "--policy", good, "--policy", bad, "--keep", "kept"),
        code=2,
    )
    assert "bad.json" in refused.stderr
    assert said in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fund", "0"), "--fund must be an amount above zero"),
        (("--fund", "1e3"), "--fund must be an amount above zero"),
        (("--fund", "0.0000001"), "of at most 6 decimals"),
        (("--policy", "nowhere.json"), "nowhere.json"),
        (("--policy", "same.json", "--policy", "other/same.json"), "two policies are called same"),
        (("--keep", "taken"), "taken/default.db is there already"),
    ],
)
def test_options_that_are_wrong_are_refused_and_nothing_is_written(
    arguments: tuple[str, ...], said: str, data: Path, tmp_path: Path
) -> None:
    for folder in ("other", "taken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "taken" / "default.db").write_text("mine")
    for file in (tmp_path, tmp_path / "other"):
        policy_file(file, "same", conceding(ONE))
    before = sorted(tmp_path.rglob("*"))
    refused = run_command(tmp_path, "backtest", "hyperliquid", data, *arguments, code=2)
    assert said in refused.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken" / "default.db").read_text() == "mine"


def test_data_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, liquidations=(LIQUIDATED.replace("1000", "-1"),))
    refused = run_command(tmp_path, "backtest", "hyperliquid", ".", "--keep", "kept", code=2)
    assert "liquidations.csv, line 2" in refused.stderr
    assert not (tmp_path / "kept").exists()


def test_policy_keeps_its_floor_and_is_raised_to_the_decimals_of_the_data(
    data: Path, tmp_path: Path
) -> None:
    floor = {"currencies": {"USDC": {"scale": 2, "floor": "999.5"}}}
    rows = backtest(tmp_path, policy_file(tmp_path, "floor", floor), data=data, keep="kept")
    first = first_entry(tmp_path, rows["floor"]["log"], tmp_path)
    currency = first["cause"]["policy"]["currencies"]["USDC"]
    assert currency == {"scale": 6, "floor": "999.5"}
