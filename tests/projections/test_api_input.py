"""What must not come in: refused with a problem document that says what is allowed."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.embedded.command import COMMAND, run_command
from tests.projections.api_site import HANG_S, TOKEN, Played, Server, served

SECURITY: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture(scope="module")
def client(server_of_game: Server) -> Iterator[httpx.Client]:
    """Return a client of the server on the played log."""
    with server_of_game.client() as client:
        yield client


def check_problem(response: httpx.Response, status: int, *said: str) -> dict[str, Any]:
    """See that an answer is a problem document that says some words, and keeps the rest quiet."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert SECURITY.items() <= dict(response.headers).items()
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["status"] == status
    assert problem["type"].startswith("urn:insurance-fund:problem:")
    for word in said:
        assert word in problem["detail"]
    assert "Traceback" not in response.text
    return problem


BAD_PARAMETERS: Final = [
    ("/v1/funds?x=1", "unknown parameter 'x'", "none"),
    ("/v1/funds/USDT/history?x=1", "from_ms", "cursor", "resolution"),
    ("/v1/funds/USDT/history?limit=5&limit=6", "limit is given more than once"),
    ("/v1/funds/USDT/history?limit=0", "a whole number from 1 to 5000"),
    ("/v1/funds/USDT/history?limit=5001", "a whole number from 1 to 5000"),
    ("/v1/funds/USDT/history?limit=", "a whole number from 1 to 5000"),
    ("/v1/funds/USDT/history?limit=+5", "a whole number"),
    ("/v1/funds/USDT/history?limit=5.0", "a whole number"),
    ("/v1/funds/USDT/history?limit=٣", "a whole number"),
    ("/v1/funds/USDT/history?from_ms=-1", "milliseconds since 1970"),
    ("/v1/funds/USDT/history?to_ms=99999999999999999999", "milliseconds since 1970"),
    ("/v1/funds/USDT/history?from_ms=2&to_ms=1", "from_ms must not be after to_ms"),
    ("/v1/funds/USDT/history?resolution=hour", "one of entry, minute"),
    ("/v1/funds/USDT/history?cursor=!", "`next` of the page before"),
    ("/v1/funds/USDT/history?cursor=AAAA", "`next` of the page before"),
    ("/v1/funds/USDT/history?cursor=" + "A" * 513, "at most 512"),
    ("/v1/funds/US%20DT", "letters, digits"),
    ("/v1/funds/%00", "letters, digits"),
    ("/v1/funds/" + "U" * 65, "at most 64 characters"),
    ("/v1/liquidations?status=ended", "one of open, closed"),
    ("/v1/liquidations?outcome=lost", "better_than_bankruptcy"),
    ("/v1/liquidations?limit=501", "from 1 to 500"),
    ("/v1/liquidations?instrument_id=%27--", "letters, digits"),
    ("/v1/liquidations/-x", "letters, digits"),
    ("/v1/liquidations/liq-0001?takeover_sequence=9007199254740992", "a whole number"),
    ("/v1/adl-triggers?state=done", "one of open, executed, cancelled"),
    ("/v1/adl-triggers/a:b:c", "one ':suffix'"),
    ("/v1/ledgers/main/entries?from=2&to=1", "from must not be after to"),
    ("/v1/ledgers/main/entries?limit=1001", "from 1 to 1000"),
    ("/v1/ledgers/main/entries/x", "a whole number"),
    ("/v1/ledgers/main/entries/01", "a whole number"),
    ("/v1/stream?type=adl", "adl_triggered"),
    ("/v1/stream?type=adl_triggered,adl_triggered", "each once"),
    ("/v1/stream?type=", "one or more of these"),
    ("/v1/stream?last_event_id=-1", "a whole number"),
    ("/v1/stream?last_event_id=9007199254740991", "ledger, which ends with"),
    ("/fapi/v1/insuranceBalance?pair=X", "unknown parameter 'pair'", "symbol"),
    ("/v5/market/insurance?coin=", "letters, digits"),
    ("/metrics?x", "unknown parameter 'x'"),
]


