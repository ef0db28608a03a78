"""The README: its session is run as it stands, and its picture of the demo is the demo's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.embedded.sessions import HANG_S, run_session_command, session, trimmed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_session_prints_what_the_readme_shows(tmp_path: Path) -> None:
    commands = list(session(README))
    assert len(commands) > 5
    for command, shown in commands:
        assert run_session_command(command, tmp_path) == [line.rstrip() for line in shown], command


def test_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```\n\$ insurance-fund demo --headless\n(.*?)^```", README, re.DOTALL | re.MULTILINE
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("insurance-fund"), "demo", "--headless"],
        check=True,
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
        timeout=HANG_S,
    )
    printed = trimmed(done.stdout)
    shown = trimmed(block)
    start = printed.index(shown[0])
    assert printed[start : start + len(shown)] == shown


def test_pages_and_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 5
    for link in links:
        page = ROOT / link
        assert page.exists(), link
        assert page.is_dir() or page.stat().st_size > 100, f"{link} is empty"
    assert "@@" not in README
