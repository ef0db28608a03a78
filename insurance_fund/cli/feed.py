"""Commands that bring events in: `publish` and `import`."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import orjson
import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.batches import batches
from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import TIME_MS_MAX
from insurance_fund.logs import open_log
from insurance_fund.settings import Settings
from insurance_fund.streams.adapters import load_adapters
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.partitions import count_partitions, partition_of
from insurance_fund.streams.sources.binance import Recording, read_recordings
from insurance_fund.streams.sources.cells import Remark

RECORDS_A_COMMIT: Final = 10_000
RECORDS_WAIT_S: Final = 0.2
REMARKS_SHOWN: Final = 20
_KEYS: Final = {topics.INSTRUMENTS: "instrument_id", topics.FUND_TRANSFERS: "margin_currency"}

import_app = typer.Typer(no_args_is_help=True, help="Import an exchange's recordings.")


def publish(
    topic: Annotated[str, typer.Argument(help=f"One of: {', '.join(topics.INPUT_TOPICS)}.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Newline-delimited JSON; standard input for none or -. What has come is appended "
            f"after {RECORDS_WAIT_S} s, or {RECORDS_A_COMMIT:,} lines, at the latest."
        ),
    ] = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Append messages to an input topic, each line byte for byte.

    A record has the time of its event, so that a file published to two logs gives the same ledger.
    Where the settings name another topic or an adapter for this input, the lines are the exchange's
    own, and go to its topic.
    """
    if topic not in topics.INPUT_TOPICS:
        raise SettingsError(f"no input topic {topic!r}; one of: {', '.join(topics.INPUT_TOPICS)}")
    settings = common.settings_for(log)
    named = {name: one for name, one in settings.adapters.items() if name == topic}
    adapter = load_adapters(named).get(topic)
    bytes_max = settings.number("record_bytes_max")
    stream = _open(file)
    counts: Counter[str] = Counter(published=0, not_json=0, empty_lines=0)

    def fields_of(line: bytes) -> dict[str, Any] | None:
        if adapter is None:
            return _fields(line)
        made = adapter.adapt(line, bytes_max)
        return {} if made is None else _fields(made.message or b"")

    def records() -> Iterator[NewRecord]:
        time_ms = None
        for raw in stream:
            line = raw.rstrip(b"\r\n")
            if not line.strip():
                counts["empty_lines"] += 1
                continue
            fields = fields_of(line)
            if fields is None:
                counts["not_json"] += 1
                key = b""
            else:
                key = str(fields.get(_KEYS.get(topic, "liquidation_id"), "")).encode()
                time_ms = _event_time(fields, time_ms)
            counts["published"] += 1
            yield NewRecord(0, key, line, timestamp_ms=time_ms)

    with stream:
        to = asyncio.run(_append(settings, topic, records()))
    if output is screen.Format.JSON:
        screen.show_json({"topic": to, **counts})
        return
    screen.say(f"{screen.counted(counts['published'], 'record')} published to {to}")
    if counts["not_json"]:
        wrong = "not a JSON object" if adapter is None else f"{adapter.name} fails"
        screen.complain(
            ": sent as they are, they will be rejected into dead-letters",
            head=f"{wrong}: {screen.counted(counts['not_json'], 'line')}",
        )


def _open(file: Path | None) -> BinaryIO:
    if file is None or str(file) == "-":
        if sys.stdin is None:
            raise SettingsError("there is no standard input: name a file")
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _event_time(fields: dict[str, Any], before_ms: int | None) -> int | None:
    time_ms = fields.get("event_time_ms")
    return time_ms if type(time_ms) is int and 0 <= time_ms <= TIME_MS_MAX else before_ms


