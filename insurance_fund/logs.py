"""Opens the log that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, cast

from insurance_fund.events.errors import SettingsError
from insurance_fund.settings import Settings
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import (
    MECHANISMS,
    SECURITIES,
    Credentials,
    KafkaAccess,
    Mechanism,
    Security,
    read_secret,
)
from insurance_fund.streams.log import LogPublisher, LogReader, LogWriter
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import KafkaUrl, SqliteUrl, parse_log_url


class Log(LogWriter, LogPublisher, Protocol):
    """A log with every side of the port."""


def log_url(settings: Settings) -> SqliteUrl | KafkaUrl:
    """Return where the settings say that the log is."""
    return parse_log_url(str(settings.text("log")))


def log_opener(settings: Settings) -> Callable[[], Log]:
    """Return what opens the log for all sides, each time anew; a file is made where none is."""
    url = log_url(settings)
    if isinstance(url, SqliteUrl):
        path = url.path
        return lambda: SqliteLog.open(path, create=True)
    access = kafka_access(settings, url)
    return lambda: KafkaLog(access)


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[Log]:
    """Open the log for all sides; a file is made where none is."""
    log = log_opener(settings)()
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def open_reader(settings: Settings) -> AsyncIterator[LogReader]:
    """Open the log for reading."""
    url = log_url(settings)
    log: LogReader
    if isinstance(url, SqliteUrl):
        log = SqliteLog.open_reader(url.path)
    else:
        log = KafkaLog(kafka_access(settings, url))
    try:
        yield log
    finally:
        await log.close()


def database_url(settings: Settings) -> str:
    """Return where the settings say that the read models are.

    Raises SettingsError where that is the file of the log.
    """
    url, log = str(settings.text("database")), log_url(settings)
    path = url.removeprefix("sqlite:")
    if isinstance(log, SqliteUrl) and path != url and Path(path).resolve() == log.path.resolve():
        raise SettingsError(
            f"database and log are the same file, {path}: read models are dropped and built anew, "
            "and need a file of their own"
        )
    return url


def kafka_access(settings: Settings, url: KafkaUrl) -> KafkaAccess:
    """Return how the settings say to get into a cluster.

    Raises SettingsError for what is missing, unknown or does not fit together.
    """

    def path(name: str) -> Path | None:
        text = settings.text(name)
        return None if text is None else Path(text)

    def one_of(name: str, known: tuple[str, ...]) -> str | None:
        text = settings.text(name)
        if text is not None and text not in known:
            raise SettingsError(f"{name} must be one of {', '.join(known)}; got {text!r}")
        return text

    password, password_file = settings.text("kafka_password"), path("kafka_password_file")
    if password is not None and password_file is not None:
        raise SettingsError("give kafka_password or kafka_password_file, not both")
    if password_file is not None:
        password = read_secret(password_file, "kafka_password_file")
    return KafkaAccess(
        url,
        Credentials(
            security=cast("Security | None", one_of("kafka_security", SECURITIES)),
            mechanism=cast("Mechanism", one_of("kafka_sasl_mechanism", MECHANISMS)),
            username=settings.text("kafka_username"),
            password=password,
            token_file=path("kafka_token_file"),
            ca_file=path("kafka_ca_file"),
            certificate_file=path("kafka_certificate_file"),
            key_file=path("kafka_key_file"),
        ),
        frozenset(settings.bus_topics.values()),
    )
