"""The command `projections`, as processes on a real log and a real database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from insurance_fund.events import topics
from insurance_fund.projections import tables
from insurance_fund.projections.database import BUILDING, open_database
from insurance_fund.projections.projector import Position, move_position, read_positions
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.command import COMMAND, HANG_S, command_json, run_command
from tests.projections.ledgers import random_ledger, records_of, rows_of

LINES = random_ledger(21)
HOOK = Position(17, "a" * 64, 18, 1_767_312_000_000)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with a log that holds a ledger, and a read-model database beside it."""
    write_ledger(tmp_path, LINES)
    run_command(tmp_path, "projections", "rebuild")
    return tmp_path


def write_ledger(folder: Path, lines: list[bytes]) -> None:
    async def write() -> None:
        log = SqliteLog.open(folder / "log.db", create=True)
        await log.publish(topics.FUND_LEDGER, [NewRecord(0, b"main", line) for line in lines])
        await log.close()

    asyncio.run(write())


def database_of(folder: Path) -> str:
    return f"sqlite:{folder / 'insurance-fund-views.db'}"


def positions_of(folder: Path) -> dict[tuple[str, str], Position]:
    database = open_database(database_of(folder))
    with database.connect() as connection:
        positions = read_positions(connection)
    database.close()
    return positions


def hook(folder: Path) -> None:
    """Let a webhook have come somewhere."""
    database = open_database(database_of(folder))
    with database.begin() as connection:
        move_position(connection, "webhook:desk", "main", Position(), HOOK)
    database.close()


def rows_in(folder: Path) -> dict[str, Any]:
    database = open_database(database_of(folder))
    try:
        return rows_of(database)
    finally:
        database.close()


def test_rebuild_check_and_status_agree_about_the_head(site: Path) -> None:
    (built,) = command_json(site, "projections", "rebuild")
    (checked,) = command_json(site, "projections", "check")
    (status,) = command_json(site, "projections", "status")
    head = {name: built[name] for name in ("ledger", "sequence", "sha256")}
    assert head["sequence"] == len(LINES) - 1
    for told in (checked, status):
        assert {name: told[name] for name in head} == head
    assert checked["findings"] == []
    assert status["entries_behind"] == 0
    run_command(site, "export", "ledger.ndjson")
    assert json.loads((site / "ledger.ndjson.head.json").read_text(encoding="utf-8")) == head


def test_check_finds_a_row_that_was_changed_and_rebuild_puts_it_right(site: Path) -> None:
    rows = rows_in(site)
    database = open_database(database_of(site))
    with database.begin() as connection:
        connection.execute(update(tables.instruments).values(gains=7))
    database.close()
    (checked,) = command_json(site, "projections", "check", code=1)
    assert {one["table"] for one in checked["findings"]} == {"instruments"}
    told = run_command(site, "projections", "check", code=1).stdout
    assert "gains 7, rebuilt gains" in told
    assert "`insurance-fund projections rebuild` puts them right" in told
    run_command(site, "projections", "rebuild")
    run_command(site, "projections", "check")
    assert rows_in(site) == rows


def test_rebuild_leaves_webhooks_where_they_were(site: Path) -> None:
    hook(site)
    run_command(site, "projections", "rebuild")
    assert positions_of(site)["webhook:desk", "main"] == HOOK
    names = [row["name"] for row in command_json(site, "projections", "status")]
    assert sorted(names) == ["read_models", "webhook:desk"]


def test_rebuild_puts_a_damaged_file_aside_and_keeps_what_webhooks_had(site: Path) -> None:
    rows = rows_in(site)
    hook(site)
    path = site / "insurance-fund-views.db"
    whole = bytearray(path.read_bytes())
    # Somewhere in the rows; the pages that tell what there is, and the positions, stay.
    database = open_database(database_of(site))
    with database.connect() as connection:
        page = connection.exec_driver_sql(
            "SELECT rootpage FROM sqlite_master WHERE name = 'liquidations'"
        ).scalar_one()
    database.close()
    whole[(page - 1) * 4096 : page * 4096] = b"\x5a" * 4096
    path.write_bytes(whole)
    refused = run_command(site, "projections", "check", code=2).stderr
    assert "damaged" in refused
    assert "`insurance-fund projections rebuild`" in refused
    told = run_command(site, "projections", "rebuild").stderr
    assert "insurance-fund-views.db.damaged-1" in told
    assert "webhooks" not in told
    assert rows_in(site) == rows
    assert positions_of(site)["webhook:desk", "main"] == HOOK
    assert (site / "insurance-fund-views.db.damaged-1").read_bytes() == whole


