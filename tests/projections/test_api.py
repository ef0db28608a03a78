"""What the routes answer: the same as the ledger and the other commands say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from insurance_fund.events.amounts import EXACT, ZERO, exact, floor_scale
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from tests.embedded.command import command_json
from tests.projections.api_site import Played, Server


@pytest.fixture(scope="module")
def client(server_of_game: Server) -> Iterator[httpx.Client]:
    """Return a client of the server on the played log."""
    with server_of_game.client() as client:
        yield client


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    """Return what a route answers."""
    response = client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def pages(client: httpx.Client, path: str, rows: str, **parameters: Any) -> list[Any]:
    """Return the rows of all pages."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(client, path, **parameters, **cursor)
        assert len(page[rows]) <= parameters["limit"]
        found += page[rows]
        if page["next"] is None:
            return found
        assert len(page[rows]) == parameters["limit"]
        cursor = {"cursor": page["next"]}


@exact
def folded(played: Played) -> State:
    """Return the state of the played ledger."""
    state = State()
    for line in played.lines:
        apply_entry(state, decode_entry(line), sha256_hex(line))
    return state


def test_funds_are_those_that_status_tells(client: httpx.Client, played: Played) -> None:
    status = command_json(played.folder, "status")
    answer = get(client, "/v1/funds")
    assert answer["positions"] == [
        {**played.head, "now_ms": status["now_ms"]},
    ]
    funds = {fund["margin_currency"]: fund for fund in answer["funds"]}
    wanted = [fund for fund in status["funds"] if fund["in_use"]]
    assert set(funds) == {fund["margin_currency"] for fund in wanted}
    for told in wanted:
        fund = funds[told["margin_currency"]]
        same = ("available", "reserved", "total", "shortfall", "gains", "draws")
        assert {name: fund[name] for name in same} == {name: told[name] for name in same}
        assert fund["compensation_granted"] == told["granted"]
        assert fund["compensation_used"] == told["used"]
        assert {name: fund[name] for name in told["closed"]} == told["closed"]
        assert EXACT.subtract(Decimal(fund["deposits"]), Decimal(fund["withdrawals"])) == Decimal(
            told["transfers"]
        )
        one = get(client, f"/v1/funds/{told['margin_currency']}")
        assert one == {"positions": answer["positions"], "fund": fund}


@exact
def test_headroom_of_instruments_is_that_of_the_rules(client: httpx.Client, played: Played) -> None:
    state = folded(played)
    instruments = get(client, "/v1/instruments")["instruments"]
    assert {one["instrument_id"] for one in instruments} == set(state.instruments)
    used = ZERO
    for one in instruments:
        rules = state.policy.for_instrument(one["instrument_id"])
        fund, known = state.funds[one["margin_currency"]], state.instruments[one["instrument_id"]]
        window_ms = rules.instrument_window_ms
        highest = fund.totals.highest(state.now_ms, window_ms) - fund.withdrawn
        fallen = known.deltas.highest(state.now_ms, window_ms) - known.delta
        limit = Decimal(rules.instrument_share) * highest
        headroom = max(ZERO, floor_scale(limit - fallen - known.reserved, 6))
        assert Decimal(one["window"]["window_maximum"]) == highest
        assert Decimal(one["window"]["headroom"]) == headroom
        used += Decimal(one["window"]["used"])
        alone = get(client, f"/v1/instruments/{one['instrument_id']}")
        assert alone["instrument"] == one
    assert used > ZERO, "a game in which no instrument draws tests nothing"


