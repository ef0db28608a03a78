"""Access to a Kafka cluster: which brokers, how they and we know each other, and time-outs."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError
from aiokafka.helpers import create_ssl_context

from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.urls import KafkaUrl

# A broker that hangs is left after one or two of these; our deadline stays above two and a half,
# the broker's own end of a transaction above the deadline, so that we give up before it does.
REQUEST_MS: Final = 5_000
DEADLINE_S: Final = 15.0
TRANSACTION_MS: Final = 20_000

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER"]
SECURITIES: Final[tuple[str, ...]] = get_args(Security)
MECHANISMS: Final[tuple[str, ...]] = get_args(Mechanism)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who we are to the brokers, and whose certificates we trust; files are in PEM.

    Without `security` the connection is plaintext, which is only taken on loopback.
    """

    security: Security | None = None
    mechanism: Mechanism = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.security}, {self.mechanism}, {self.username})"


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """A cluster, and how to get in.

    `foreign` are topics that the exchange has made and named: no prefix stands before them.

    Raises SettingsError for credentials that are missing, do not fit together, or would send what
    is secret in the clear without having been asked to.
    """

    url: KafkaUrl
    credentials: Credentials = Credentials()
    foreign: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        given = self.credentials
        if given.security is None and not all(map(_is_loopback, self.url.brokers)):
            raise SettingsError(
                f"{', '.join(self.url.brokers)}: say how to connect beyond this machine: "
                f"kafka_security = one of {', '.join(SECURITIES)}"
            )
        if self._has_sasl:
            if given.mechanism == "OAUTHBEARER":
                _need(given.token_file, "kafka_token_file", "kafka_sasl_mechanism OAUTHBEARER")
            else:
                for name in ("username", "password"):
                    value, why = getattr(given, name), f"kafka_security {given.security}"
                    _need(value, f"kafka_{name}", why)
        self._refuse_what_is_not_used()
        if bool(given.certificate_file) != bool(given.key_file):
            raise SettingsError("kafka_certificate_file and kafka_key_file come together or not")

    def _refuse_what_is_not_used(self) -> None:
        """Raise SettingsError for what would protect the connection and does not."""
        unused: dict[str, Sequence[str]] = {}
        if not self._has_tls:
            unused["ssl or sasl_ssl"] = ("ca_file", "certificate_file", "key_file")
        if not self._has_sasl:
            unused["sasl_ssl or sasl_plaintext"] = ("password", "token_file")
        for security, names in unused.items():
            for name in names:
                if getattr(self.credentials, name) is not None:
                    raise SettingsError(
                        f"kafka_{name} is set and not used: set kafka_security = {security}, or "
                        "take it out"
                    )

    @property
    def _has_tls(self) -> bool:
        return (self.credentials.security or "").endswith("ssl")

    @property
    def _has_sasl(self) -> bool:
        return (self.credentials.security or "").startswith("sasl")

    def __str__(self) -> str:
        return f"kafka://{','.join(self.url.brokers)}"

    def topic(self, topic: str) -> str:
        """Return how a topic is called on the cluster."""
        return topic if topic in self.foreign else self.url.name(topic)

    def options(self) -> dict[str, Any]:
        """Return what every client of aiokafka is made with; reads the certificates.

        Raises SettingsError for files that cannot be read.
        """
        given = self.credentials
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.url.brokers),
            "client_id": "insurance-fund",
            "request_timeout_ms": REQUEST_MS,
            "security_protocol": (given.security or "plaintext").upper(),
        }
        if self._has_tls:
            options["ssl_context"] = self._ssl_context()
        if self._has_sasl:
            options["sasl_mechanism"] = given.mechanism
            if given.mechanism == "OAUTHBEARER":
                assert given.token_file is not None
                options["sasl_oauth_token_provider"] = TokenFile(given.token_file)
            else:
                options["sasl_plain_username"] = given.username
                options["sasl_plain_password"] = given.password
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        given = self.credentials
        for name in ("ca_file", "certificate_file", "key_file"):
            path: Path | None = getattr(given, name)
            if path is not None:
                read_secret(path, f"kafka_{name}")
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=given.ca_file,
                certfile=given.certificate_file,
                keyfile=given.key_file,
                password=_no_passphrase,
            )
        except (OSError, ValueError) as error:
            files = [given.ca_file, given.certificate_file, given.key_file]
            named = ", ".join(str(path) for path in files if path is not None)
            raise SettingsError(
                f"{named}: cannot be used ({error}): give certificates and a key that belong "
                "together, in PEM, the key without a passphrase"
            ) from error
        return context


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads a bearer token from a file each time the brokers ask, so that it can be renewed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        read_secret(path, "kafka_token_file")

    async def token(self) -> str:
        """Return the token as it stands in the file now.

        Raises the client's own error where there is none, for which it tries again later: a token
        that is being renewed may be missing for a moment.
        """
        try:
            return read_secret(self._path, "kafka_token_file")
        except SettingsError as error:
            raise AuthenticationFailedError(str(error)) from error


def read_secret(path: Path, setting: str) -> str:
    """Return what a file says, without the white space around it.

    Raises SettingsError, naming the setting, where it cannot be read or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{setting}: {path} cannot be read: {error}") from error
    if not text:
        raise SettingsError(f"{setting}: {path} is empty")
    return text


def _no_passphrase() -> str:
    # Else OpenSSL asks whoever sits at the terminal, and a service waits for ever.
    return ""


def _need(value: object, name: str, why: str) -> None:
    if value is None:
        hint = " (environment INSURANCE_FUND_KAFKA_PASSWORD, or kafka_password_file)"
        raise SettingsError(f"{why} needs {name}{hint if name == 'kafka_password' else ''}")


def _is_loopback(broker: str) -> bool:
    host = broker.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
