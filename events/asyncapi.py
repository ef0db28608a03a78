"""The AsyncAPI 3.1 description of all topics: what is said on them, keyed and kept how.

The payload schemas are those of `schemas/`, put into one document that stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from insurance_fund.events import topics
from insurance_fund.events.messages import INPUTS, OUTPUTS
from insurance_fund.events.schemas import schemas

ASYNCAPI: Final = "3.1.0"
BINDING: Final = "0.5.0"
FOREVER: Final = -1
LEDGER_ENTRY: Final = "ledger_entry"
SNAPSHOT_PART: Final = "snapshot_part"
SCHEMA_REF: Final = "#/components/schemas/"
_DEFS: Final = "#/$defs/"

# Which field of an input its record is keyed by.
KEY_FIELDS: Final = {
    topics.INSTRUMENTS: "instrument_id",
    topics.FUND_TRANSFERS: "margin_currency",
    topics.LIQUIDATIONS: "liquidation_id",
    topics.FILLS: "liquidation_id",
}

Json = dict[str, Any]


class Example(NamedTuple):
    """A message as it was seen: record key, headers (none of inputs and entries), and payload."""

    name: str
    key: str
    headers: Mapping[str, str]
    payload: Json


class _Topic(NamedTuple):
    """What a topic is for, what its records are keyed by, and how it is to be set up."""

    description: str
    key: str
    cleanup: str = "delete"
    retention_ms: int | None = None


_MOVES: Final = (
    "As many partitions as you like: what must keep its order has one key, and so one partition. "
    "The fund itself does not look at the keys of its inputs."
)
_SENT: Final = (
    "As many partitions as you like; the fund puts a record into partition CRC-32(key) modulo "
    "their number. Read with isolation level read_committed."
)
_BY_SHARD: Final = "One partition a ledger, in the order of the shards in the settings."

_TOPICS: Final = {
    topics.INSTRUMENTS: _Topic(
        "Terms of the instruments; read to its end at each start. Compacted: of an instrument_id "
        f"the newest counts. {_MOVES}",
        KEY_FIELDS[topics.INSTRUMENTS],
        cleanup="compact",
        retention_ms=FOREVER,
    ),
    topics.FUND_TRANSFERS: _Topic(
        f"Money between the treasury and the fund. {_MOVES}", KEY_FIELDS[topics.FUND_TRANSFERS]
    ),
    topics.LIQUIDATIONS: _Topic(
        f"What the liquidation engine, the matching engine and the ADL engine report. {_MOVES}",
        KEY_FIELDS[topics.LIQUIDATIONS],
    ),
    topics.FILLS: _Topic(
        "Executions. All fills of the exchange may stand here: a record without the bytes "
        f"{topics.FILLS_FILTER.decode()} is passed over. {_MOVES}",
        KEY_FIELDS[topics.FILLS],
    ),
    topics.LIQUIDATION_ORDERS: _Topic(
        "Orders to the matching engine: reduce-only, good till date, ended by the exchange itself "
        f"at expires_at_ms; no cancel is sent. Apply an order_id once. {_SENT}",
        "liquidation_id",
    ),
    topics.ADL_TRIGGERS: _Topic(
        "Orders to the ADL engine. `quantity` is the new total of a trigger_id: apply the highest "
        f"revision. {_SENT}",
        "liquidation_id",
        retention_ms=FOREVER,
    ),
    topics.DEAD_LETTERS: _Topic(
        f"Input records that were refused, with the reason and their bytes. {_SENT}",
        "topic:partition:offset of the refused record",
    ),
    topics.FUND_LEDGER: _Topic(
        "The ledger: one entry for each cause, with the postings it came to. Entries and the "
        "messages they list in `emitted` are committed in one transaction. `sequence` has no gaps, "
        "offsets have: fold by sequence, read with isolation level read_committed, and keep it "
        f"for as long as it is to be audited. {_BY_SHARD}",
        "name of the ledger",
        retention_ms=FOREVER,
    ),
    topics.FUND_SNAPSHOTS: _Topic(
        "INTERNAL: what spares a start the folding of a whole ledger. Written and read by this "
        "service alone, no part of the contract, another form in another version; its records may "
        f"be deleted at any time. Compacted. {_BY_SHARD}",
        "ledger/slot/part",
        cleanup="compact",
    ),
}
assert _TOPICS.keys() >= topics.COMPACTED_TOPICS

# By the fields of streams/outbox.py: CloudEvents 1.0, Kafka protocol binding, binary mode.
_CE_TOLD: Final = {
    "ce_id": {"description": "event_id of the message"},
    "ce_source": {"description": "/insurance-fund/ and the name of the ledger"},
    "ce_time": {"description": "event_time_ms as RFC 3339, in UTC", "format": "date-time"},
}


def document(version: str, examples: Mapping[str, Sequence[Example]]) -> Json:
    """Return the whole description; `examples` are by message name, as `messages` lists them."""
    return {
        "asyncapi": ASYNCAPI,
        "id": "urn:insurance-fund",
        "info": {
            "title": "Insurance fund",
            "version": version,
            "description": (
                "The insurance fund of a perpetual-futures exchange on its event bus. Amounts are "
                "decimal strings, times are milliseconds since 1970 UTC, quantities are contracts. "
                "Of inputs, unknown further fields are accepted. docs/rules.md says what it all "
                "means.\n\nOperations are told from the fund's side: it receives what the exchange "
                "sends. Where the log has a prefix, it stands in front of each topic with a dot.\n"
            ),
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
            "tags": [{"name": "perpetual-futures"}, {"name": "insurance-fund"}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "The exchange's Kafka; any address and security that it has.",
            }
        },
        "channels": {topic: _channel(topic) for topic in _TOPICS},
        "operations": _operations(),
        "components": {
            "messages": {
                name: _message(topic, name, examples.get(name, ()))
                for topic in _TOPICS
                for name in messages(topic)
            },
            "schemas": _payloads(),
        },
    }


def messages(topic: str) -> tuple[str, ...]:
    """Return the names of the messages that a topic carries."""
    if topic == topics.FUND_LEDGER:
        return (LEDGER_ENTRY,)
    if topic == topics.FUND_SNAPSHOTS:
        return (SNAPSHOT_PART,)
    kinds = (*INPUTS.get(topic, ()), *OUTPUTS.get(topic, ()))
    return tuple(str(kind.__struct_config__.tag) for kind in kinds)


def _channel(topic: str) -> Json:
    told = _TOPICS[topic]
    kept: Json = {"cleanup.policy": [told.cleanup]}
    if told.retention_ms is not None:
        kept["retention.ms"] = told.retention_ms
    return {
        "address": topic,
        "description": told.description,
        "messages": {name: _ref(f"components/messages/{name}") for name in messages(topic)},
        "bindings": {"kafka": {"topicConfiguration": kept, "bindingVersion": BINDING}},
    }


def _operations() -> Json:
    actions = [("receive", topic) for topic in topics.INPUT_TOPICS]
    actions += [("send", topic) for topic in (*topics.OUTPUT_TOPICS, topics.FUND_LEDGER)]
    actions += [("send", topics.FUND_SNAPSHOTS), ("receive", topics.FUND_SNAPSHOTS)]
    return {
        f"{action}-{topic}": {"action": action, "channel": _ref(f"channels/{topic}")}
        for action, topic in actions
    }


def _ref(path: str) -> Json:
    return {"$ref": f"#/{path}"}


def _message(topic: str, name: str, examples: Sequence[Example]) -> Json:
    key: Json = {"type": "string", "description": _TOPICS[topic].key}
    if examples:
        key["examples"] = list(dict.fromkeys(example.key for example in examples))
    binding = {"key": key, "bindingVersion": BINDING}
    message: Json = {"name": name, "title": name, "bindings": {"kafka": binding}}
    if topic in OUTPUTS:
        message["headers"] = _headers(name)
    if name == SNAPSHOT_PART:
        message["contentType"] = "application/octet-stream"
        message["payload"] = {"description": "Internal, see the topic.", "type": "string"}
    else:
        message["payload"] = {"$ref": f"{SCHEMA_REF}{name}"}
    if examples:
        message["examples"] = [
            {
                "name": example.name,
                **({"headers": dict(example.headers)} if example.headers else {}),
                "payload": example.payload,
            }
            for example in examples
        ]
    return message


def _headers(name: str) -> Json:
    fixed = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_type": f"insurance_fund.{name}",
    }
    return {
        "type": "object",
        "description": "CloudEvents 1.0, Kafka protocol binding, binary content mode.",
        "properties": {
            **{header: {"type": "string", "const": value} for header, value in fixed.items()},
            **{header: {"type": "string", **told} for header, told in _CE_TOLD.items()},
        },
        "required": [*fixed, *_CE_TOLD],
    }


def _payloads() -> Json:
    """Return all payload schemas in one namespace: messages by name, what they share by class."""
    found: Json = {}
    for content in schemas().values():
        file = orjson.loads(content)
        top = file["$ref"].removeprefix(_DEFS)
        for name, schema in file["$defs"].items():
            here = file["title"] if name == top else name
            told = _as_asyncapi(schema)
            assert found.setdefault(here, told) == told, f"{here} is two things"
    return dict(sorted(found.items()))


def _as_asyncapi(schema: Any) -> Any:
    # AsyncAPI builds on draft 7, where a tuple's items are called `items`; its `discriminator` is
    # another than OpenAPI's, and `anyOf` says as much.
    if isinstance(schema, list):
        return [_as_asyncapi(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {}
    for key, value in schema.items():
        if key == "properties":
            told[key] = {name: _as_asyncapi(one) for name, one in value.items()}
        elif key == "prefixItems":
            told["items"] = _as_asyncapi(value)
        elif key == "$ref":
            told[key] = value.replace(_DEFS, SCHEMA_REF)
        elif key != "discriminator" and not (key == "items" and "prefixItems" in schema):
            told[key] = _as_asyncapi(value)
    return told
