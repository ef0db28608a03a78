"""Metrics: how they are made and written, and what a process exports of its read models.

Each process has a registry of its own: `new_registry()`, then `register` what it can tell, then
`exposition()` at each scrape. All numbers are worked out at the scrape, from what the process has
at hand. Amounts become floats here and nowhere else: they are for charts and alerts; whoever
decides on money reads the strings of the API or the ledger.

A process that serves read models hands over what it knows as rows, through callables that are asked
at each scrape, in the thread in which `exposition` is called:

    registry = view_registry(Views(funds=..., instruments=..., projections=..., streams=...))
    body, content_type = exposition(registry, request.headers.get("accept", ""))
"""

from __future__ import annotations

import itertools
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from insurance_fund.fund.decide import RULES
from insurance_fund.version import VERSION

# More instruments than this are left out of a scrape, those with the most headroom first.
INSTRUMENTS_MAX: Final = 500
# A bus has a few currencies; whoever makes up new ones must not fill the store of metrics.
CURRENCIES_MAX: Final = 200
OPENMETRICS: Final = "application/openmetrics-text"
READ_MODELS: Final = "read_models"


class FundNow(NamedTuple):
    """The fund of a margin currency; `delta` is what liquidations brought, less what they cost."""

    ledger: str
    margin_currency: str
    available: Decimal
    reserved: Decimal
    shortfall: Decimal
    delta: Decimal


class InstrumentNow(NamedTuple):
    """What an instrument's share of the fund still allows, and what it is in all."""

    ledger: str
    instrument_id: str
    margin_currency: str
    headroom: Decimal
    limit: Decimal


class ProjectionNow(NamedTuple):
    """How far something that follows a ledger has come; `name` is READ_MODELS or a webhook's.

    `sequence` is that of the last entry it has taken in, whose hash it has checked where these are
    read models, and -1 for none; `end_sequence` that of the last entry in the log, None while that
    is not known. `lag_s` is the age of the oldest entry it has not taken in, 0 where there is none,
    None while not known.
    """

    ledger: str
    name: str
    sequence: int
    end_sequence: int | None
    lag_s: float | None


class StreamsNow(NamedTuple):
    """The clients of the event stream: how many there are, and how many were ever let go."""

    clients: int
    let_go: int


@dataclass(frozen=True, slots=True)
class Views:
    """What a process that serves read models can tell; each is asked at every scrape."""

    funds: Callable[[], Iterable[FundNow]]
    instruments: Callable[[], Iterable[InstrumentNow]]
    projections: Callable[[], Iterable[ProjectionNow]]
    streams: Callable[[], StreamsNow]