@import_app.command("binance-forceorders", epilog=common.EXIT_CODES)
def import_binance(
    files: Annotated[
        list[Path], typer.Argument(help="CSV recordings of the !forceOrder@arr stream.")
    ],
    write_policy: Annotated[
        Path | None,
        typer.Option(help="Write the policy for this recording, for `run --policy`."),
    ] = None,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Import recorded Binance USD-M liquidation orders as takeovers, orders, fills and reports.

    The limit price is read as the bankruptcy price. Run them with `run --clock event`.
    """
    settings = common.settings_for(log)
    if settings.adapters:
        raise SettingsError(
            "these are messages of the fund's own, and the settings have adapters for: "
            f"{', '.join(settings.adapters)}; import them under other settings "
            "(INSURANCE_FUND_CONFIG)"
        )
    recording = read_recordings((file.name, _text_lines(file)) for file in files)
    if not recording.rows:
        raise SettingsError(
            f"no line of {', '.join(str(file) for file in files)} is a liquidation order; "
            f"the first is: {recording.junk[0].text if recording.junk else 'nothing'}"
        )
    if write_policy is not None:
        try:
            write_policy.write_bytes(_policy_text(recording))
        except OSError as error:
            raise SettingsError(f"{write_policy} cannot be written: {error.strerror}") from error
    for topic, records in recording.messages.items():
        asyncio.run(_append(settings, topic, records))
    if output is screen.Format.JSON:
        screen.show_json(_recording_row(recording))
        return
    _print_recording(recording, write_policy)


def _text_lines(file: Path) -> Iterator[str]:
    try:
        # A line that is no text is junk, and shown as such.
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            yield from stream
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error


def _policy_text(recording: Recording) -> bytes:
    return orjson.dumps(recording.policy, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _recording_row(recording: Recording) -> dict[str, Any]:
    return {
        "lines": recording.lines,
        "liquidations": recording.rows,
        "header_lines": recording.headers,
        "junk_lines": [remark._asdict() for remark in recording.junk],
        "notes": [remark._asdict() for remark in recording.notes],
        "published": {topic: len(records) for topic, records in recording.messages.items()},
        "instruments": len(recording.instruments),
        "scales": dict(recording.scales),
        "policy": dict(recording.policy),
    }


def _print_recording(recording: Recording, written: Path | None) -> None:
    say, counted = screen.say, screen.counted
    published = sum(len(records) for records in recording.messages.values())
    say(
        f"{counted(recording.rows, 'liquidation')} on "
        f"{counted(len(recording.instruments), 'instrument')}: "
        f"{counted(published, 'record')} published"
    )
    say(
        f"{counted(recording.lines, 'line')} read, of them {counted(recording.headers, 'header')} "
        f"and {len(recording.junk)} junk"
    )
    _print_remarks("junk", recording.junk)
    _print_remarks("note", recording.notes)
    for currency, scale in recording.scales.items():
        say(f"{currency}: a scale of {scale} decimals makes every amount exact")
    if written is None:
        say("The policy for it (--write-policy FILE writes it, `run --policy FILE` takes it):")
        for line in _policy_text(recording).decode().splitlines():
            say(line)
    else:
        say(f"The policy for it is in {written}: `run --clock event --policy {written}`")
    say(
        "Run this log with it from the first start: else the fund prices the orders itself and "
        "refuses those of the recording."
    )


def _print_remarks(kind: str, remarks: Sequence[Remark]) -> None:
    for remark in remarks[:REMARKS_SHOWN]:
        screen.complain(
            f" {remark.file}, line {remark.line}: {remark.text}", head=kind, style="bold"
        )
    if len(remarks) > REMARKS_SHOWN:
        screen.complain(f"and {len(remarks) - REMARKS_SHOWN} more ({kind}; --format json)")


async def _append(settings: Settings, topic: str, records: Iterable[NewRecord]) -> str:
    """Append to an input, whatever the bus calls it, and return the bus's name."""
    topic = settings.bus_topics.get(topic, topic)
    async with open_log(settings) as log:
        partitions = (await count_partitions(log, [topic]))[topic]
        with screen.progress_bar(f"publishing to {topic}") as moved:
            done = 0
            for batch in batches(records, RECORDS_A_COMMIT, RECORDS_WAIT_S):
                await log.publish(topic, [_placed(record, partitions) for record in batch])
                done += len(batch)
                moved(done)
    return topic


def _placed(record: NewRecord, partitions: int) -> NewRecord:
    return record._replace(partition=partition_of(record.key or b"", partitions))
