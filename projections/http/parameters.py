"""Parameters of requests: what each must be, for the parser and for OpenAPI at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from starlette.requests import Request

from insurance_fund.events.fields import COUNT_MAX, ID_PATTERN, TIME_MS_MAX
from insurance_fund.projections.http.problems import ProblemError, bad_parameter

Place = Literal["query", "path", "header"]
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: where it stands, its JSON Schema, and how its text becomes a value.

    `expected` says what it must be, to a person; `read` raises ValueError for anything else.
    """

    name: str
    place: Place
    description: str
    schema: dict[str, Any]
    expected: str
    read: Callable[[str], Any]
    default: Any = None

    @property
    def document(self) -> dict[str, Any]:
        """Return the parameter as OpenAPI has it."""
        found: dict[str, Any] = {
            "name": self.name,
            "in": self.place,
            "description": f"{self.description} It is {self.expected}.",
            "schema": self.schema,
        }
        if self.place == "path":
            found["required"] = True
        if self.schema.get("type") == "array":
            found |= {"style": "form", "explode": False}
        return found

    def value(self, text: str | None) -> Any:
        """Return the value of a text, the default where it is None.

        Raises ProblemError.
        """
        if text is None:
            return self.default
        try:
            return self.read(text)
        except ValueError as error:
            raise bad_parameter(self.name, self.expected, text) from error

    def at(self, place: Place, name: str | None = None) -> Parameter:
        """Return the same parameter standing elsewhere."""
        return replace(self, place=place, name=name or self.name)


def integer(
    name: str, description: str, least: int = 0, most: int = COUNT_MAX, default: int | None = None
) -> Parameter:
    """Describe a whole number within limits."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    expected = f"a whole number from {least} to {most}"
    return Parameter(name, "query", description, schema, expected, read, default)


def time_ms(name: str, description: str, default: int) -> Parameter:
    """Describe a time."""
    parameter = integer(name, description, 0, TIME_MS_MAX, default)
    return replace(parameter, expected="milliseconds since 1970 UTC, a whole number")


def identifier(name: str, description: str) -> Parameter:
    """Describe an id as messages have them."""
    schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
    expected = "letters, digits, '.', '_' and '-', at most 64 characters, a letter or digit first"
    return Parameter(name, "query", description, schema, expected, _matching(ID_PATTERN))


def text(name: str, description: str, pattern: str, expected: str) -> Parameter:
    """Describe a text of a pattern."""
    schema = {"type": "string", "pattern": f"^{pattern}$"}
    return Parameter(name, "query", description, schema, expected, _matching(pattern))


def choice(
    name: str, description: str, values: Sequence[str], default: str | None = None
) -> Parameter:
    """Describe one of some words."""

    def read(word: str) -> str:
        if word not in values:
            raise ValueError(word)
        return word

    schema: dict[str, Any] = {"type": "string", "enum": list(values)}
    if default is not None:
        schema["default"] = default
    expected = f"one of {', '.join(values)}"
    return Parameter(name, "query", description, schema, expected, read, default)


def choices(name: str, description: str, values: Sequence[str]) -> Parameter:
    """Describe some words of a list, apart by commas; a frozenset, None where not given."""

    def read(words: str) -> frozenset[str]:
        found = words.split(",")
        if not set(found) <= set(values) or len(set(found)) != len(found):
            raise ValueError(words)
        return frozenset(found)

    schema = {
        "type": "array",
        "items": {"type": "string", "enum": list(values)},
        "minItems": 1,
        "uniqueItems": True,
    }
    expected = f"one or more of these, each once, with commas between: {', '.join(values)}"
    return Parameter(name, "query", description, schema, expected, read)


def read_parameters(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of a request's parameters by their names.

    Raises ProblemError for what is wrong, unknown or given twice.
    """
    given = request.query_params.multi_items()
    known = {p.name: p for p in parameters if p.place == "query"}
    texts: dict[str, str] = {}
    for name, value in given:
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            shown = name if len(name) <= 80 else f"{name[:80]}…"  # noqa: PLR2004
            raise ProblemError(
                "bad-parameter", f"unknown parameter {shown!a}; those of this route: {allowed}"
            )
        if name in texts:
            raise ProblemError("bad-parameter", f"{name} is given more than once; give it once")
        texts[name] = value
    places: dict[Place, Callable[[str], str | None]] = {
        "query": texts.get,
        "path": request.path_params.get,
        "header": request.headers.get,
    }
    return {p.name: p.value(places[p.place](p.name)) for p in parameters}


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def read(given: str) -> str:
        if not compiled.fullmatch(given):
            raise ValueError(given)
        return given

    return read
