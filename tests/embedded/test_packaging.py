"""The wheel: built, installed in a clean environment, every module imported from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = {"events": "events", "fund": "fund", "streams": "streams", "projections": "projections"}

# With these a process begins: importing them reads the settings.
BEGIN = ("__main__", "projections.app", "projections.webhooks_app")

IMPORT_ALL = f"""
import importlib, importlib.resources, pkgutil, sys
import insurance_fund
names = ["insurance_fund"]
names += [m.name for m in pkgutil.walk_packages(insurance_fund.__path__, "insurance_fund.")]
for name in names:
    if not name.endswith({BEGIN!r}):
        importlib.import_module(name)
files = importlib.resources.files("insurance_fund")
assert files.joinpath("py.typed").is_file()
print(insurance_fund.__file__)
dashboard = files.joinpath("projections", "dashboard")
for name in ("index.html", "uplot/uPlot.iife.min.js", "uplot/LICENSE"):
    assert dashboard.joinpath(*name.split("/")).is_file()
print(len([f for f in files.joinpath("events", "schemas").iterdir() if f.name.endswith(".json")]))
print(" ".join(sorted(names)))
"""


def _modules() -> set[str]:
    found = {"insurance_fund"}
    for folder, package in {"insurance_fund": "", **ROOMS}.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "insurance_fund" and parts[0] in ROOMS:
                continue  # the links to the rooms
            parts = tuple(part for part in (package, *parts) if part and part != "__init__")
            found.add(".".join(("insurance_fund", *parts)))
    return found


def test_wheel_holds_every_module_the_schemas_and_the_type_marker(tmp_path: Path) -> None:
    # A copy, so that nothing comes from an earlier build and nothing is left behind.
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.db")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False)
    python = clean / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
            *("--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)),
        ],
        check=True,
    )
    # What it depends on comes from where the tests run; .pth files (and with them the editable
    # install of this very project) count for nothing in a PYTHONPATH.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    shown = subprocess.run(
        [python, "-c", IMPORT_ALL],
        check=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    where, schemas, modules = shown
    assert Path(where).is_relative_to(clean)
    assert int(schemas) == len(list((ROOT / "events" / "schemas").glob("*.json")))
    assert set(modules.split()) == _modules()
    command = clean / "bin" / "insurance-fund"
    version = subprocess.run(
        [command, "--version"], check=True, env=environment, capture_output=True, text=True
    )
    assert version.stdout.startswith("insurance-fund ")