@pytest.mark.parametrize("resolution", ["entry", "minute"])
def test_history_comes_whole_over_pages(client: httpx.Client, resolution: str) -> None:
    path, options = "/v1/funds/USDT/history", {"resolution": resolution}
    whole = get(client, path, limit=5_000, **options)["points"]
    assert pages(client, path, "points", limit=7, **options) == whole
    times = [(point["now_ms"], point["sequence"]) for point in whole]
    assert times == sorted(set(times))
    fund = get(client, "/v1/funds/USDT")["fund"]
    assert all(whole[-1][name] == fund[name] for name in ("available", "reserved", "total"))
    middle = times[len(times) // 2][0]
    part = get(client, path, from_ms=middle, to_ms=middle, limit=5_000, **options)["points"]
    assert part == [point for point in whole if point["now_ms"] == middle]


def test_liquidations_come_once_each_over_pages(client: httpx.Client, played: Played) -> None:
    taken_over = [
        effect["liquidation_id"]
        for line in played.lines
        for effect in json.loads(line)["effects"]
        if effect["type"] == "position_taken_over"
    ]
    rows = pages(client, "/v1/liquidations", "liquidations", limit=7)
    assert [row["liquidation_id"] for row in rows] == taken_over[::-1]
    deleveraged = pages(
        client, "/v1/liquidations", "liquidations", limit=5, outcome="deleveraged", status="closed"
    )
    assert deleveraged == [row for row in rows if row["outcome"] == "deleveraged"]
    assert 0 < len(deleveraged) < len(rows)
    of_one = pages(
        client, "/v1/liquidations", "liquidations", limit=9, instrument_id="ETHUSDT", status="open"
    )
    assert of_one == [
        row for row in rows if row["instrument_id"] == "ETHUSDT" and row["status"] == "open"
    ]


def test_story_of_a_liquidation_is_that_of_explain(client: httpx.Client, played: Played) -> None:
    for row in pages(client, "/v1/adl-triggers", "triggers", limit=50)[:3]:
        liquidation_id = row["liquidation_id"]
        explained = command_json(played.folder, "explain", liquidation_id)
        assert len(explained) > 4
        path = f"/v1/liquidations/{liquidation_id}"
        whole = get(client, path)
        assert whole["story"] == {"lines": explained, "next": None}
        assert whole["trigger"] == row
        assert whole["orders"]
        lines: list[Any] = []
        page = get(client, path, limit=2)["story"]
        while page["next"] is not None:
            lines += page["lines"]
            page = get(client, path, limit=2, cursor=page["next"])["story"]
        assert lines + page["lines"] == explained


def test_triggers_have_evidence_revisions_and_executions(
    client: httpx.Client, played: Played
) -> None:
    effects = [effect for line in played.lines for effect in json.loads(line)["effects"]]
    rows = pages(client, "/v1/adl-triggers", "triggers", limit=7)
    said = [e for e in effects if e["type"] in {"adl_triggered", "adl_reduced", "adl_cancelled"}]
    assert {row["trigger_id"] for row in rows} == {e["trigger_id"] for e in said}
    for row in rows:
        of_it = [e for e in said if e["trigger_id"] == row["trigger_id"]]
        assert [one["revision"] for one in row["revisions"]] == [e["revision"] for e in of_it]
        assert [one["evidence"] for one in row["revisions"]] == [e["evidence"] for e in of_it]
        executed = [
            e["execution_id"]
            for e in effects
            if e["type"] == "adl_executed" and e["trigger_id"] == row["trigger_id"]
        ]
        assert [one["execution_id"] for one in row["executions"]] == executed
        assert get(client, f"/v1/adl-triggers/{row['trigger_id']}")["trigger"] == row
    states = {
        state: len(get(client, "/v1/adl-triggers", state=state, limit=200)["triggers"])
        for state in ("open", "executed", "cancelled")
    }
    assert sum(states.values()) == len(rows)


def test_entries_are_the_bytes_that_export_writes(client: httpx.Client, played: Played) -> None:
    target = "/v1/ledgers/main/entries?from=3&limit=1000"
    found = b""
    answers = 0
    while target:
        response = client.get(target)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        found += response.content
        answers += 1
        target = response.links.get("next", {}).get("url", "")
    assert answers > 1
    assert found == b"".join(line + b"\n" for line in played.lines[3:])
    part = client.get("/v1/ledgers/main/entries?from=5&to=6")
    assert part.content.splitlines() == played.lines[5:7]
    assert "link" not in part.headers


def test_entry_is_found_by_its_hash_for_ever(client: httpx.Client, played: Played) -> None:
    for sequence in (0, 1, 255, 256, 257, 700, len(played.lines) - 1):
        response = client.get(f"/v1/ledgers/main/entries/{sequence}")
        assert response.content == played.lines[sequence]
        etag = response.headers["etag"]
        assert etag == f'"{hashlib.sha256(played.lines[sequence]).hexdigest()}"'
        assert response.headers["cache-control"] == "no-cache"
        again = client.get(response.request.url, headers={"if-none-match": etag})
        assert (again.status_code, again.content) == (304, b"")
    beyond = client.get(f"/v1/ledgers/main/entries/{len(played.lines)}")
    assert beyond.status_code == 404
    assert str(len(played.lines) - 1) in beyond.json()["detail"]


def test_head_is_that_of_export(client: httpx.Client, played: Played) -> None:
    assert get(client, "/v1/ledgers/main/head") == played.head
    (row,) = get(client, "/v1/ledgers")["ledgers"]
    assert {name: row[name] for name in played.head} == played.head
    assert (row["head_sequence"], row["lag_entries"]) == (played.head["sequence"], 0)
    assert row["trouble"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/funds",
        "/v1/funds/USDT",
        "/v1/funds/USDT/history?limit=3",
        "/v1/instruments",
        "/v1/instruments/BTCUSDT",
        "/v1/ledgers/main/head",
        "/fapi/v1/insuranceBalance",
        "/",
    ],
)
def test_unchanged_answers_are_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    etag = first.headers["etag"]
    assert not etag.startswith("W/")
    for given in (etag, f"W/{etag}", f'"other", {etag}'):
        again = client.get(path, headers={"if-none-match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = client.get(path, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_tag_of_one_address_says_nothing_of_another(client: httpx.Client) -> None:
    etag = client.get("/v1/funds/USDT").headers["etag"]
    assert client.get("/v1/funds/NONE", headers={"if-none-match": etag}).status_code == 404


def test_binance_bots_find_the_shape_they_know(client: httpx.Client) -> None:
    fund = get(client, "/v1/funds/USDT")["fund"]
    pool = {
        "symbols": ["BTCUSDT", "ETHUSDT", "SOLUSDT"],
        "assets": [{"asset": "USDT", "marginBalance": fund["total"], "updateTime": fund["now_ms"]}],
    }
    assert get(client, "/fapi/v1/insuranceBalance") == [pool]
    assert get(client, "/fapi/v1/insuranceBalance", symbol="ETHUSDT") == pool
    assert client.get("/fapi/v1/insuranceBalance?symbol=XUSDT").status_code == 404


def test_bybit_bots_find_the_shape_they_know(client: httpx.Client) -> None:
    fund = get(client, "/v1/funds/USDT")
    answer = get(client, "/v5/market/insurance", coin="USDT")
    assert answer.pop("time") > fund["positions"][0]["now_ms"]
    assert answer == {
        "retCode": 0,
        "retMsg": "OK",
        "result": {
            "updatedTime": str(fund["positions"][0]["now_ms"]),
            "list": [
                {
                    "coin": "USDT",
                    "symbols": "BTCUSDT,ETHUSDT,SOLUSDT",
                    "balance": fund["fund"]["total"],
                    "value": "",
                }
            ],
        },
        "retExtInfo": {},
    }
    assert get(client, "/v5/market/insurance", coin="BTC")["result"]["list"] == []


def test_metrics_tell_what_the_funds_hold(client: httpx.Client) -> None:
    fund = get(client, "/v1/funds/USDT")["fund"]
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = dict(
        line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#")
    )
    held = samples['insurance_fund_available{ledger="main",margin_currency="USDT"}']
    assert float(held) == float(fund["available"])
    lag = samples['insurance_fund_projection_lag_entries{ledger="main",projection="read_models"}']
    assert float(lag) == 0


def test_head_requests_have_no_body(client: httpx.Client) -> None:
    full, head = client.get("/v1/funds"), client.head("/v1/funds")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == full.headers["content-length"]
    assert client.head("/v1/stream").status_code == 200
