"""Sessions of a document: the commands in its `console` blocks, and the lines that they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HANG_S: Final = 120


def session(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a document's sessions, each with the lines that it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from _commands(block)


def _commands(block: str) -> Iterator[tuple[str, list[str]]]:
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
    """Return the lines of a text that are not blank, without what does not show at their ends."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def run_session_command(command: str, folder: Path) -> list[str]:
    """Run a command, which must succeed, as a reader would, and return what it prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        check=False,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return trimmed(done.stdout)
