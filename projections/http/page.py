"""The dashboard's files, out of the package: these and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import ASK_AGAIN, not_modified

# By how a file's name ends; any other is not served.
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
}
INDEX: Final = "index.html"


class File(NamedTuple):
    """A file as it is served."""

    content: bytes
    media_type: str
    etag: str


class Page:
    """The files of the dashboard by their names below `/static/`; `/` is the page itself."""

    def __init__(self, files_by_name: Mapping[str, File]) -> None:
        self.files = dict(files_by_name)

    async def serve(self, request: Request) -> Response:
        """Answer with a file; raises ProblemError for any that is not there."""
        name = request.path_params.get("name", INDEX)
        found = self.files.get(name)
        if found is None:
            raise ProblemError("not-found", "there is no such file; the dashboard is at /")
        given = request.headers.get("if-none-match", "")
        if found.etag in [tag.strip().removeprefix("W/") for tag in given.split(",")]:
            return not_modified(found.etag)
        headers = {
            "etag": found.etag,
            "cache-control": ASK_AGAIN,
            "content-type": found.media_type,
        }
        return Response(found.content, 200, headers)


def load_page() -> Page:
    """Read the dashboard's files out of the package."""
    found: dict[str, File] = {}
    _load(files("insurance_fund.projections") / "dashboard", "", found)
    return Page(found)


def _load(folder: Traversable, prefix: str, found: dict[str, File]) -> None:
    if not folder.is_dir():
        return
    for one in folder.iterdir():
        name = f"{prefix}{one.name}"
        media_type = MEDIA_TYPES.get(f".{one.name.rpartition('.')[2]}")
        if one.is_dir():
            _load(one, f"{name}/", found)
        elif media_type is not None:
            content = one.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            found[name] = File(content, media_type, etag)
