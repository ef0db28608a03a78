"""Routes: path, parameters, answer and handler of each, from which OpenAPI is made as well."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from insurance_fund.projections import tables
from insurance_fund.projections.http.parameters import Parameter
from insurance_fund.projections.http.problems import ProblemError

if TYPE_CHECKING:
    from insurance_fund.projections.http.services import Services

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"
# A proxy or browser may keep it, and must ask whether it still holds.
ASK_AGAIN: Final = "no-cache"
NEVER_KEEP: Final = "no-store"
# Bumped by any change in the bodies that are made of the same rows.
REPRESENTATION: Final = 1
_TAG: Final = re.compile(r'(?:W/)?"([\x21\x23-\x7e]*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose parameters have been read."""

    request: Request
    services: Services
    values: Mapping[str, Any]

    def asks_for(self, etag: str) -> bool:
        """Say whether an entity tag is not what the client has already."""
        given = self.request.headers.get("if-none-match")
        if given is None:
            return True
        return given.strip() != "*" and etag.strip('"') not in _TAG.findall(given)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """What is answered at a path.

    `problems` are the statuses of problems beside those that any route may answer; `tagged` answers
    carry an ETag and may be 304; `free` ones need no token.
    """

    path: str
    name: str
    summary: str
    handler: Handler
    schema: Mapping[str, Any]
    parameters: Sequence[Parameter] = ()
    media_type: str = JSON
    problems: Sequence[int] = ()
    tagged: bool = False
    free: bool = False


def etag_of(*parts: str) -> str:
    """Return the strong entity tag of a body that these texts, hashes of heads say, decide."""
    digest = hashlib.sha256(b"%d %d" % (REPRESENTATION, tables.SCHEMA))
    for part in parts:
        digest.update(b"\n" + part.encode())
    return f'"{digest.hexdigest()}"'


def json_response(
    body: Any, etag: str | None = None, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """Return a JSON answer; with an entity tag it may be kept as long as that holds."""
    found = {"cache-control": NEVER_KEEP if etag is None else ASK_AGAIN, **(headers or {})}
    if etag is not None:
        found["etag"] = etag
    return Response(orjson.dumps(body), status, found, JSON)


def not_modified(etag: str, cache_control: str = ASK_AGAIN) -> Response:
    """Return the answer to a client that has it already."""
    return Response(status_code=304, headers={"etag": etag, "cache-control": cache_control})


def check_accept(request: Request, media_type: str) -> None:
    """Raise ProblemError where a client does not take the media type of a route."""
    ranges = ",".join(request.headers.getlist("accept"))
    if not ranges.strip():
        return
    wanted = {"*/*": 0, f"{media_type.partition('/')[0]}/*": 1, media_type: 2}
    best, taken = -1, False
    for one in ranges.split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        specific = wanted.get(name, -1)
        if specific > best:
            best, taken = specific, not any(re.fullmatch(r"q=0(\.0*)?", p) for p in parameters)
    if not taken:
        raise ProblemError("not-acceptable", f"this route answers {media_type}; accept it or */*")
