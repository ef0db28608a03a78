"""Settings: what is set, and where each value came from.

In falling order: the command line, `INSURANCE_FUND_*` variables, the settings file
(`insurance-fund.toml`, or the one named by `INSURANCE_FUND_CONFIG`), the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.urls import DEFAULT_LOG_URL, mask_password

PREFIX: Final = "INSURANCE_FUND_"
DEFAULT_FILE: Final = "insurance-fund.toml"
DEFAULT_SHARD: Final = "main"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Limits:
    """A whole number's default and the limits it must stay within."""

    default: int
    least: int
    most: int


DEFAULTS: Final[dict[str, str | None]] = {"log": DEFAULT_LOG_URL, "policy": None}
NUMBERS: Final = {
    "batch_max": Limits(5_000, 1, 100_000),
    "record_bytes_max": Limits(1024 * 1024, 1024, 4 * 1024 * 1024),
    "deadline_wait_ms_max": Limits(600_000, 0, 86_400_000),
    "snapshot_entries": Limits(100_000, 0, 10_000_000),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it came from."""

    name: str
    value: Any
    source: str

    @property
    def shown(self) -> str:
        """Return the value for showing, passwords masked."""
        return "" if self.value is None else mask_password(str(self.value))


@dataclass(frozen=True, slots=True)
class Settings:
    """All effective settings by name.

    `shards` are the names of the ledgers, the first of which takes what belongs to none;
    `assigned` says which of them each margin currency belongs to, None where one takes all.
    """

    values: Mapping[str, Setting]
    shards: tuple[str, ...] = (DEFAULT_SHARD,)
    assigned: Mapping[str, str] | None = None

    def text(self, name: str) -> str | None:
        """Return a text setting."""
        value: str | None = self.values[name].value
        return value

    def number(self, name: str) -> int:
        """Return a whole-number setting."""
        value: int = self.values[name].value
        return value


def load_settings(
    options: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Gather the settings; `options` are those of the command line, None where not given.

    Raises SettingsError with the name and place of what is wrong.
    """
    environ = os.environ if environment is None else environment
    path = Path(environ.get(f"{PREFIX}CONFIG", DEFAULT_FILE))
    document = _read_file(path, named=f"{PREFIX}CONFIG" in environ)
    shards, assigned = _shards(document.pop("shards", None))
    unknown = sorted(set(document) - set(DEFAULTS) - set(NUMBERS))
    if unknown:
        known = ", ".join([*DEFAULTS, *NUMBERS, "shards"])
        raise SettingsError(f"{path}: unknown setting {unknown[0]!r}; known are: {known}")
    values: dict[str, Setting] = {}
    for name in (*DEFAULTS, *NUMBERS):
        variable = f"{PREFIX}{name.upper()}"
        option = (options or {}).get(name)
        if option is not None:
            value, source = option, f"option --{name.replace('_', '-')}"
        elif variable in environ:
            value, source = environ[variable], f"environment {variable}"
        elif name in document:
            value, source = document[name], f"file {path}"
        else:
            limits = NUMBERS.get(name)
            value, source = (limits.default if limits else DEFAULTS[name]), "default"
        values[name] = Setting(name, _checked(name, value, source), source)
    return Settings(values, shards, assigned)


def _checked(name: str, value: Any, source: str) -> Any:
    limits = NUMBERS.get(name)
    if limits is None:
        if value is not None and not isinstance(value, str):
            raise SettingsError(f"{name} ({source}) must be a text")
        return value
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if type(number) is not int or not limits.least <= number <= limits.most:
        raise SettingsError(
            f"{name} ({source}) must be a whole number from {limits.least} to {limits.most}; "
            f"got {value!r}"
        )
    return number


def _read_file(path: Path, *, named: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named:
            raise SettingsError(f"{PREFIX}CONFIG names {path}, which is not there") from error
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def _shards(document: Any) -> tuple[tuple[str, ...], dict[str, str] | None]:
    if document is None:
        return (DEFAULT_SHARD,), None
    if not isinstance(document, dict) or not document:
        raise SettingsError(
            'shards must be a table, [shards], with lines such as: main = ["USDT", "USDC"]'
        )
    assigned: dict[str, str] = {}
    for shard, currencies in document.items():
        if not _NAME.fullmatch(shard):
            raise SettingsError(f"shards: {shard!r} is no name for a ledger")
        if not isinstance(currencies, list) or not all(isinstance(c, str) for c in currencies):
            raise SettingsError(f"shards.{shard} must be a list of margin currencies")
        for currency in currencies:
            if currency in assigned:
                raise SettingsError(
                    f"shards: {currency} belongs to both {assigned[currency]} and {shard}; "
                    "a currency never splits"
                )
            assigned[currency] = shard
    return tuple(document), assigned
