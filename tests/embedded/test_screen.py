"""What people see: records are plain text, tables fit the terminal, feeds do not wait."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.command import COMMAND, HANG_S, command_json, run_command
from tests.embedded.test_binance_source import REAL, REAL_FILES

TIME_MS = 1_767_312_000_000


def line(kind: str, name: str, **fields: Any) -> bytes:
    message = {
        "type": kind,
        "event_id": name,
        "event_time_ms": TIME_MS,
        "margin_currency": "USDT",
        **fields,
    }
    return json.dumps(message).encode() + b"\n"


INSTRUMENT = line(
    "instrument_defined",
    "i1",
    instrument_id="BTCUSDT",
    contract_type="linear",
    contract_size="0.01",
    tick_size="0.1",
    quantity_step="1",
    closing_fee_rate="0.0005",
)
TAKEOVER = line(
    "position_taken_over",
    "t1",
    liquidation_id="liq-7",
    account_id="acc",
    instrument_id="BTCUSDT",
    position_side="long",
    quantity="10",
    entry_price="50000",
    margin="500",
)


def fill(order_id: str) -> bytes:
    return line(
        "fill",
        "f1",
        fill_id="f1",
        liquidation_id="liq-7",
        order_id=order_id,
        instrument_id="BTCUSDT",
        side="sell",
        price="44700",
        quantity="4",
    )


def unfilled(reason: str) -> bytes:
    return line(
        "adl_unfilled",
        "u1",
        liquidation_id="liq-7",
        trigger_id="liq-7:adl",
        quantity="10",
        reason=reason,
    ).replace(str(TIME_MS).encode(), str(TIME_MS + 60_000).encode())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with a liquidation, a refused fill and a reason, all with brackets and escapes."""
    run_command(tmp_path, "publish", "instruments", stdin=INSTRUMENT)
    deposit = line("fund_deposit", "d1", transfer_id="d1", amount="123456.789012", memo="[b]m[/b]")
    run_command(tmp_path, "publish", "fund-transfers", "-", stdin=deposit)
    told = TAKEOVER + unfilled("queue [empty] \x1b[31m[/]")
    run_command(tmp_path, "publish", "liquidations", stdin=told)
    run_command(tmp_path, "publish", "fills", stdin=fill("[/x]"))
    run_command(tmp_path, "run", "--clock", "event", "--until-idle")
    return tmp_path


def test_brackets_and_escapes_in_records_are_shown_as_such(log: Path) -> None:
    story = run_command(log, "explain", "liq-7").stdout
    assert "got '[/x]'" in story
    assert "queue [empty] \N{REPLACEMENT CHARACTER}[31m[/]" in story
    assert "\x1b" not in story
    run_command(log, "status")
    run_command(log, "verify")


def test_brackets_in_arguments_are_shown_as_such(tmp_path: Path, log: Path) -> None:
    wrong = run_command(tmp_path, "publish", "fills", "a[/b].ndjson", code=2)
    assert "a[/b].ndjson: No such file" in wrong.stderr
    assert "'x[/foo]'" in run_command(log, "explain", "x[/foo]", code=2).stderr


@pytest.mark.parametrize("width", [60, 80, 200])
def test_amounts_are_never_broken_however_narrow_the_terminal(log: Path, width: int) -> None:
    main, other = pty.openpty()
    environment = {"INSURANCE_FUND_LOG": "sqlite:log.db", "COLUMNS": str(width)}
    process = subprocess.Popen(
        [COMMAND, "status"], cwd=log, env={**os.environ, **environment}, stdout=other
    )
    os.close(other)
    shown = b""
    with suppress(OSError):  # how a terminal ends whose other side is closed
        while part := os.read(main, 65_536):
            shown += part
    os.close(main)
    assert process.wait(HANG_S) == 0
    text = shown.decode()
    assert "123456.789012" in text
    assert "2026-01-02T" in text


