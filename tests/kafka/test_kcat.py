"""The lines for kcat in the README do what they say, where kcat is installed."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from insurance_fund.events import topics
from tests.kafka.cluster import Cluster
from tests.kafka.downstream import Downstream, recorded_steps

README: Final = Path(__file__).parents[2] / "README.md"
BOOTSTRAP: Final = "localhost:9092"
WAIT_S: Final = 60
NEVER: Final = b"never-committed"


def kcat_lines() -> list[str]:
    """Return the commands that begin with kcat in the README's blocks, with what they go on to."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    whole = "".join(blocks).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in whole.splitlines() if line.startswith("$ kcat ")]


def test_readme_has_lines_for_kcat_on_triggers_and_on_the_ledger() -> None:
    lines = kcat_lines()
    for topic in (topics.ADL_TRIGGERS, topics.FUND_LEDGER):
        assert any(f"-t {topic} " in line for line in lines), f"none reads {topic}"
    for line in lines:
        assert f"-b {BOOTSTRAP} " in line
        assert "-X isolation.level=read_committed" in line


async def test_lines_of_the_readme_show_what_was_committed_and_nothing_else(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("there is no kcat here (Debian, Ubuntu: apt-get install kcat)")
    lines, steps = kcat_lines(), recorded_steps()
    assert lines, "the README has no line that begins with `$ kcat `"
    downstream = Downstream(broker, prefix)
    await downstream.create()
    half = len(steps) // 2
    never = [
        step._replace(
            entry=NEVER,
            triggers=[t._replace(record=t.record._replace(value=NEVER)) for t in step.triggers],
        )
        for step in steps[half:]
    ]
    async with downstream.producer() as producer:
        await downstream.write(producer, steps[:half])
        await downstream.write(producer, never, abort=True)
        await downstream.write(producer, steps[half:])
        await downstream.write(producer, never, abort=True)
    for number, line in enumerate(lines):
        folder = tmp_path / str(number)
        folder.mkdir()
        shown = await _run(folder, _for(downstream, line))
        told: dict[str, list[bytes | None]] = {
            topics.FUND_LEDGER: [step.entry for step in steps],
            topics.ADL_TRIGGERS: [t.record.value for step in steps for t in step.triggers],
        }
        (values,) = (told[topic] for topic in told if f"-t {topic} " in line)
        assert len(shown) == len(values)
        assert NEVER not in b"".join(shown)
        for value in values:
            assert sum(value is not None and value in line for line in shown) == 1
        if (folder / "ledger.ndjson").exists():
            assert shown == values, "the file is the ledger"


def _for(downstream: Downstream, line: str) -> str:
    """Return a line for the broker of the tests, ending at the end of the topic."""
    line = line.replace(BOOTSTRAP, downstream.cluster.bootstrap)
    return f"{line.replace(' -t ', f' -t {downstream.prefix}.')} -e -q"


async def _run(folder: Path, line: str) -> list[bytes]:
    """Return the lines that a command shows, or writes into files of the folder."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            shown, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    return [*shown.splitlines(), *_lines_of_files(folder)]


def _lines_of_files(folder: Path) -> list[bytes]:
    return [line for file in folder.iterdir() for line in file.read_bytes().splitlines()]
