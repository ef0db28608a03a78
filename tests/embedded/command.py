"""The command `insurance-fund` as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
HANG_S: Final = 120


def run_command(
    folder: Path, *arguments: object, code: int = 0, stdin: bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` on the log `log.db` there; its exit code must be `code`."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "INSURANCE_FUND_LOG": "sqlite:log.db", **environment},
        input=stdin,
        timeout=HANG_S,
    )
    shown = subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )
    assert done.returncode == code, f"{arguments}: {shown.stdout}\n{shown.stderr}"
    return shown


def command_json(folder: Path, *arguments: object, code: int = 0) -> Any:
    """Run the command with `--format json` and return what it prints."""
    return json.loads(run_command(folder, *arguments, "--format", "json", code=code).stdout)
