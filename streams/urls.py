"""Log URLs: where the settings say that the log is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from insurance_fund.events.errors import SettingsError

DEFAULT_LOG_URL: Final = "sqlite:insurance-fund.db"
DEFAULT_PORT: Final = 9092
_FORMS: Final = (
    "sqlite:PATH (for example sqlite:insurance-fund.db or sqlite:/var/lib/fund/log.db) or "
    "kafka://HOST:PORT[,HOST:PORT...][/PREFIX]"
)

_PASSWORD: Final = re.compile(r"(://[^:/@]*:).*@")
_SECRET: Final = re.compile(r"([?&](?:password|secret|token)=)[^&]*", re.IGNORECASE)
# No empty label and none above 63 letters: a resolver takes neither.
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_BROKER: Final = re.compile(rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::([0-9]{{1,5}}))?")
# Of what a topic's name may have, so short that the longest of ours still fits behind it.
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A log in one file."""

    path: Path


@dataclass(frozen=True, slots=True)
class KafkaUrl:
    """A log on Kafka: the brokers to ask first, each `host:port`.

    With a prefix every name that is ours on the cluster is `<prefix>.<name>`, so that several funds
    (a test beside the live one) can share it.
    """

    brokers: tuple[str, ...]
    prefix: str = ""

    def name(self, own: str) -> str:
        """Return how a topic, group or transactional id of ours is called on the cluster."""
        return f"{self.prefix}.{own}" if self.prefix else own


def mask_password(text: str) -> str:
    """Return a text for showing: the password of a URL in it is masked."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def parse_log_url(url: str) -> SqliteUrl | KafkaUrl:
    """Return what a log URL names: a SQLite file, its path relative or absolute, or a Kafka.

    Raises SettingsError for any other form. `sqlite://` is refused: other programs read what
    follows it in more than one way.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "kafka":
        return _kafka(url, rest)
    if scheme != "sqlite" or not rest.strip() or rest.startswith(("//", ":memory:")):
        raise _refused(url)
    return SqliteUrl(Path(rest))


def _kafka(url: str, rest: str) -> KafkaUrl:
    if "@" in rest or "?" in rest:
        raise SettingsError(
            f"{mask_password(url)!r}: a Kafka URL has brokers and perhaps a prefix, no user, "
            "password or option: see the settings kafka_username, kafka_password_file and the like"
        )
    if not rest.startswith("//"):
        raise _refused(url)
    hosts, _, prefix = rest.removeprefix("//").partition("/")
    brokers = tuple(_broker(url, host) for host in hosts.split(","))
    if prefix and not _PREFIX.fullmatch(prefix):
        raise SettingsError(
            f"{url!r}: a prefix has up to 100 letters, digits, '.', '_' and '-'; got {prefix!r}"
        )
    return KafkaUrl(brokers, prefix)


def _broker(url: str, text: str) -> str:
    found = _BROKER.fullmatch(text)
    if found is None:
        raise _refused(url)
    port = int(found[2] or DEFAULT_PORT)
    if not 0 < port <= _PORT_MAX:
        raise SettingsError(f"{url!r}: {port} is no port")
    return f"{found[1]}:{port}"


def _refused(url: str) -> SettingsError:
    return SettingsError(f"{mask_password(url)!r} is no log URL: write {_FORMS}")
