"""The README: its session is run as it stands, and its picture of the demo is the demo's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HANG_S = 120


def session() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the README's session, each with the lines that it prints."""
    (block,) = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = iter(block.splitlines())
    command, shown = "", list[str]()
    for line in lines:
        if not line.startswith("$ "):
            shown.append(line)
            continue
        if command:
            yield command, shown
        command, shown = line.removeprefix("$ "), []
        if "<<'END'" in command:
            for part in lines:
                command += "\n" + part
                if part == "END":
                    break
    yield command, shown


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_session_prints_what_the_readme_shows(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    commands = list(session())
    assert len(commands) > 5
    for command, shown in commands:
        done = subprocess.run(
            ["sh", "-c", command],
            check=True,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            text=True,
            timeout=HANG_S,
        )
        assert trimmed(done.stdout) == [line.rstrip() for line in shown], command


def test_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```\n\$ make demo\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [Path(sys.executable).with_name("insurance-fund"), "demo"],
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
