"""The HTTP interface, put together: the application, its metrics, and the embedded projector."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from anyio.to_thread import run_sync
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from insurance_fund import metrics
from insurance_fund.events.amounts import exact, number
from insurance_fund.events.errors import LogUnavailableError, ReadModelsError
from insurance_fund.projections.database import Database
from insurance_fund.projections.follower import follow
from insurance_fund.projections.fund_queries import query_funds
from insurance_fund.projections.http.app import build_app
from insurance_fund.projections.http.guard import LOOPBACK_NAMES
from insurance_fund.projections.http.services import Services
from insurance_fund.projections.projector import Position, Projector
from insurance_fund.projections.queries import Reading, Values, query_positions
from insurance_fund.projections.webhook import Webhook
from insurance_fund.streams.log import LogReader, TopicPartition

RETRY_S: Final = 2.0
_log = logging.getLogger(__name__)


def api_app(
    services: Services,
    token: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
    webhooks: Iterable[Webhook] = (),
) -> ASGIApp:
    """Return the application with its metrics, among them those of `webhooks`; see `build_app`."""
    scrape = _Scrape(services, [webhook.position for webhook in webhooks])
    return build_app(services, token, hosts, scrape)


async def project(
    database: Database,
    ledger: str,
    where: TopicPartition,
    opened: Callable[[], LogReader],
    stopped: asyncio.Event,
) -> None:
    """Keep the read models of a ledger up to date until `stopped`, through outages and rebuilds.

    Raises CorruptionError with the sequence where the ledger is not what it should be.
    """
    while not stopped.is_set():
        log = None
        try:
            log = opened()
            await follow(log, where, Projector(database, ledger), stopped)
        except (LogUnavailableError, ReadModelsError) as error:
            _log.warning("the read models of ledger %s are not kept up to date: %s", ledger, error)
        finally:
            if log is not None:
                await log.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await stopped.wait()


@dataclass(frozen=True, slots=True)
class _Known:
    """What one scrape finds in the read models."""

    funds: Sequence[Values]
    positions: dict[tuple[str, str], Position]
    clocks: dict[str, str]


class _Scrape:
    """Answers scrapes; what read models tell is read once for each."""

    def __init__(self, services: Services, webhooks: Sequence[str]) -> None:
        self._services = services
        # Positions of those that were taken out of the settings stay for when they come back.
        self._told = {metrics.READ_MODELS, *webhooks}
        self._known = _Known((), {}, {})
        self._registry: CollectorRegistry = metrics.view_registry(
            metrics.Views(
                funds=self._funds,
                instruments=self._instruments,
                projections=self._projections,
                streams=lambda: metrics.StreamsNow(services.streams.open, services.streams.let_go),
            )
        )
        self._turn = asyncio.Lock()

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type."""
        async with self._turn:
            self._known = await self._services.views.read(_query)
            return await run_sync(metrics.exposition, self._registry, accept)

    @exact
    def _funds(self) -> list[metrics.FundNow]:
        return [
            metrics.FundNow(
                fund["ledger"],
                fund["margin_currency"],
                available=number(fund["available"]),
                reserved=number(fund["reserved"]),
                shortfall=number(fund["shortfall"]),
                delta=number(fund["gains"]) + number(fund["draws"]),
            )
            for fund in self._known.funds
        ]

    def _instruments(self) -> list[metrics.InstrumentNow]:
        return [
            metrics.InstrumentNow(
                fund["ledger"],
                one["instrument_id"],
                fund["margin_currency"],
                number(one["headroom"]),
                number(one["limit"]),
            )
            for fund in self._known.funds
            for one in fund["instruments"]
        ]

    def _projections(self) -> list[metrics.ProjectionNow]:
        books = self._services.books
        # Read models that nobody has begun are behind as well.
        positions = {(metrics.READ_MODELS, ledger): Position() for ledger in books}
        positions |= self._known.positions
        return [
            metrics.ProjectionNow(ledger, name, at.sequence, *self._left(ledger, at))
            for (name, ledger), at in positions.items()
            if ledger in books and name in self._told
        ]

    def _left(self, ledger: str, at: Position) -> tuple[int | None, float | None]:
        """Return where the log of a ledger ends, and how old is what something has not taken."""
        feed = self._services.books[ledger].feed
        if feed.trouble is not None:
            return None, None
        end = feed.next_sequence - 1
        if at.sequence >= end:
            return end, 0.0
        if self._known.clocks.get(ledger) != "wall":
            # Nothing was taken yet, or it is a recording, as old as it is.
            return end, None
        next_ms = feed.ring.time_ms(at.sequence + 1)
        since_ms = at.now_ms if next_ms is None else next_ms
        return end, max(0.0, time.time() - since_ms / 1000)


def _query(reading: Reading) -> _Known:
    return _Known(query_funds(reading), query_positions(reading), reading.clocks())
