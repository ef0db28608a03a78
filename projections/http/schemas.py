"""Schemas of answers, the rows of tables by the tables themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Table

from insurance_fund.events.fields import COUNT_MAX, TIME_MS_MAX
from insurance_fund.events.messages import Evidence
from insurance_fund.events.terms import Caps
from insurance_fund.projections import tables

Schema = dict[str, Any]

AMOUNT: Final[Schema] = {
    "type": "string",
    "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$",
    "description": "an exact decimal",
}
TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": COUNT_MAX}
TIME_MS: Final[Schema] = {
    "type": "integer",
    "minimum": 0,
    "maximum": TIME_MS_MAX,
    "description": "milliseconds since 1970 UTC",
}
SIGNED_MS: Final[Schema] = {"type": "integer", "description": "milliseconds"}
SHA256: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
CURSOR: Final[Schema] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_TEMPLATE: Final = "#/components/schemas/{name}"


def ref(name: str) -> Schema:
    """Refer to a schema of the components."""
    return {"$ref": _TEMPLATE.format(name=name)}


def maybe(schema: Schema) -> Schema:
    """Describe a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema) -> Schema:
    """Describe a list."""
    return {"type": "array", "items": schema}


def fields(description: str = "", /, **properties: Schema) -> Schema:
    """Describe an object that has all of these fields and no other."""
    return {
        "type": "object",
        **({"description": description} if description else {}),
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def mapped(schema: Schema) -> Schema:
    """Describe an object of any names."""
    return {"type": "object", "additionalProperties": schema}


def row(
    table: Table,
    but: tuple[str, ...] = (),
    renamed: Mapping[str, str] | None = None,
    **more: Schema,
) -> Schema:
    """Describe a row of a table, columns left out or renamed, and what is added to it."""
    names = renamed or {}
    # Plain texts: a column's name is of a class of its own, which JSON does not know.
    columns = {str(c.name): _column(c) for c in table.columns if c.name not in but}
    renamed_columns = {names.get(name, name): schema for name, schema in columns.items()}
    return fields(**renamed_columns, **more)


def _column(column: Column[Any]) -> Schema:
    if isinstance(column.type, tables.Amount):
        schema = AMOUNT
    elif isinstance(column.type, Boolean):
        schema = FLAG
    elif isinstance(column.type, BigInteger):
        schema = TIME_MS if column.name.endswith("_ms") else COUNT
    else:
        schema = TEXT
    return maybe(schema) if column.nullable else schema


_PART: Final = ("ledger", "liquidation_id", "takeover_sequence")
_COMPENSATION: Final = {"granted": "compensation_granted", "used": "compensation_used"}
_, _MESSAGES = msgspec.json.schema_components((Evidence, Caps), ref_template=_TEMPLATE)

WINDOW: Final = fields(
    "The instrument's share of the fund in the rolling window, as of the ledger's position.",
    share=AMOUNT,
    window_ms=COUNT,
    window_maximum=AMOUNT,
    limit=AMOUNT,
    used=AMOUNT,
    headroom=AMOUNT,
)

COMPONENTS: Final[dict[str, Schema]] = {
    **_MESSAGES,
    "Problem": {
        "type": "object",
        "description": "RFC 9457; `detail` says what is allowed.",
        "properties": {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "instance": TEXT,
        },
        "required": ["type", "title", "status", "detail", "instance"],
        "additionalProperties": False,
    },
    "Position": fields(
        "How far the read models of a ledger have come: the last entry in them and its hash.",
        ledger=TEXT,
        sequence=COUNT,
        now_ms=TIME_MS,
        sha256=SHA256,
    ),
    "Window": WINDOW,
    "Fund": row(
        tables.funds,
        renamed=_COMPENSATION,
        total=AMOUNT,
        window_ms=COUNT,
        window_maximum=AMOUNT,
        instruments=listed(fields(instrument_id=TEXT, **WINDOW["properties"])),
    ),
    "EntryPoint": row(tables.fund_history, but=("ledger", "margin_currency"), total=AMOUNT),
    "MinutePoint": row(
        tables.fund_minutes,
        but=("ledger", "margin_currency", "minute", "peak", "level"),
        total=AMOUNT,
        now_ms=TIME_MS,
        window_maximum={
            **AMOUNT,
            "description": "The highest total in the default window, withdrawals not counted as "
            "lost; as of the minute's end (or of now, while it runs), by the policy as it is now.",
        },
        instruments={
            **listed(fields(instrument_id=TEXT, limit=AMOUNT, used=AMOUNT)),
            "description": "The share of each instrument that there is now: its limit, and what "
            "of it was used; as of the same time, by the policy as it is now.",
        },
    ),
    "Liquidation": row(tables.liquidations, time_left_ms=maybe(SIGNED_MS)),
    "Order": row(tables.orders, but=(*_PART, "caps"), caps=maybe(ref("Caps"))),
    "Trigger": row(
        tables.adl_triggers,
        but=("evidence", "executions"),
        evidence=ref("Evidence"),
        age_ms=SIGNED_MS,
        execution_count=COUNT,
        revisions=listed(
            row(tables.adl_revisions, but=(*_PART, "evidence"), evidence=ref("Evidence"))
        ),
        executions=listed(row(tables.adl_executions, but=_PART)),
    ),
    "Instrument": row(tables.instruments, renamed=_COMPENSATION, window=maybe(ref("Window"))),
    "Line": fields(sequence=COUNT, now_ms=TIME_MS, effect=TEXT, text=TEXT),
    "Head": fields(
        "The last entry of a ledger, for witnesses outside.",
        ledger=TEXT,
        sequence=COUNT,
        sha256=SHA256,
    ),
    "Ledger": fields(
        "`sequence`, `now_ms` and `sha256` are of the read models (their chain is verified up to "
        "there), null where there are none yet; `head_sequence` is of the log, null where it "
        "cannot be read or has no entry.",
        ledger=TEXT,
        sequence=maybe(COUNT),
        now_ms=maybe(TIME_MS),
        sha256=maybe(SHA256),
        clock=maybe(TEXT),
        rules=maybe(COUNT),
        software=maybe(TEXT),
        parked=maybe(COUNT),
        counters=mapped(mapped(COUNT)),
        head_sequence=maybe(COUNT),
        lag_entries=maybe(COUNT),
        trouble=maybe(TEXT),
    ),
    "Entry": {
        "type": "object",
        "description": "A ledger entry, byte for byte: its SHA-256 is the `previous` of the next.",
        "required": ["cause", "effects", "ledger", "now_ms", "previous", "sequence", "version"],
    },
}
