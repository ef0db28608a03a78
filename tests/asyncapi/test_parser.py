"""docs/asyncapi.yaml passes AsyncAPI's own parser, as package-lock.json here pins it.

It needs Node.js with npm. The parser is installed once, into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

HERE: Final = Path(__file__).parent
FILE: Final = HERE.parents[1] / "docs" / "asyncapi.yaml"
LOCKED: Final = ("package.json", "package-lock.json")
INSTALL_S: Final = 300
PARSE_S: Final = 120
# What npm says where there is no way to a registry.
UNREACHABLE: Final = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH")


@pytest.fixture(scope="session")
def parser() -> Path:
    """Return the folder where the parser is installed."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"there is no {command} here: AsyncAPI's parser needs Node.js with npm")
    pinned = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LOCKED)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "insurance-fund" / f"asyncapi-parser-{pinned[:16]}"
    if not folder.is_dir():
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        new = Path(made) / "new"
        new.mkdir()
        for name in LOCKED:
            shutil.copy(HERE / name, new)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"],
            check=False,
            capture_output=True,
            cwd=new,
            text=True,
            timeout=INSTALL_S,
        )
        if done.returncode and any(code in done.stderr for code in UNREACHABLE):
            why = done.stderr.strip().splitlines()[0]
            pytest.skip(f"AsyncAPI's parser cannot be installed, no way to a registry: {why}")
        assert done.returncode == 0, done.stderr
        try:
            new.rename(folder)
        except OSError:
            assert folder.is_dir(), "another run may have been quicker"


def parse(parser: Path, file: Path) -> Any:
    done = subprocess.run(
        ["node", HERE / "validate.cjs", file],
        check=True,
        capture_output=True,
        cwd=parser,
        text=True,
        timeout=PARSE_S,
    )
    return json.loads(done.stdout)


def test_parser_finds_neither_errors_nor_warnings(parser: Path) -> None:
    seen = parse(parser, FILE)
    assert seen["found"] == []
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert seen["channels"] == list(document["channels"])
    assert seen["read"] == document, "YAML 1.1 and 1.2 read it alike"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("action: receive", "action: take"),
        ("#/components/schemas/fill'", "#/components/schemas/fills'"),
        ("- compact", "- compress"),
        ("bindingVersion: '0.5.0'", "bindingVersion: '0.0.5'"),
        ("type: object", "type: thing"),
        ("payload:", "content:"),
    ],
)
def test_parser_finds_what_is_wrong(parser: Path, tmp_path: Path, right: str, wrong: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "asyncapi.yaml"
    broken.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert parse(parser, broken)["found"] != []


def test_lock_pins_the_parser_and_records_no_download_addresses() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    lock = json.loads((HERE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {n: packages[f"node_modules/{n}"]["version"] for n in wanted} == wanted
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for package in packages.values())
