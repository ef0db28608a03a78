"""Cursors: where the next page begins, opaque to whoever gives it back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import orjson

from insurance_fund.events.fields import COUNT_MAX
from insurance_fund.projections.http.parameters import Parameter, text
from insurance_fund.projections.http.problems import ProblemError

CURSOR_MAX: Final = 512
CURSOR: Final[Parameter] = text(
    "cursor",
    "Where to go on: `next` of the page before, with the same other parameters.",
    f"[A-Za-z0-9_-]{{1,{CURSOR_MAX}}}",
    f"the `next` of the page before, at most {CURSOR_MAX} letters, digits, '_' and '-'",
)


def write_cursor(route: str, filters: Sequence[Any], key: Sequence[Any]) -> str:
    """Return the cursor behind the row whose sorting key is `key`."""
    document = orjson.dumps([route, list(filters), list(key)])
    return base64.urlsafe_b64encode(document).rstrip(b"=").decode()


def read_cursor(
    cursor: str | None, route: str, filters: Sequence[Any], kinds: Sequence[type]
) -> list[Any] | None:
    """Return the sorting key in a cursor, None where none is given; `kinds` are its types.

    Raises ProblemError for one of another route or of other filters, or that is none of ours.
    """
    if cursor is None:
        return None
    try:
        document = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        of_route, of_filters, key = document
        fits = [type(part) for part in key] == list(kinds) and all(map(_is_possible, key))
    except (ValueError, TypeError, binascii.Error, orjson.JSONDecodeError):
        raise ProblemError(
            "bad-parameter", "cursor must be the `next` of the page before, as it was given"
        ) from None
    if not fits or of_route != route or of_filters != list(filters):
        raise ProblemError(
            "bad-parameter",
            "cursor must be the `next` of a page of the same route with the same parameters; "
            "leave it out to begin anew",
        )
    return list(key)


def _is_possible(part: Any) -> bool:
    # What a database takes: its integers are bounded, and some have no zero byte in a text.
    return part.isprintable() if isinstance(part, str) else 0 <= part <= COUNT_MAX
