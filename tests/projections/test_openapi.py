"""The description of the interface: every route is in it, and every answer is as it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema
import pytest

from insurance_fund.projections.http.app import all_routes
from tests.embedded.command import HANG_S
from tests.projections.api_site import Server
from tests.property import scale

EXAMPLES: Final = 30
# What a schema cannot say: a cursor must be one that was given, and ranges must not be empty.
CONFIG: Final = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "404"]
"""


@pytest.fixture(scope="module")
def client(server_of_game: Server) -> Iterator[httpx.Client]:
    """Return a client of the server on the played log."""
    with server_of_game.client() as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> Any:
    """Return the description as it is served."""
    return client.get("/openapi.json").json()


def test_every_route_is_described_and_the_reverse(document: Any) -> None:
    assert set(document["paths"]) == {route.path for route in all_routes()}
    assert all(set(path) == {"get"} for path in document["paths"].values())


def test_server_has_the_described_routes_and_the_page_alone(
    client: httpx.Client, document: Any
) -> None:
    names = [operation["get"]["operationId"] for operation in document["paths"].values()]
    assert len(set(names)) == len(names)
    for path in document["paths"]:
        target = path.replace("{sequence}", "0").replace("{ledger}", "main")
        target = target.replace("{", "").replace("}", "")
        assert client.head(target).status_code != 405
        detail = client.get(target).text if path != "/v1/stream" else ""
        assert "nothing is here" not in detail


def test_description_is_an_openapi_document(document: Any) -> None:
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert name in str(document).replace(f"'{name}': {{", "", 1), "nothing refers to it"
    assert document["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/funds",
        "/v1/funds/USDT",
        "/v1/funds/USDT/history?limit=5000",
        "/v1/funds/USDT/history?resolution=minute",
        "/v1/liquidations?limit=500",
        "/v1/adl-triggers?limit=200",
        "/v1/instruments",
        "/v1/ledgers",
        "/v1/ledgers/main/head",
        "/v1/ledgers/main/entries/0",
        "/fapi/v1/insuranceBalance",
        "/fapi/v1/insuranceBalance?symbol=BTCUSDT",
        "/v5/market/insurance",
        "/livez",
        "/readyz",
    ],
)
def test_answers_are_as_described(client: httpx.Client, document: Any, target: str) -> None:
    _check(client.get(target), document, target)


def test_each_liquidation_and_trigger_is_as_described(client: httpx.Client, document: Any) -> None:
    rows = client.get("/v1/liquidations?limit=40").json()["liquidations"]
    for row in rows:
        target = f"/v1/liquidations/{row['liquidation_id']}"
        _check(client.get(target), document, target)
    for row in client.get("/v1/adl-triggers?limit=20").json()["triggers"]:
        target = f"/v1/adl-triggers/{row['trigger_id']}"
        _check(client.get(target), document, target)


def _check(response: httpx.Response, document: Any, target: str) -> None:
    assert response.status_code == 200, response.text
    parts = target.partition("?")[0].split("/")
    (operation,) = (
        found["get"]
        for path, found in document["paths"].items()
        if len(path.split("/")) == len(parts)
        and all(a == b or a.startswith("{") for a, b in zip(path.split("/"), parts, strict=True))
    )
    (schema,) = (one["schema"] for one in operation["responses"]["200"]["content"].values())
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(response.json())


def test_schemathesis_finds_no_fault_and_no_undocumented_answer(
    server_of_game: Server, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("st"),
            "run",
            f"{server_of_game.url}/openapi.json",
            "--exclude-path",
            "/v1/stream",  # its answer does not end
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            str(EXAMPLES * scale.EXAMPLES),
            "--seed",
            "1",
            "--no-color",
        ],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=HANG_S * scale.EXAMPLES,
    )
    assert done.returncode == 0, done.stdout
    assert "Selected: 18/19" in done.stdout, done.stdout
