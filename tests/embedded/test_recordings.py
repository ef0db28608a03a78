"""Real recordings of force orders through the command: import, run, verify, replay."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from insurance_fund.events.amounts import exact
from insurance_fund.streams.sources.binance import read_recordings
from tests.embedded.command import command_json, run_command
from tests.embedded.test_binance_source import REAL, REAL_FILES, TRADE_FILES

SCALE_12 = {
    "currencies": {"USDT": {"scale": 12}, "USDC": {"scale": 12}},
    "default": {"order_pricing": "exchange"},
}


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


@exact
def gains(path: Path) -> dict[str, Decimal]:
    """Return the sum of (ap - p) z for SELL and (p - ap) z for BUY, by margin currency."""
    sums: Counter[str] = Counter()
    messages = read_recordings([(path.name, path.read_text(encoding="utf-8").splitlines())])
    junk = {remark.line for remark in messages.junk}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = [cell.strip() for cell in line.split(",")]
        if number in junk or cells[1] not in ("SELL", "BUY"):
            continue
        price, average, filled = Decimal(cells[5]), Decimal(cells[6]), Decimal(cells[9])
        gain = (average - price) * filled if cells[1] == "SELL" else (price - average) * filled
        currency = "USDC" if cells[0].endswith("USDC") else "USDT"
        sums[currency] += gain  # type: ignore[assignment]
    return {currency: Decimal(gain) for currency, gain in sums.items()}


@exact
def booked(ledger: Path) -> dict[str, Decimal]:
    """Return the sum of `delta` over `fill_booked`, by margin currency."""
    sums: dict[str, Decimal] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines():
        for effect in json.loads(line)["effects"]:
            if effect["type"] == "fill_booked":
                known = sums.get(effect["margin_currency"], Decimal(0))
                sums[effect["margin_currency"]] = known + Decimal(effect["delta"])
    return sums


@pytest.mark.parametrize("name", REAL_FILES)
def test_recording_is_booked_to_the_last_digit_verifies_and_replays(
    name: str, tmp_path: Path
) -> None:
    path = real(name)
    (tmp_path / "policy.json").write_text(json.dumps(SCALE_12))
    imported = command_json(tmp_path, "import", "binance-forceorders", path)
    assert imported["lines"] == (
        imported["liquidations"] + imported["header_lines"] + len(imported["junk_lines"])
    )
    run_command(tmp_path, "run", "--clock", "event", "--until-idle", "--policy", "policy.json")
    run_command(tmp_path, "verify")
    run_command(tmp_path, "replay")
    run_command(tmp_path, "export", "ledger.ndjson")
    assert booked(tmp_path / "ledger.ndjson") == gains(path)
    status = command_json(tmp_path, "status")
    assert (status["open_liquidations"], status["rejected"], status["parked"]) == ([], {}, 0)

    run_command(tmp_path, "import", "binance-forceorders", path)
    run_command(tmp_path, "run", "--until-idle")
    run_command(tmp_path, "verify")
    again = command_json(tmp_path, "status")
    assert again["funds"] == status["funds"]
    new = sum(imported["published"].values())
    assert again["entries"] == status["entries"] + new
    assert again["duplicates"] == status["duplicates"] + new


def test_two_runs_of_a_recording_give_the_same_bytes(tmp_path: Path) -> None:
    path = real(REAL_FILES[0])
    ledgers = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        run_command(folder, "import", "binance-forceorders", path, "--write-policy", "policy.json")
        run_command(folder, "run", "--clock", "event", "--until-idle", "--policy", "policy.json")
        run_command(folder, "export", "ledger.ndjson")
        ledgers.append((folder / "ledger.ndjson").read_bytes())
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("name", TRADE_FILES)
def test_file_of_trades_is_refused_by_what_it_is(name: str, tmp_path: Path) -> None:
    refused = run_command(tmp_path, "import", "binance-forceorders", real(name), code=2)
    assert "file of trades" in refused.stderr
    assert not (tmp_path / "log.db").exists()


def test_import_shows_each_junk_line_and_the_policy_that_makes_it_exact(tmp_path: Path) -> None:
    shown = run_command(tmp_path, "import", "binance-forceorders", real(REAL_FILES[0]))
    assert "line 1: 2 columns where 11 or 12 are expected" in shown.stderr
    assert "USDT: a scale of 8 decimals makes every amount exact" in shown.stdout
    assert '"order_pricing": "exchange"' in shown.stdout