class Histogram:
    """Counts durations; for one task alone, which makes it cheap."""

    def __init__(self, bounds_ms: Sequence[float]) -> None:
        self._bounds_ms = bounds_ms
        self._counts = [0] * (len(bounds_ms) + 1)
        self._sum_ms = 0.0

    def observe(self, durations_ms: Sequence[float]) -> None:
        """Count durations, none below zero."""
        counts, bounds_ms = self._counts, self._bounds_ms
        for duration_ms in durations_ms:
            counts[bisect_left(bounds_ms, duration_ms)] += 1
        self._sum_ms += sum(durations_ms)

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add what was counted to a family, which is in seconds."""
        bounds = [*(repr(bound_ms / 1000) for bound_ms in self._bounds_ms), "+Inf"]
        reached = itertools.accumulate(self._counts)
        family.add_metric(labels, list(zip(bounds, reached, strict=True)), self._sum_ms / 1000)


Samples = Iterable[tuple[Sequence[str], float | Decimal]]


def gauge(name: str, told: str, labels: Sequence[str], samples: Samples) -> GaugeMetricFamily:
    """Return a gauge; `told` is its help."""
    family = GaugeMetricFamily(name, told, labels=labels)
    for values, number in samples:
        family.add_metric(values, float(number))
    return family


def counter(name: str, told: str, labels: Sequence[str], samples: Samples) -> CounterMetricFamily:
    """Return a counter, whose name ends in `_total`."""
    family = CounterMetricFamily(name, told, labels=labels)
    for values, number in samples:
        family.add_metric(values, float(number))
    return family


def fund_gauges(funds: Iterable[FundNow]) -> Iterator[Metric]:
    """Return the gauges of the funds."""
    rows, labels = list(funds)[:CURRENCIES_MAX], ("ledger", "margin_currency")
    for name, told in _FUND_GAUGES.items():
        samples = [((one.ledger, one.margin_currency), getattr(one, name)) for one in rows]
        yield gauge(f"insurance_fund_{name}", told, labels, samples)


_FUND_GAUGES: Final = {
    "available": "What the fund may use, in units of the margin currency.",
    "reserved": "What is set aside for open orders, in units of the margin currency.",
    "shortfall": "What the fund could not pay and the treasury owes it, at or below zero.",
    "delta": "What liquidations have brought the fund, less what they have cost it.",
}


class _Build(Collector):
    """Which software this is."""

    def collect(self) -> Iterator[Metric]:
        labels = {"version": VERSION, "rules": str(RULES), "python": platform.python_version()}
        told = "The software that runs: its version, the number of its rules, and its Python."
        yield gauge("insurance_fund_build_info", told, list(labels), [(list(labels.values()), 1)])


class _ViewCollector(Collector):
    """What read models tell."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def collect(self) -> Iterator[Metric]:
        yield from fund_gauges(self._views.funds())
        yield from _instrument_gauges(self._views.instruments())
        yield from _projection_gauges(self._views.projections())
        streams = self._views.streams()
        told = "Clients of the event stream that are connected."
        yield gauge("insurance_fund_stream_clients", told, (), [((), streams.clients)])
        told = "Clients of the event stream that were let go because they were too slow."
        yield counter("insurance_fund_stream_let_go_total", told, (), [((), streams.let_go)])


def _instrument_gauges(instruments: Iterable[InstrumentNow]) -> Iterator[Metric]:
    rows = sorted(instruments, key=lambda one: one.headroom)[:INSTRUMENTS_MAX]
    labels = ("ledger", "margin_currency", "instrument_id")
    for name, told in (
        ("headroom", "What an instrument's share of the fund still allows to be granted."),
        ("limit", "An instrument's share of the fund's highest total in the window."),
    ):
        samples = [
            ((one.ledger, one.margin_currency, one.instrument_id), getattr(one, name))
            for one in rows
        ]
        yield gauge(f"insurance_fund_instrument_{name}", told, labels, samples)


def _projection_gauges(projections: Iterable[ProjectionNow]) -> Iterator[Metric]:
    rows, labels = list(projections), ("ledger", "projection")
    yield gauge(
        "insurance_fund_projection_lag_entries",
        "Entries of the ledger that a projection has not taken in; absent while unknown.",
        labels,
        [
            ((one.ledger, one.name), max(0, one.end_sequence - one.sequence))
            for one in rows
            if one.end_sequence is not None
        ],
    )
    yield gauge(
        "insurance_fund_projection_lag_seconds",
        "Age of the oldest entry that a projection has not taken in; absent while unknown.",
        labels,
        [((one.ledger, one.name), one.lag_s) for one in rows if one.lag_s is not None],
    )
    yield chain_verified(
        (one.ledger, one.sequence) for one in rows if one.name == READ_MODELS and one.sequence >= 0
    )


def chain_verified(checked: Iterable[tuple[str, int]]) -> Metric:
    """Return the gauge of how far a process has read a ledger back; (ledger, sequence) each."""
    return gauge(
        "insurance_fund_chain_verified_sequence",
        "Sequence of the last entry that this process has read back and whose hash it checked.",
        ("ledger",),
        [((ledger,), sequence) for ledger, sequence in checked],
    )


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry with these, the build, and what the system tells of this process."""
    registry = CollectorRegistry()
    for one in (_Build(), *collectors):
        registry.register(one)
    ProcessCollector(registry=registry)
    return registry


def view_registry(views: Views) -> CollectorRegistry:
    """Return a registry of what read models tell."""
    return new_registry(_ViewCollector(views))


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics as a scraper wants them, and their content type."""
    encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encode(registry), content_type
