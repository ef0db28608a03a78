"""JSON Schema 2020-12 of every message and of the ledger entry, generated into `schemas/`.

`python -m insurance_fund.events.schemas` writes the files anew; a test holds them to the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from insurance_fund.events.ledger import Entry
from insurance_fund.events.messages import INPUTS, OUTPUTS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FOLDER: Final = Path(__file__).parent / "schemas"


def schemas() -> dict[str, bytes]:
    """Return the schema files by name; inputs accept unknown fields, outputs have none."""
    files = {}
    for types in (*INPUTS.values(), *OUTPUTS.values()):
        for message_type in types:
            tag = message_type.__struct_config__.tag
            files[f"{tag}.json"] = _schema(message_type, str(tag))
    files["ledger_entry.json"] = _schema(Entry, "ledger_entry")
    return files


def _schema(kind: type[msgspec.Struct], title: str) -> bytes:
    (reference,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    document: dict[str, Any] = {
        "$schema": DIALECT,
        "title": title,
        **reference,
        "$defs": dict(sorted(components.items())),
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def write(folder: Path = FOLDER) -> None:
    """Write the schema files, and take away those of messages that are no more."""
    folder.mkdir(exist_ok=True)
    files = schemas()
    for path in folder.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write()
