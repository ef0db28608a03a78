"""Writes docs/asyncapi.yaml, with examples out of a ledger.

`python -m insurance_fund.asyncapi LEDGER FILE` takes the lines of a ledger as `export` writes them
and decides each again, so that every example is a message as it really goes over the bus. It needs
PyYAML, which nothing else here does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from insurance_fund.events import asyncapi, topics
from insurance_fund.events import effects as fx
from insurance_fund.events.asyncapi import KEY_FIELDS, LEDGER_ENTRY, Example
from insurance_fund.events.errors import CorruptionError, InsuranceFundError
from insurance_fund.events.ledger import Entry, InputCause, decode_entry
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.state import State
from insurance_fund.streams.outbox import Outbox
from insurance_fund.version import VERSION

# Of the ledger itself the first entries are shown that begin with these.
_ENTRIES: Final = (fx.ShardOpened, fx.PositionTakenOver, fx.OrderClosed, fx.FillBooked)
_REFUSED: Final = (fx.Rejected, fx.DuplicateIgnored)
# What YAML 1.2 reads as a number and PyYAML, which keeps to 1.1, would leave without quotes.
_LIKE_A_NUMBER: Final = re.compile(r"[-+.]?[0-9].*")


def examples_of(lines: Iterable[bytes]) -> dict[str, list[Example]]:
    """Return the first message of each name that a ledger shows, inputs, outputs and entries.

    Raises CorruptionError where these rules would not have written the same ledger.
    """
    keeper = Bookkeeper("", State())
    found: dict[str, list[Example]] = {}
    entries: dict[type[fx.Effect], Example] = {}
    for line in lines:
        entry = decode_entry(line)
        keeper.ledger = keeper.ledger or entry.ledger
        written = keeper.again(entry)
        if written.line != line:
            raise CorruptionError("it is decided otherwise by these rules", entry.sequence)
        _take_input(entry, found)
        outbox = Outbox(entry.ledger, dict.fromkeys(topics.OUTPUT_TOPICS, 1))
        for message in written.messages:
            headers = dict(outbox.outbound(message).record.headers)
            told = {name: value.decode() for name, value in headers.items()}
            example = Example(message.event_id, message.key, told, orjson.loads(message.value))
            found.setdefault(message.type, [example])
        first = type(entry.effects[0]) if entry.effects else fx.Effect
        name = f"{entry.ledger}-{entry.sequence}"
        entries.setdefault(first, Example(name, entry.ledger, {}, orjson.loads(line)))
    found[LEDGER_ENTRY] = [entries[kind] for kind in _ENTRIES if kind in entries]
    return found


def _take_input(entry: Entry, found: dict[str, list[Example]]) -> None:
    cause = entry.cause
    if not isinstance(cause, InputCause) or any(isinstance(e, _REFUSED) for e in entry.effects):
        return
    value = cause.value()
    if value is not None:
        payload = orjson.loads(value)
        key = payload[KEY_FIELDS[cause.topic]]
        found.setdefault(payload["type"], [Example(payload["event_id"], key, {}, payload)])


def yaml_of(document: Mapping[str, Any]) -> str:
    """Write a document as YAML that readers of YAML 1.1 and 1.2 understand alike."""
    import yaml  # noqa: PLC0415 - only who writes the file needs it

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else "'" if _LIKE_A_NUMBER.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(
        dict(document), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return "# Written by `make schemas`, from the code and a recorded ledger.\n" + written


def content(ledger: Path) -> str:
    """Return what the file has to hold, with the examples of a ledger.

    Raises CorruptionError for a ledger that cannot be decided again.
    """
    lines = ledger.read_bytes().splitlines()
    return yaml_of(asyncapi.document(VERSION, examples_of(lines)))


def main(arguments: list[str]) -> int:
    """Write the file; return the exit code."""
    try:
        ledger, file = map(Path, arguments)
    except ValueError:
        print("usage: python -m insurance_fund.asyncapi LEDGER FILE", file=sys.stderr)
        return 2
    try:
        file.write_text(content(ledger), encoding="utf-8")
    except (InsuranceFundError, OSError) as error:
        print(f"{ledger}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