@pytest.mark.parametrize(("target", "said"), [(t, said) for t, *said in BAD_PARAMETERS])
def test_wrong_parameter_is_told_with_what_is_allowed(
    client: httpx.Client, target: str, said: list[str]
) -> None:
    problem = check_problem(client.get(target), 400, *said)
    assert problem["type"].endswith(":bad-parameter")
    assert problem["instance"] == target.partition("?")[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/v1", "/openapi.json"),
        ("/v1/funds/", "/openapi.json"),
        ("//v1/funds", "/openapi.json"),
        ("/static/../app.py", "dashboard"),
        ("/static/%2e%2e/app.py", "dashboard"),
        ("/static/README.md", "dashboard"),
        ("/static//etc/passwd", "dashboard"),
        ("/v1/funds/NONE", "/v1/funds lists them"),
        ("/v1/funds/NONE/history", "/v1/funds lists them"),
        ("/v1/funds/USDT?ledger=other", "/v1/funds lists them"),
        ("/v1/instruments/NONE", "/v1/instruments lists them"),
        ("/v1/liquidations/none", "/v1/liquidations lists them"),
        ("/v1/liquidations/liq-0001?takeover_sequence=1", "/v1/liquidations lists them"),
        ("/v1/adl-triggers/none", "/v1/adl-triggers lists them"),
        ("/v1/ledgers/other/head", "there are: main"),
        ("/v1/ledgers/other/entries/0", "there are: main"),
        ("/v1/ledgers/main/entries?from=9007199254740991", "the ledger ends with entry"),
        ("/v1/stream?ledger=other", "there are: main"),
    ],
)
def test_what_is_not_there_is_told_with_where_to_look(
    server_of_game: Server, target: str, said: str
) -> None:
    # Of sockets: clients tidy up such paths before they ask.
    check_problem(
        _raw(server_of_game, f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n"), 404, said
    )


def test_cursor_of_another_question_is_refused(client: httpx.Client) -> None:
    cursor = client.get("/v1/liquidations?limit=1").json()["next"]
    assert client.get(f"/v1/liquidations?limit=3&cursor={cursor}").status_code == 200
    for target in (
        f"/v1/liquidations?status=closed&cursor={cursor}",
        f"/v1/adl-triggers?cursor={cursor}",
        f"/v1/funds/USDT/history?cursor={cursor}",
        f"/v1/liquidations?cursor={cursor[:-4]}",
    ):
        check_problem(client.get(target), 400, "cursor")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/v1/funds", "/v1/stream", "/livez", "/nowhere"])
def test_other_methods_are_refused(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    check_problem(response, 405, "GET, HEAD")
    assert response.headers["allow"] == "GET, HEAD"
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/v1/funds", "text/html"),
        ("/v1/funds", "application/json;q=0"),
        ("/v1/funds", "*/*, application/json;q=0.0"),
        ("/v1/stream", "application/json"),
        ("/v1/ledgers/main/entries", "application/json"),
    ],
)
def test_answer_that_the_client_does_not_take_is_not_sent(
    client: httpx.Client, path: str, accept: str
) -> None:
    check_problem(client.get(path, headers={"accept": accept}), 406, "or */*")


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*", "text/html, application/json;q=0.1", "text/html,*/*;q=0.1"]
)
def test_answer_that_the_client_takes_is_sent(client: httpx.Client, accept: str) -> None:
    assert client.get("/v1/funds", headers={"accept": accept}).status_code == 200


def test_bodies_are_refused(client: httpx.Client) -> None:
    for kind in ("application/json", "text/plain"):
        response = client.request("GET", "/v1/funds", content=b"{}", headers={"content-type": kind})
        check_problem(response, 415, "no body")
    response = client.request("GET", "/v1/funds", content=iter([b"x"] * 10))
    check_problem(response, 415, "no body")


def test_oversized_requests_are_refused(server_of_game: Server, client: httpx.Client) -> None:
    check_problem(client.get("/v1/funds?" + "x" * 5_000), 414, "4096 bytes")
    check_problem(client.get("/" + "x" * 5_000), 414, "4096 bytes")
    check_problem(client.get("/", headers={"x": "y" * 16_400}), 431, "16384 bytes")
    for head in (f"GET / HTTP/1.1\r\nx: {'y' * 20_000}", f"GET /{'x' * 20_000}"):
        check_problem(_raw(server_of_game, head), 400, "16384 bytes")


@pytest.mark.parametrize(
    "head", ["HELLO\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\r\n"]
)
def test_what_is_no_request_is_answered_with_a_problem(server_of_game: Server, head: str) -> None:
    check_problem(_raw(server_of_game, head), 400, "no HTTP/1.1 request")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "localhost.evil.example", ""]
)
def test_names_that_are_not_ours_are_refused(server_of_game: Server, host: str) -> None:
    head = f"GET /v1/funds HTTP/1.1\r\nhost: {host}\r\n\r\n"
    check_problem(_raw(server_of_game, head), 421, "localhost", "http_hosts")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/funds",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/metrics",
        "/v1/ledgers/main/entries",
    ],
)
def test_every_answer_has_the_headers_of_a_safe_page(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert SECURITY.items() <= dict(response.headers).items()
    assert "server" not in response.headers
    assert not [name for name in response.headers if name.startswith("access-control")]
    kept = {"no-cache"} if "etag" in response.headers or "openapi" in path else {"no-store"}
    assert response.headers["cache-control"] in kept


def test_without_the_token_only_the_page_and_health_are_shown(played: Played) -> None:
    with (
        served(played.folder, INSURANCE_FUND_HTTP_TOKEN=TOKEN) as server,
        server.client() as client,
    ):
        for path in ("/", "/livez", "/readyz"):
            assert client.get(path).status_code == 200
        wrong: list[dict[str, str]] = [
            {},
            {"authorization": ""},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": f"Bearer {TOKEN[:-1]}"},
            {"authorization": "Bearer"},
            {"authorization": "Bearer \xe9".encode("latin-1").decode("latin-1")},
        ]
        paths = ("/v1/funds", "/v1/stream", "/metrics", "/openapi.json", "/nowhere", "/staticx")
        for headers in wrong:
            for path in paths:
                encoded = {name: value.encode("latin-1") for name, value in headers.items()}
                response = client.get(path, headers=encoded)  # type: ignore[arg-type]
                check_problem(response, 401, "Authorization: Bearer TOKEN")
                assert response.headers["www-authenticate"].startswith("Bearer")
        given = {"authorization": f"bearer {TOKEN}"}
        assert client.get("/v1/funds", headers=given).status_code == 200
        twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")]
        assert client.get("/v1/funds", headers=twice).status_code == 401


def test_short_or_doubled_token_is_refused_at_the_start(tmp_path: Path, played: Played) -> None:
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    where: dict[str, Any] = {
        "INSURANCE_FUND_LOG": f"sqlite:{played.folder / 'log.db'}",
        "INSURANCE_FUND_DATABASE": f"sqlite:{tmp_path / 'views.db'}",
    }
    for wrong in ("short", "a token that has spaces in it", f"{TOKEN} "):
        done = run_command(tmp_path, "serve", code=2, INSURANCE_FUND_HTTP_TOKEN=wrong, **where)
        assert "at least 16" in done.stderr
    doubled = run_command(
        tmp_path,
        "serve",
        code=2,
        INSURANCE_FUND_HTTP_TOKEN=TOKEN,
        INSURANCE_FUND_HTTP_TOKEN_FILE="token",  # noqa: S106 - a file's name
        **where,
    )
    assert "not both" in doubled.stderr


def test_port_in_use_is_told(server_of_game: Server, played: Played) -> None:
    port = server_of_game.address[1]
    done = run_command(played.folder, "serve", "--port", port, code=2)
    assert f"port {port} of 127.0.0.1 cannot be had" in done.stderr
    assert "--port" in done.stderr


def test_address_of_another_machine_is_told(played: Played) -> None:
    # Of the block that is kept for documents.
    done = run_command(played.folder, "serve", "--host", "192.0.2.1", "--port", 0, code=2)
    assert "http_host '192.0.2.1' is no host of this machine" in done.stderr


def test_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = run_command(tmp_path, "serve", "--port", "0", code=2)
    assert "no log at log.db" in done.stderr


def test_damaged_read_models_are_refused_with_the_command_that_builds_them(
    tmp_path: Path, played: Played
) -> None:
    (tmp_path / "views.db").write_bytes(b"no database at all, but long enough to be read" * 100)
    done = run_command(
        tmp_path,
        "serve",
        "--port",
        "0",
        code=2,
        INSURANCE_FUND_LOG=f"sqlite:{played.folder / 'log.db'}",
        INSURANCE_FUND_DATABASE="sqlite:views.db",
    )
    assert "insurance-fund projections rebuild" in done.stderr


def test_open_door_without_a_token_is_warned_of(played: Played) -> None:
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", "--host", "0.0.0.0", "--log", "sqlite:log.db"],  # noqa: S104
        cwd=played.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Serving at")
    process.terminate()
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    assert "warning: whoever reaches 0.0.0.0 can read everything" in errors


def _raw(server: Server, head: str) -> httpx.Response:
    """Send bytes as they are, and return the answer."""
    with socket.create_connection(server.address, HANG_S) as connection:
        connection.sendall(head.encode("latin-1"))
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(65_536)
            assert chunk, received
            received += chunk
        top, _, body = received.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (x.partition(": ") for x in lines)]
        size = int(dict(headers).get("content-length", "0"))
        while len(body) < size:
            body += connection.recv(65_536)
    json.loads(body)
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)
