"""The generated JSON Schemas are those of the code, and real messages pass them."""

from __future__ import annotations

import json

import jsonschema
import pytest

from insurance_fund.events.schemas import FOLDER, schemas


def test_schema_files_are_those_of_the_code() -> None:
    written = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    assert written == schemas(), "run `make schemas`"


@pytest.mark.parametrize("name", sorted(schemas()))
def test_schema_is_valid_2020_12(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schemas()[name]))


def _fill(**changes: object) -> dict[str, object]:
    return {
        "type": "fill",
        "event_id": "e1",
        "event_time_ms": 1,
        "margin_currency": "USDT",
        "fill_id": "f1",
        "liquidation_id": "liq-7",
        "order_id": "liq-7:1",
        "instrument_id": "BTCUSDT",
        "side": "sell",
        "price": "44700",
        "quantity": "4",
        **changes,
    }


def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schemas()[f"{name}.json"]))


def test_fill_passes_its_schema_with_unknown_fields() -> None:
    _validator("fill").validate(_fill(fee="-0.25", venue="x"))


@pytest.mark.parametrize(
    "changes",
    [
        {"price": "0"},
        {"price": "1e3"},
        {"price": 1},
        {"fee": "-0"},
        {"quantity": "1."},
        {"quantity": "0.1234567890123456789"},
        {"side": "hold"},
        {"order_id": "a:b:c"},
        {"event_time_ms": -1},
        {"type": "fills"},
    ],
)
def test_wrong_fill_fails_its_schema(changes: dict[str, object]) -> None:
    assert not _validator("fill").is_valid(_fill(**changes))
