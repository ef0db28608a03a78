"""The command `simulate` as a person runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from insurance_fund.cli import simulate
from insurance_fund.streams.simulator.trial import Outcome
from tests.embedded.command import command_json, run_command

COMMAND = Path(sys.executable).with_name("insurance-fund")
HANG_S = 60


def test_numbers_are_the_same_whenever_it_is_run(tmp_path: Path) -> None:
    told = command_json(tmp_path, "simulate", "--seed", "3", "--seeds", "12")
    assert told == command_json(tmp_path, "simulate", "--seed", "3", "--seeds", "12")
    assert (told["scenarios"], told["failures"]) == (12, {})
    assert told["inputs"] >= 12 * 300
    assert sum(told["faults"].values()) >= 12 * 5
    assert sum(told["endings"].values()) >= 12


def test_table_says_what_held(tmp_path: Path) -> None:
    shown = run_command(tmp_path, "simulate", "--seeds", "1").stdout
    assert "1 scenario with 3" in shown
    assert "held: every input is covered exactly once" in shown


def test_seed_that_fails_is_printed_with_the_command_that_plays_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulate._print(Outcome(trials=3, failures={7: ["an entry is missing"]}))
    shown = capsys.readouterr().out
    assert "seed 7: an entry is missing" in shown
    assert "simulate --seed 7 --seeds 1" in shown
    assert "held" not in shown


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_command_that_is_interrupted_leaves_no_worker_behind(
    name: signal.Signals, tmp_path: Path
) -> None:
    # Workers hold the pipe open as long as they live.
    with subprocess.Popen(
        [COMMAND, "simulate", "--seeds", "100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not list the children of a process")
        while len(children.read_text().split()) < 2:
            assert process.poll() is None
        os.kill(process.pid, name)
        process.communicate(timeout=HANG_S)
        assert process.returncode != 0
