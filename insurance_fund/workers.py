"""The Faust workers: what the settings say, put together for `projections/app.py` and its like."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stamina.instrumentation import set_on_retry_hooks

from insurance_fund.cli import screen
from insurance_fund.cli.common import EXIT_FOUND, ending_of, leave
from insurance_fund.events.errors import InsuranceFundError, SettingsError
from insurance_fund.logs import database_url, kafka_access, log_url
from insurance_fund.projections.database import Database, open_database
from insurance_fund.projections.faust_app import LedgerApp
from insurance_fund.projections.faust_ledgers import Ledgers
from insurance_fund.projections.projector import Projector
from insurance_fund.projections.subscribers import ReadModels
from insurance_fund.projections.webhook_target import Target
from insurance_fund.projections.webhooks import Subscription, begin_at_end
from insurance_fund.settings import Settings, load_settings
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import LogReader
from insurance_fund.streams.urls import KafkaUrl
from insurance_fund.webhook_settings import choose_webhook

PROJECTIONS: Final = "insurance-fund.projections"
WEBHOOK: Final = "insurance-fund.webhook"


def projections_app() -> LedgerApp:
    """Return the app of the workers that carry the read models.

    What stands in the way is told on standard error, and the process ends with its exit code.
    """
    with _told():
        settings, access, database = _opened()
        subscribers = [ReadModels(Projector(database, ledger)) for ledger in settings.shards]
        return LedgerApp(PROJECTIONS, Ledgers(access, subscribers, _fail), _session_s(settings))


def webhooks_app() -> LedgerApp:
    """Return the app of the workers that serve one webhook.

    What stands in the way is told on standard error, and the process ends with its exit code.
    """
    with _told():
        settings, access, database = _opened()
        webhook = choose_webhook(settings.webhooks, settings.text("webhook"))
        # They would tell the URL, which may be a secret, and not why a message is sent again.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        set_on_retry_hooks([])
        target = Target(webhook)
        subscribers = [
            Subscription(database, webhook, target, ledger) for ledger in settings.shards
        ]

        async def begin(log: LogReader) -> None:
            await begin_at_end(log, database, webhook, settings.shards)

        ledgers = Ledgers(access, subscribers, _fail, begin)
        return LedgerApp(f"{WEBHOOK}.{webhook.name}", ledgers, _session_s(settings))


def _opened() -> tuple[Settings, KafkaAccess, Database]:
    settings = load_settings()
    url = log_url(settings)
    if not isinstance(url, KafkaUrl):
        raise SettingsError(
            "Faust workers read a log on Kafka (INSURANCE_FUND_LOG = kafka://HOST:PORT); on a log "
            "in SQLite `insurance-fund serve` carries the read models itself"
        )
    access = kafka_access(settings, url)
    return settings, access, open_database(database_url(settings))


def _session_s(settings: Settings) -> float:
    return settings.number("kafka_session_ms") / 1000


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except InsuranceFundError as error:
        head, code = ending_of(error)
        screen.complain(f": {error}", head=head)
        sys.exit(code)


def _fail(error: Exception) -> None:
    """End this process, saying why: positions are safe, and a restart goes on from them."""
    # In their place Faust has put its log.
    sys.stdout, sys.stderr = sys.__stdout__ or sys.stdout, sys.__stderr__ or sys.stderr
    if isinstance(error, InsuranceFundError):
        leave(error)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(EXIT_FOUND)
