"""The command `serve`: the HTTP interface with the dashboard."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from insurance_fund.api import api_app, project
from insurance_fund.cli import common, screen
from insurance_fund.cli.projections import DatabaseOption
from insurance_fund.cli.repeats import Repeats
from insurance_fund.events.errors import SettingsError
from insurance_fund.logs import database_url, kafka_access, log_url
from insurance_fund.projections.database import open_database
from insurance_fund.projections.http.guard import LOOPBACK_NAMES, is_loopback
from insurance_fund.projections.http.server import bind, serving, url_of
from insurance_fund.projections.http.services import open_services
from insurance_fund.settings import Settings
from insurance_fund.streams.kafka_access import read_secret
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.log import LogReader
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import SqliteUrl

TOKEN_LETTERS_MIN: Final = 16
# Above what it takes to end in good order.
END_S_MAX: Final = 15.0


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            help="Where to listen (setting INSURANCE_FUND_HTTP_HOST, default 127.0.0.1: this "
            "machine alone).",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="At which port, 0 for any that is free (setting INSURANCE_FUND_HTTP_PORT, "
            "default 8321).",
            show_default=False,
        ),
    ] = None,
    log: common.LogOption = None,
    database: DatabaseOption = None,
) -> None:
    """Serve the HTTP interface and the dashboard, which only read.

    On a SQLite log this also keeps the read models up to date; on Kafka the Faust workers do. With
    the setting http_token, or http_token_file, clients must send it as a bearer token. SIGTERM or
    SIGINT ends it with 0.
    """
    settings = common.settings_for(log, database=database, http_host=host, http_port=port)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats())
    token, at = http_token(settings), str(settings.text("http_host"))
    if token is None and not is_loopback(at):
        screen.complain(
            f": whoever reaches {at} can read everything: there is no token. Set http_token_file "
            "(or INSURANCE_FUND_HTTP_TOKEN), and let a proxy in front of it speak TLS",
            head="warning",
        )
    listener = bind(at, settings.number("http_port"))
    try:
        asyncio.run(_serve(settings, token, listener))
    finally:
        listener.close()


def http_token(settings: Settings) -> str | None:
    """Return the token that the settings name, None where there is none.

    Raises SettingsError.
    """
    token, file = settings.text("http_token"), settings.text("http_token_file")
    if token is not None and file is not None:
        raise SettingsError("give http_token or http_token_file, not both")
    if file is not None:
        token = read_secret(Path(file), "http_token_file")
    if token is None:
        return None
    is_one_word = token.isascii() and token.isprintable() and " " not in token
    if len(token) < TOKEN_LETTERS_MIN or not is_one_word:
        raise SettingsError(
            f"http_token must have at least {TOKEN_LETTERS_MIN} letters, digits and signs of "
            "ASCII, and no space (for example `openssl rand -hex 32`)"
        )
    return token


def _hosts(settings: Settings, host: str) -> frozenset[str] | None:
    """Return the names that requests may call this server by, None for any.

    A page elsewhere can let its own name point here, but not choose another name to call.
    """
    named = settings.text("http_hosts")
    if named is None:
        return LOOPBACK_NAMES | {host.lower()} if is_loopback(host) else None
    return LOOPBACK_NAMES | {host.lower()} | {one.strip().lower() for one in named.split(",")}


def _reader_opener(settings: Settings) -> Callable[[], LogReader]:
    url = log_url(settings)
    if isinstance(url, SqliteUrl):
        path = url.path
        return lambda: SqliteLog.open_reader(path)
    access = kafka_access(settings, url)
    return lambda: KafkaReader(access)


async def _serve(settings: Settings, token: str | None, listener: socket.socket) -> None:
    opened, url = _reader_opener(settings), database_url(settings)
    embedded = isinstance(log_url(settings), SqliteUrl)
    if embedded:
        # A path that is wrong is told at once, not by a service that waits for a log.
        await opened().close()
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    hosts = _hosts(settings, str(settings.text("http_host")))
    writable = open_database(url)
    try:
        async with (
            open_services(open_database(url), settings.shards, opened) as services,
            serving(
                api_app(services, token, hosts, settings.webhooks.values()),
                listener,
                services.let_go,
            ) as served,
            asyncio.TaskGroup() as group,
        ):
            screen.say(f" {url_of(listener)}", head="Serving at")
            if embedded:
                for ledger in settings.shards:
                    _, where = common.shard_of(settings, ledger)
                    group.create_task(project(writable, ledger, where, opened, stopped))
            group.create_task(_until(stopped, served))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    finally:
        writable.close()


async def _until(stopped: asyncio.Event, served: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(stopped.wait())
    await asyncio.wait((waiting, served), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if served.done():
        served.result()
        raise SettingsError("the server has ended by itself")
    # A thread that waits for a database that hangs cannot be ended: the process is, all the same.
    # Nothing is lost, a transaction happens or does not.
    late = threading.Timer(END_S_MAX, os._exit, (0,))
    late.daemon = True
    late.start()