def test_lines_of_a_feed_are_appended_as_they_come(tmp_path: Path) -> None:
    run_command(tmp_path, "publish", "instruments", stdin=INSTRUMENT)
    environment = {**os.environ, "INSURANCE_FUND_LOG": "sqlite:log.db"}
    with (
        subprocess.Popen(
            [COMMAND, "publish", "instruments"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as feed,
        subprocess.Popen(
            [COMMAND, "read", "instruments", "--from", "1", "--follow"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
        ) as reader,
    ):
        assert feed.stdin is not None
        assert reader.stdout is not None

        def end_all() -> None:
            # A line that never comes must not be waited for without end.
            reader.kill()
            feed.kill()

        hung = threading.Timer(HANG_S, end_all)
        hung.start()
        for number in range(3):
            told = line("fund_deposit", f"d{number}", transfer_id=f"d{number}", amount="1", memo="")
            feed.stdin.write(told)
            feed.stdin.flush()
            assert reader.stdout.readline() == told
        hung.cancel()
        assert feed.poll() is None, "the feed is still open"
        reader.terminate()
        feed.stdin.close()
        assert feed.wait(HANG_S) == 0


def test_topics_are_read_byte_for_byte_from_an_offset_on(log: Path) -> None:
    orders = run_command(log, "read", "liquidation-orders").stdout.splitlines()
    assert [json.loads(order)["order_id"] for order in orders] == ["liq-7:1"]
    (letter,) = run_command(log, "read", "dead-letters").stdout.splitlines()
    assert json.loads(letter)["reason"] == "bad_order_id"
    assert run_command(log, "read", "dead-letters", "--from", "1").stdout == ""
    entries = run_command(log, "read", "fund-ledger", "--from", "1").stdout
    run_command(log, "export", "ledger.ndjson")
    assert entries == "".join((log / "ledger.ndjson").read_text().splitlines(keepends=True)[1:])
    assert "no topic" in run_command(log, "read", "orders", code=2).stderr


def test_head_that_a_witness_knows_stays_one_when_the_ledger_grows(log: Path) -> None:
    head = command_json(log, "export", "ledger.ndjson")["head"]
    deposit = line("fund_deposit", "d2", transfer_id="d2", amount="1", memo="")
    run_command(log, "publish", "fund-transfers", stdin=deposit)
    run_command(log, "run", "--until-idle")
    notes = command_json(log, "verify", "--head", head.upper())["notes"]
    assert any(note.startswith("the witness knows sequence") for note in notes)
    assert "64 hex digits" in run_command(log, "verify", "--head", "abc", code=2).stderr
    run_command(log, "verify", "--head", "0" * 64, code=1)


def test_shards_that_changed_places_are_refused_by_readers_and_writers(tmp_path: Path) -> None:
    settings = tmp_path / "insurance-fund.toml"
    settings.write_text('[shards]\nusd = ["USDT", "USDC"]\ncoins = ["XBT", "BTC", "ETH"]\n')
    run_command(tmp_path, "run", "--until-idle")
    settings.write_text('[shards]\ncoins = ["XBT", "BTC", "ETH"]\nusd = ["USDT", "USDC"]\n')
    for command in (("status",), ("verify",), ("replay",), ("export", "l.ndjson")):
        refused = run_command(tmp_path, *command, "--shard", "usd", code=2)
        assert "place 1 of the log holds ledger 'coins', not 'usd'" in refused.stderr
    assert "place 0" in run_command(tmp_path, "run", "--until-idle", code=2).stderr
    settings.write_text('[shards]\nusd = ["USDT", "USDC", "DOGE"]\ncoins = ["XBT"]\n')
    refused = run_command(tmp_path, "run", "--until-idle", code=2)
    assert "shards.usd: the policy names no currency DOGE" in refused.stderr


def test_export_replaces_nothing_but_plain_files(log: Path) -> None:
    refused = run_command(log, "export", "/dev/null", code=2)
    assert "/dev/null is no plain file" in refused.stderr
    assert not Path("/dev/null").is_file()


def test_file_that_is_no_ledger_cannot_be_verified(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no\nledger\n")
    refused = run_command(tmp_path, "verify", "--ledger", "text", code=2)
    assert "no line of this is a ledger entry" in refused.stderr


def test_policy_of_all_recordings_together_is_one_that_run_takes(tmp_path: Path) -> None:
    files = [REAL / name for name in REAL_FILES]
    if not all(file.exists() for file in files):
        pytest.skip(f"the recordings are not in {REAL}")
    run_command(tmp_path, "import", "binance-forceorders", *files, "--write-policy", "policy.json")
    run_command(tmp_path, "run", "--clock", "event", "--until-idle", "--policy", "policy.json")
    run_command(tmp_path, "verify")
    status = command_json(tmp_path, "status")
    assert (status["rejected"], status["open_liquidations"]) == ({}, [])
