"""The collector of running shards: what one scrape tells of all that a process runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from insurance_fund.events import effects as fx
from insurance_fund.input_lag import InputLag
from insurance_fund.metrics import CURRENCIES_MAX, chain_verified, counter, fund_gauges, gauge
from insurance_fund.shard_metrics import COUNTED, HELPS, ShardMetrics


class ShardsCollector(Collector):
    """What the shards of a process tell."""

    def __init__(self, shards: Sequence[ShardMetrics], lag: InputLag) -> None:
        self._shards = shards
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        """Return all families; a shard that is still recovering has one sample alone."""
        yield gauge(
            "insurance_fund_shard_ready",
            "Whether the shard has recovered and may commit.",
            ("ledger",),
            [((one.ledger,), one.ready) for one in self._shards],
        )
        shards = [one for one in self._shards if one.ready]
        yield from fund_gauges(row for one in shards for row in one.funds[:CURRENCIES_MAX])
        yield from _of_ledgers(shards)
        yield from _counters(shards)
        yield from _durations(shards)
        yield from self._input_lag()

    def _input_lag(self) -> Iterator[Metric]:
        live = {one.ledger for one in self._shards if one.ready and one.live}
        labels = ("ledger", "topic", "partition")
        lags = [
            ((lag.ledger, lag.where.topic, str(lag.where.partition)), lag)
            for lag in self._lag.known()
        ]
        yield gauge(
            "insurance_fund_input_lag_records",
            "Offsets of an input that were not read; absent while unknown.",
            labels,
            [(values, lag.records) for values, lag in lags],
        )
        yield gauge(
            "insurance_fund_input_lag_seconds",
            "Age of the first record of an input that was not read; absent while unknown.",
            labels,
            [
                (values, lag.seconds)
                for values, lag in lags
                # Recordings are as old as they are.
                if lag.seconds is not None and lag.ledger in live
            ],
        )


def _of_ledgers(shards: Sequence[ShardMetrics]) -> Iterator[Metric]:
    for name, told, samples in (
        (
            "open_liquidations",
            "Liquidations that are not closed.",
            [(one.ledger, one.open_liquidations) for one in shards],
        ),
        (
            "open_adl_triggers",
            "Liquidations of which ADL is still to take something.",
            [(one.ledger, one.open_triggers()) for one in shards],
        ),
        (
            "parked_records",
            "Records that came before what they are about, and wait for it.",
            [(one.ledger, one.parked) for one in shards],
        ),
        (
            "ledger_sequence",
            "Sequence of the last entry of the ledger; absent while there is none.",
            [(one.ledger, one.sequence) for one in shards if one.sequence >= 0],
        ),
    ):
        yield gauge(
            f"insurance_fund_{name}", told, ("ledger",), [((of,), number) for of, number in samples]
        )
    yield chain_verified(
        (one.ledger, one.read_sequence) for one in shards if one.read_sequence >= 0
    )


def _counters(shards: Sequence[ShardMetrics]) -> Iterator[Metric]:
    for kind, (by, name, _) in COUNTED.items():
        labels = ("ledger",) if by is None else ("ledger", by)
        yield counter(
            f"insurance_fund_{name}_total",
            HELPS[name],
            labels,
            [
                ((one.ledger, value)[: len(labels)], count)
                for one in shards
                for value, count in one.counted(kind)
            ],
        )
    for name, told, samples in (
        (
            "dead_letters",
            "Records whose bytes went to dead-letters: refused, or given up after waiting.",
            [(one.ledger, sum(map(one.total, (fx.Rejected, fx.ParkedExpired)))) for one in shards],
        ),
        (
            "skipped_records",
            "Records of the inputs that are not for this ledger.",
            [(one.ledger, one.processor.inputs.skipped_total) for one in shards],
        ),
        (
            "entries_written",
            "Entries that this process has written.",
            [(one.ledger, one.processor.entries_written) for one in shards],
        ),
    ):
        yield counter(
            f"insurance_fund_{name}_total",
            told,
            ("ledger",),
            [((ledger,), number) for ledger, number in samples],
        )


def _durations(shards: Sequence[ShardMetrics]) -> Iterator[Metric]:
    transactions = HistogramMetricFamily(
        "insurance_fund_transaction_duration_seconds",
        "How long transactions took, from the first byte sent to the answer that they are done.",
        labels=("ledger",),
    )
    inputs = HistogramMetricFamily(
        "insurance_fund_input_to_commit_seconds",
        "From a record's timestamp to the commit of its entry; live ledgers alone.",
        labels=("ledger",),
    )
    for one in shards:
        one.transactions.add_to(transactions, (one.ledger,))
        if one.live:
            one.inputs.add_to(inputs, (one.ledger,))
    yield transactions
    yield inputs
