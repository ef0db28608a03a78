"""Kafka's jars in a cache folder of this machine, fetched by Maven once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

KAFKA_VERSION: Final = "4.4.0"
BROKER_FOLDER: Final = Path(__file__).parent / "broker"


class JarsUnavailableError(Exception):
    """The jars cannot be had here; the message says why."""


def cache_folder() -> Path:
    """Returns the folder in which this machine keeps what is made for the broker."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "insurance-fund" / f"kafka-{KAFKA_VERSION}"


def digest(text: str) -> str:
    """Returns a short name for a text, by which a cached file is found only for that text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def made_once(target: Path, make: Callable[[Path], None]) -> None:
    """Makes a file or folder under another name and moves it into place when it is whole.

    Of two processes that do so at once the first one's stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unfinished-") as name:
        fresh = Path(name) / target.name
        make(fresh)
        with contextlib.suppress(OSError):
            fresh.rename(target)
    if not target.exists():
        raise FileNotFoundError(target)


def class_path() -> str:
    """Returns the class path of the broker, fetching the jars with Maven if they are missing.

    Raises JarsUnavailableError if Maven cannot fetch them.
    """
    pom = BROKER_FOLDER / "pom.xml"
    folder = cache_folder() / f"jars-{digest(pom.read_text())}"
    if not folder.is_dir():
        made_once(folder, lambda target: _fetch(pom, target))
    return ":".join(str(jar) for jar in sorted(folder.glob("*.jar")))


def _fetch(pom: Path, target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise JarsUnavailableError("there is no Maven (mvn) to fetch Kafka's jars")
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    try:
        done = subprocess.run(
            [*command, f"-DoutputDirectory={target}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise JarsUnavailableError("Maven did not fetch the jars within 600 s") from late
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        cause = errors[0] if errors else done.stdout[-300:]
        raise JarsUnavailableError(f"Maven could not fetch the jars: {cause}")