def test_rebuild_of_a_file_that_cannot_be_read_says_that_webhooks_begin_anew(site: Path) -> None:
    rows = rows_in(site)
    hook(site)
    (site / "insurance-fund-views.db").write_bytes(b"\x5a" * 9_999)
    told = run_command(site, "projections", "rebuild").stderr
    assert "how far webhooks had come could not be read" in told
    assert rows_in(site) == rows
    assert set(positions_of(site)) == {("read_models", "main")}


def test_rebuild_that_was_killed_leaves_read_models_that_are_refused(tmp_path: Path) -> None:
    write_ledger(tmp_path, LINES)
    # A ledger that breaks off half way stops a rebuild where a kill might.
    log = tmp_path / "log.db"
    whole = log.read_bytes()
    broken = records_of(LINES)[30].value or b""
    log.write_bytes(whole.replace(broken, broken.replace(b'"sequence":30', b'"sequence":39')))
    stopped = run_command(tmp_path, "projections", "rebuild", code=1).stderr
    assert "entry 30 is missing, 39 follows 29" in stopped
    for command in ("status", "check"):
        refused = run_command(tmp_path, "projections", command, code=2).stderr
        assert "cut off" in refused
        assert "`insurance-fund projections rebuild`" in refused
    log.write_bytes(whole)
    run_command(tmp_path, "projections", "rebuild")
    run_command(tmp_path, "projections", "check")


def test_rebuild_in_hand_when_it_is_killed_is_begun_anew(site: Path) -> None:
    rows = rows_in(site)
    database = open_database(database_of(site))
    # The lock keeps the rebuild from getting further than its mark.
    process = subprocess.Popen(
        [COMMAND, "projections", "rebuild"],
        cwd=site,
        env={**os.environ, "INSURANCE_FUND_LOG": "sqlite:log.db"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while database.state() != BUILDING and process.poll() is None:
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(HANG_S)
        database.close()
    run_command(site, "projections", "rebuild")
    run_command(site, "projections", "check")
    assert rows_in(site) == rows


@pytest.mark.parametrize("command", ["check", "status"])
def test_read_models_that_are_not_there_are_not_said_to_be_right(
    command: str, tmp_path: Path
) -> None:
    write_ledger(tmp_path, LINES)
    refused = run_command(tmp_path, "projections", command, code=2).stderr
    assert "there are no read models in" in refused
    assert "`insurance-fund projections rebuild`" in refused
    assert not (tmp_path / "insurance-fund-views.db").exists()


def test_check_of_read_models_that_nobody_has_begun_is_refused(tmp_path: Path) -> None:
    write_ledger(tmp_path, LINES)
    open_database(database_of(tmp_path)).close()
    refused = run_command(tmp_path, "projections", "check", code=2).stderr
    assert "have nothing of ledger main" in refused


@pytest.mark.parametrize("command", [("projections", "rebuild"), ("serve", "--port", "0")])
def test_file_of_the_log_is_not_taken_for_read_models(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    write_ledger(tmp_path, LINES)
    whole = (tmp_path / "log.db").read_bytes()
    where = ("--database", f"sqlite:{tmp_path / 'log.db'}")
    refused = run_command(tmp_path, *command, *where, code=2).stderr
    assert "database and log are the same file" in refused
    assert (tmp_path / "log.db").read_bytes() == whole


def test_ledger_that_is_not_there_yet_gives_empty_read_models(tmp_path: Path) -> None:
    write_ledger(tmp_path, [])
    (built,) = command_json(tmp_path, "projections", "rebuild")
    assert built["sequence"] == -1
    run_command(tmp_path, "projections", "check")
