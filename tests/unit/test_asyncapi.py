"""docs/asyncapi.yaml is that of the code, and its examples are messages that were sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from insurance_fund import asyncapi as writer
from insurance_fund.events import topics
from insurance_fund.events.asyncapi import LEDGER_ENTRY, SNAPSHOT_PART, messages
from insurance_fund.events.errors import CorruptionError
from insurance_fund.events.schemas import schemas
from insurance_fund.streams.topic_plan import Layout, plan_topics
from insurance_fund.streams.urls import KafkaUrl

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "docs" / "asyncapi.yaml"
RECORDED: Final = Path(__file__).with_name("recorded_ledger.ndjson")
DOCUMENT: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
ALL_TOPICS: Final = (
    *topics.INPUT_TOPICS,
    *topics.OUTPUT_TOPICS,
    topics.FUND_LEDGER,
    topics.FUND_SNAPSHOTS,
)
SPOKEN: Final = [name for topic in ALL_TOPICS for name in messages(topic) if name != SNAPSHOT_PART]


def message(name: str) -> Any:
    return DOCUMENT["components"]["messages"][name]


def in_the_document(name: str) -> jsonschema.Draft7Validator:
    """Return a validator of the payload as the document has it: it stands alone, in draft 7."""
    return jsonschema.Draft7Validator({**DOCUMENT, **message(name)["payload"]})


def in_the_schemas(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schemas()[f"{name}.json"]))


def test_file_is_that_of_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == writer.content(RECORDED), "run `make schemas`"


def test_every_topic_is_told_with_the_side_that_the_fund_takes() -> None:
    assert list(DOCUMENT["channels"]) == list(ALL_TOPICS)
    taken: dict[str, set[str]] = {topic: set() for topic in ALL_TOPICS}
    for operation in DOCUMENT["operations"].values():
        taken[operation["channel"]["$ref"].removeprefix("#/channels/")].add(operation["action"])
    assert taken == {
        **{topic: {"receive"} for topic in topics.INPUT_TOPICS},
        **{topic: {"send"} for topic in (*topics.OUTPUT_TOPICS, topics.FUND_LEDGER)},
        topics.FUND_SNAPSHOTS: {"send", "receive"},
    }


def test_every_schema_file_has_its_message() -> None:
    assert sorted(SPOKEN) == sorted(name.removesuffix(".json") for name in schemas())
    assert sorted(DOCUMENT["components"]["messages"]) == sorted([*SPOKEN, SNAPSHOT_PART])


def test_topics_are_kept_as_they_are_made() -> None:
    for planned in plan_topics(Layout(KafkaUrl(("kafka:9092",)), ("main",), input_days=7)):
        told = DOCUMENT["channels"][planned.topic]["bindings"]["kafka"]["topicConfiguration"]
        assert told["cleanup.policy"] == planned.settings["cleanup.policy"].split(",")
        retention = planned.settings.get("retention.ms")
        assert told.get("retention.ms") == (-1 if retention == "-1" else None), planned.topic
    assert "INTERNAL" in DOCUMENT["channels"][topics.FUND_SNAPSHOTS]["description"]


@pytest.mark.parametrize("name", SPOKEN)
def test_examples_pass_the_schema_and_the_document(name: str) -> None:
    examples = message(name)["examples"]
    (key,) = message(name)["bindings"]["kafka"]["key"]["examples"]
    assert key in json.dumps(examples[0]["payload"]) or name == "dead_letter"
    assert len(examples) == (4 if name == LEDGER_ENTRY else 1)
    for example in examples:
        in_the_schemas(name).validate(example["payload"])
        in_the_document(name).validate(example["payload"])


@pytest.mark.parametrize("name", SPOKEN)
def test_example_with_a_field_less_or_of_another_type_fails_both(name: str) -> None:
    (payload, *_) = (example["payload"] for example in message(name)["examples"])
    schema, file = in_the_schemas(name), json.loads(schemas()[f"{name}.json"])
    for field in file["$defs"][file["$ref"].removeprefix("#/$defs/")]["required"]:
        less = {key: value for key, value in payload.items() if key != field}
        for wrong in (less, {**payload, field: [[]]}):
            assert not schema.is_valid(wrong)
            assert not in_the_document(name).is_valid(wrong)


@pytest.mark.parametrize("topic", ALL_TOPICS)
def test_messages_that_the_fund_sends_have_cloudevents_headers(topic: str) -> None:
    for name in messages(topic):
        headers = message(name).get("headers")
        assert (headers is not None) == (topic in topics.OUTPUT_TOPICS)
        for example in message(name).get("examples", ()):
            assert ("headers" in example) == (topic in topics.OUTPUT_TOPICS)
        if headers is not None:
            (example,) = message(name)["examples"]
            told, payload = example["headers"], example["payload"]
            jsonschema.Draft7Validator(headers).validate(told)
            assert sorted(headers["required"]) == sorted(told)
            assert told["ce_type"] == f"insurance_fund.{name}"
            assert told["ce_id"] == payload["event_id"]
            assert told["ce_source"] == f"/insurance-fund/{payload['ledger']}"


def test_pair_of_an_attempt_is_held_by_the_document_too() -> None:
    (entry,) = (
        example["payload"]
        for example in message(LEDGER_ENTRY)["examples"]
        if example["payload"]["effects"][0]["type"] == "position_taken_over"
    )
    attempts = entry["effects"][0]["policy"]["attempts"]
    for wrong in (["0.01"], [30000, "0.01"], ["0.01", 30000, 1]):
        attempts[0] = wrong
        assert not in_the_schemas(LEDGER_ENTRY).is_valid(entry)
        assert not in_the_document(LEDGER_ENTRY).is_valid(entry)


def test_ledger_that_these_rules_would_not_write_gives_no_examples(tmp_path: Path) -> None:
    altered = tmp_path / "ledger.ndjson"
    lines = RECORDED.read_bytes()
    altered.write_bytes(lines.replace(b'"fee": "0"', b'"fee": "1"', 1))
    assert altered.read_bytes() != lines
    with pytest.raises(CorruptionError):
        writer.content(altered)


def test_ledger_that_cannot_be_read_ends_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "asyncapi.yaml"
    assert writer.main([str(tmp_path / "none.ndjson"), str(target)]) == 2
    assert "none.ndjson" in capsys.readouterr().err
    assert not target.exists()


def test_module_can_be_imported_without_a_yaml_library() -> None:
    code = "import sys; sys.modules['yaml'] = None; import insurance_fund.asyncapi"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
