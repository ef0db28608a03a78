"""Every command on Kafka as on a file: the same bytes go in, the same bytes come out."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import topics
from insurance_fund.events.ledger import InputCause, decode_entry
from tests.embedded.command import COMMAND, command_json, run_command
from tests.embedded.sessions import run_session_command, session
from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIQUIDATIONS = 60


@pytest.fixture
async def url(broker: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log with topics that nobody has written to, which the commands take for theirs."""
    await make_topics(broker.bootstrap, prefix, ["main"])
    url = f"kafka://{broker.bootstrap}/{prefix}"
    monkeypatch.setenv("INSURANCE_FUND_LOG", url)
    return url


@pytest.mark.usefixtures("url")
def test_session_of_the_readme_prints_the_same_to_the_last_hash(tmp_path: Path) -> None:
    commands = list(session(README))
    assert len(commands) > 5
    for command, shown in commands:
        assert run_session_command(command, tmp_path) == [line.rstrip() for line in shown], command


def test_demo_leaves_the_ledger_that_it_leaves_in_a_file(url: str, tmp_path: Path) -> None:
    demo = ("demo", "--headless", "--liquidations", LIQUIDATIONS)
    run_command(tmp_path, *demo, "--log", "sqlite:demo.db")
    run_command(tmp_path, *demo, "--log", url)
    for name, log in (("file", "sqlite:demo.db"), ("kafka", url)):
        for command in ("verify", "replay"):
            report = command_json(tmp_path, command, "--log", log)
            assert (report["findings"], report["entries"] > 500) == ([], True)
        run_command(tmp_path, "export", f"{name}.ndjson", "--log", log)
    lines = (tmp_path / "kafka.ndjson").read_bytes()
    assert lines == (tmp_path / "file.ndjson").read_bytes()
    refused = run_command(tmp_path, *demo, "--log", url, code=2)
    assert "has records on fund-ledger already" in refused.stderr
    read = run_command(tmp_path, "read", "fund-ledger", "--log", url).stdout
    assert read.encode() == lines


def test_exchange_and_fund_play_together_by_the_wall_clock(url: str, tmp_path: Path) -> None:
    policy = {"default": {"attempts": [["0.01", 1_500]]}, "grace_ms": 5_000}
    (tmp_path / "policy.json").write_text(json.dumps(policy), encoding="utf-8")
    with _running(tmp_path, url) as service:
        played = command_json(
            tmp_path, "exchange", "--log", url, *("--liquidations", 15, "--speed", 60)
        )
        assert played["liquidations"]["ended"] == played["liquidations"]["started"] == 15
        service.terminate()
        out, err = service.communicate(timeout=60)
        assert service.returncode == 0, (out, err)
    assert re.search(r"ledger main: \d+ entries written", out.decode())
    assert command_json(tmp_path, "verify", "--log", url)["findings"] == []
    lines = run_command(tmp_path, "read", "fund-ledger", "--log", url).stdout.splitlines()
    taken = [_input(line) for line in lines]
    fills = [one for one in taken if one is not None and one.topic == topics.FILLS]
    # The ordinary ones among them stand on the topic and in no entry.
    on_topic = run_command(tmp_path, "read", "fills", "--log", url).stdout.splitlines()
    assert 0 < len(fills) < len(on_topic)


@contextmanager
def _running(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service, once it may write."""
    service = subprocess.Popen(
        [COMMAND, "run", "--log", url, "--policy", "policy.json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert service.stderr is not None
        for line in service.stderr:
            if b"running" in line:
                break
        yield service
    finally:
        service.kill()
        service.wait()


def _input(line: str) -> InputCause | None:
    cause: Any = decode_entry(line.encode()).cause
    return cause if isinstance(cause, InputCause) else None
