"""Commands that bring events in: `publish` and `import`."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from insurance_fund.cli import common
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.settings import Settings
from insurance_fund.streams.log import NewRecord

RECORDS_A_COMMIT: Final = 10_000
_KEYS: Final = {topics.INSTRUMENTS: "instrument_id", topics.FUND_TRANSFERS: "margin_currency"}

import_app = typer.Typer(no_args_is_help=True, help="Import an exchange's recordings.")


def publish(
    topic: Annotated[str, typer.Argument(help=f"One of: {', '.join(topics.INPUT_TOPICS)}.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="Newline-delimited JSON; standard input where none is given."),
    ] = None,
    log: common.LogOption = None,
    output: common.FormatOption = common.Format.TABLE,
) -> None:
    """Append messages to an input topic, each line byte for byte."""
    if topic not in topics.INPUT_TOPICS:
        raise SettingsError(f"no input topic {topic!r}; one of: {', '.join(topics.INPUT_TOPICS)}")
    settings = common.settings_for(log)
    counts: Counter[str] = Counter(published=0, not_json=0, empty_lines=0)

    def records() -> Iterator[NewRecord]:
        for line in _lines(file):
            if not line.strip():
                counts["empty_lines"] += 1
                continue
            key = _key(topic, line)
            if key is None:
                counts["not_json"] += 1
            counts["published"] += 1
            yield NewRecord(0, key, line)

    asyncio.run(_append(settings, topic, records()))
    if output is common.Format.JSON:
        common.print_json({"topic": topic, **counts})
        return
    common.console.print(f"{counts['published']} records published to {topic}")
    if counts["not_json"]:
        common.errors.print(
            f"[bold red]{counts['not_json']} of them are no JSON object[/]: they were sent as they "
            "are and will be rejected into dead-letters"
        )


def _lines(file: Path | None) -> Iterator[bytes]:
    if file is None:
        for line in sys.stdin.buffer:
            yield line.rstrip(b"\r\n")
        return
    try:
        with file.open("rb") as stream:
            for line in stream:
                yield line.rstrip(b"\r\n")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error


def _key(topic: str, line: bytes) -> bytes | None:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    return str(fields.get(_KEYS.get(topic, "liquidation_id"), "")).encode()


async def _append(settings: Settings, topic: str, records: Iterable[NewRecord]) -> None:
    async with common.open_publisher(settings) as publisher:
        with common.progress_bar(f"publishing to {topic}") as moved:
            iterator, done = iter(records), 0
            while batch := list(islice(iterator, RECORDS_A_COMMIT)):
                await publisher.publish(topic, batch)
                done += len(batch)
                moved(done)
