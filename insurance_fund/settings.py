"""Settings: what is set, and where each value came from.

In falling order: the command line, `INSURANCE_FUND_*` variables, the settings file
(`insurance-fund.toml`, or the one named by `INSURANCE_FUND_CONFIG`), the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from insurance_fund.events.errors import SettingsError
from insurance_fund.input_settings import InputSource, read_inputs
from insurance_fund.projections.webhook import Webhook
from insurance_fund.streams.urls import DEFAULT_LOG_URL, mask_password
from insurance_fund.webhook_settings import read_webhooks

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


DEFAULTS: Final[dict[str, str | None]] = {
    "log": DEFAULT_LOG_URL,
    "policy": None,
    "kafka_security": None,
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_username": None,
    "kafka_password": None,
    "kafka_password_file": None,
    "kafka_token_file": None,
    "kafka_ca_file": None,
    "kafka_certificate_file": None,
    "kafka_key_file": None,
    "database": "sqlite:insurance-fund-views.db",
    "http_host": "127.0.0.1",
    "http_hosts": None,
    "http_token": None,
    "http_token_file": None,
    "webhook": None,
}
# A settings file is copied, mailed and committed; what opens doors stands elsewhere.
SECRETS: Final = {"kafka_password": "kafka_password_file", "http_token": "http_token_file"}
NUMBERS: Final = {
    "batch_max": Limits(5_000, 1, 100_000),
    "record_bytes_max": Limits(1024 * 1024, 1024, 4 * 1024 * 1024),
    "deadline_wait_ms_max": Limits(600_000, 0, 86_400_000),
    "snapshot_entries": Limits(100_000, 0, 10_000_000),
    # The brokers' own limits are 6 s and 30 min, if they are not set otherwise.
    "kafka_session_ms": Limits(10_000, 1_000, 600_000),
    "http_port": Limits(8_321, 0, 65_535),
    # 0 serves no metrics; the children of a supervisor take the ports behind it.
    "metrics_port": Limits(0, 0, 65_535),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it came from."""

    name: str
    value: Any = field(repr=False)
    source: str

    @property
    def shown(self) -> str:
        """Return the value for showing, passwords masked."""
        if self.value is None:
            return ""
        return "***" if self.name in SECRETS else mask_password(str(self.value))


@dataclass(frozen=True, slots=True)
class Settings:
    """All effective settings by name.

    `shards` are the names of the ledgers, the first of which takes what belongs to none;
    `assigned` says which of them each margin currency belongs to, None where one takes all.
    `inputs` are the input topics that the bus has otherwise than we name and write them, `webhooks`
    the targets that hear of ADL triggers.
    """

    values: Mapping[str, Setting]
    shards: tuple[str, ...] = (DEFAULT_SHARD,)
    assigned: Mapping[str, str] | None = None
    inputs: Mapping[str, InputSource] = field(default_factory=dict)
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)

    @property
    def bus_topics(self) -> dict[str, str]:
        """Return the bus's names of the input topics that it calls otherwise, by ours."""
        return {name: i.topic for name, i in self.inputs.items() if i.topic != name}

    @property
    def adapters(self) -> dict[str, str]:
        """Return the names of the adapters, by the input topic."""
        return {name: i.adapter for name, i in self.inputs.items() if i.adapter is not None}

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
    inputs = read_inputs(document.pop("inputs", None))
    webhooks = read_webhooks(document.pop("webhooks", None))
    unknown = sorted(set(document) - set(DEFAULTS) - set(NUMBERS))
    if unknown:
        known = ", ".join([*DEFAULTS, *NUMBERS, "shards", "inputs", "webhooks"])
        raise SettingsError(f"{path}: unknown setting {unknown[0]!r}; known are: {known}")
    for name, instead in SECRETS.items():
        if name in document:
            raise SettingsError(
                f"{path}: {name} must not stand in a settings file: give it in the environment "
                f"({PREFIX}{name.upper()}), or name a file that holds it with {instead}"
            )
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
    for name, value in _in_tables(inputs, webhooks):
        values[name] = Setting(name, value[0], f"file {path}" if value[1] else "default")
    return Settings(values, shards, assigned, inputs, webhooks)


def _in_tables(
    inputs: Mapping[str, InputSource], webhooks: Mapping[str, Webhook]
) -> Iterator[tuple[str, tuple[str | None, bool]]]:
    """Yield what stands in tables: its name, and its value and whether that was given."""
    for topic, told in inputs.items():
        yield f"inputs.{topic}.topic", (told.topic, "topic" in told.given)
        yield f"inputs.{topic}.adapter", (told.adapter, "adapter" in told.given)
    for name, target in webhooks.items():
        yield f"webhooks.{name}.url", (target.url, True)
        token = None if target.token_file is None else str(target.token_file)
        yield f"webhooks.{name}.token_file", (token, token is not None)


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
