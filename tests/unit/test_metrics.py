"""Metrics alone: durations, formats, limits, and what is left out while it is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import HistogramMetricFamily

from insurance_fund.host_collector import HostCollector
from insurance_fund.metrics import (
    CURRENCIES_MAX,
    INSTRUMENTS_MAX,
    READ_MODELS,
    FundNow,
    Histogram,
    InstrumentNow,
    ProjectionNow,
    StreamsNow,
    Views,
    exposition,
    new_registry,
    view_registry,
)
from insurance_fund.streams.supervisor import Standing
from tests.embedded.watched import HOST_METRICS, Scrape

NOTHING: Final = Views(
    funds=list, instruments=list, projections=list, streams=lambda: StreamsNow(0, 0)
)


def told(views: Views) -> Scrape:
    return Scrape(exposition(view_registry(views))[0].decode())


def told_of(*projections: ProjectionNow) -> Scrape:
    return told(replace(NOTHING, projections=lambda: projections))


@given(st.lists(st.lists(st.integers(0, 3_000) | st.floats(0, 3_000), max_size=20), max_size=5))
def test_histogram_counts_as_counting_one_by_one_would(batches: list[list[float]]) -> None:
    bounds_ms = (1, 2.5, 1_000)
    histogram = Histogram(bounds_ms)
    for batch in batches:
        histogram.observe(batch)
    family = HistogramMetricFamily("x", "x", labels=["l"])
    histogram.add_to(family, ["a"])
    values = {s.labels["le"]: s.value for s in family.samples if "le" in s.labels}
    observed = [one for batch in batches for one in batch]
    wanted = {str(bound / 1000): sum(one <= bound for one in observed) for bound in bounds_ms}
    assert values == {**wanted, "+Inf": len(observed)}
    (total,) = [s.value for s in family.samples if s.name == "x_sum"]
    assert total == pytest.approx(sum(observed) / 1000)


def test_lag_that_is_not_known_is_absent_and_never_zero() -> None:
    scrape = told_of(ProjectionNow("main", READ_MODELS, 7, None, None))
    assert not scrape.labels("projection_lag_entries")
    assert not scrape.labels("projection_lag_seconds")
    assert scrape.value("chain_verified_sequence", ledger="main") == 7
    known = told_of(ProjectionNow("main", READ_MODELS, 7, 9, 0.5))
    assert known.value("projection_lag_entries", ledger="main", projection=READ_MODELS) == 2
    assert known.value("projection_lag_seconds") == 0.5


def test_projection_without_an_entry_has_verified_nothing() -> None:
    scrape = told_of(ProjectionNow("main", READ_MODELS, -1, 9, 0.5))
    assert scrape.get("chain_verified_sequence") is None
    assert scrape.value("projection_lag_entries") == 10


def test_projection_that_is_ahead_of_what_is_known_of_the_log_is_not_behind() -> None:
    assert told_of(ProjectionNow("main", READ_MODELS, 9, 7, 0)).value("projection_lag_entries") == 0


def test_webhook_has_a_lag_of_its_own_and_verifies_no_chain() -> None:
    scrape = told_of(
        ProjectionNow("main", "webhook:desk", 3, 9, 60),
        ProjectionNow("main", READ_MODELS, 8, 9, 1),
    )
    assert scrape.value("projection_lag_entries", projection="webhook:desk") == 6
    assert scrape.value("chain_verified_sequence", ledger="main") == 8


def test_amounts_become_floats_of_their_exact_value() -> None:
    fund = FundNow("main", "USDT", Decimal("0.1"), Decimal("1E+3"), Decimal("-0"), Decimal("-2.5"))
    scrape = told(replace(NOTHING, funds=lambda: [fund]))
    of = {"ledger": "main", "margin_currency": "USDT"}
    names = ("available", "reserved", "shortfall", "delta")
    assert [scrape.value(name, **of) for name in names] == [0.1, 1000, 0, -2.5]


def funds(count: int) -> list[FundNow]:
    return [FundNow("main", f"C{n}", *[Decimal(n)] * 4) for n in range(count)]


def instruments(count: int) -> list[InstrumentNow]:
    return [
        InstrumentNow("main", f"I{n}", "USDT", Decimal(count - n), Decimal(n)) for n in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "most", "views"),
    [
        ("available", CURRENCIES_MAX, lambda n: replace(NOTHING, funds=lambda: funds(n))),
        (
            "instrument_headroom",
            INSTRUMENTS_MAX,
            lambda n: replace(NOTHING, instruments=lambda: instruments(n)),
        ),
    ],
)
def test_number_of_series_has_a_bound(name: str, most: int, views: Callable[[int], Views]) -> None:
    assert len(told(views(most)).labels(name)) == most
    assert len(told(views(most + 5)).labels(name)) == most


def test_instruments_that_are_left_out_are_those_with_the_most_headroom() -> None:
    count = INSTRUMENTS_MAX + 5
    scrape = told(replace(NOTHING, instruments=lambda: instruments(count)))
    named = {labels["instrument_id"] for labels in scrape.labels("instrument_headroom")}
    assert f"I{count - 1}" in named
    assert "I0" not in named


def test_label_with_any_text_cannot_break_out_of_its_line() -> None:
    name = 'a"b\\c\nd{}\N{SNOWMAN}'
    one = InstrumentNow("main", name, "USDT", Decimal(1), Decimal(2))
    scrape = told(replace(NOTHING, instruments=lambda: [one]))
    assert scrape.value("instrument_limit", instrument_id=name) == 2


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain; version=x; q=y", "application/openmetrics-text;version=\xff", ";,;,"],
)
def test_every_accept_header_gets_a_format_that_can_be_read(accept: str) -> None:
    body, content_type = exposition(view_registry(NOTHING), accept)
    openmetrics = "openmetrics" in accept
    assert body.endswith(b"# EOF\n") == openmetrics
    assert content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain")


def test_supervisor_tells_of_each_shard_of_the_settings() -> None:
    given_up: dict[str, Any] = {"given_up": False}
    standings = [
        Standing("main", assigned=True, ready=True, restarts=2, **given_up),
        Standing("coins", assigned=False, ready=False, restarts=0, **given_up),
    ]
    registry = new_registry(HostCollector(lambda: standings))
    scrape = Scrape(exposition(registry)[0].decode())
    assert scrape.names >= HOST_METRICS
    for name, main, coins in (
        ("shard_assigned", 1, 0),
        ("child_up", 1, 0),
        ("child_restarts_total", 2, 0),
    ):
        assert scrape.value(name, ledger="main") == main
        assert scrape.value(name, ledger="coins") == coins
