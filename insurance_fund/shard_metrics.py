"""What a running shard exports: counted as it commits, the rest looked up at the scrape.

Balances are those of the last commit, never of what is still on its way. Counters begin at zero
with the process.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, get_args

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import InputCause
from insurance_fund.fund.bookkeeper import Written
from insurance_fund.metrics import FundNow, Histogram
from insurance_fund.streams.processor import Processor

TRANSACTION_BOUNDS_MS: Final = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 15_000)
INPUT_BOUNDS_MS: Final = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000, 600_000)
# Reasons are words of the fund's own; should that ever fail, the store of metrics is not filled.
REASONS_MAX: Final = 200
OTHER: Final = "other"

_log = logging.getLogger(__name__)

# What is counted: by which field, under which metric, and which of its values are there from the
# beginning, so that the first one of its kind is seen as an increase.
_Counted = tuple[str | None, str, tuple[str, ...]]
COUNTED: Final[dict[type[fx.Effect], _Counted]] = {
    fx.AdlTriggered: ("reason", "adl_triggers", get_args(fx.AdlReason)),
    fx.LiquidationClosed: ("outcome", "liquidations_closed", get_args(fx.Outcome)),
    fx.FillsMissing: (None, "fills_missing", ("",)),
    fx.Rejected: ("reason", "rejected_records", ()),
    fx.ParkedExpired: ("reason", "parked_expired", ("parked_expired", "parked_full")),
    fx.DuplicateIgnored: (None, "duplicates", ("",)),
}
HELPS: Final = {
    "adl_triggers": "ADL triggers that were sent: each first one, and each that asks for more.",
    "liquidations_closed": "Liquidations that ended, by how.",
    "fills_missing": "Orders reported as filled whose fills have not come for too long.",
    "rejected_records": "Records that were refused, by reason; their bytes are in dead-letters.",
    "parked_expired": "Records given up that came before what they are about, by reason.",
    "duplicates": "Records that said again what was known.",
}


class ShardMetrics:
    """What is known of one shard: where it is in its start, then what it has done."""

    def __init__(self, processor: Processor, wall_ms: Callable[[], int]) -> None:
        self.processor = processor
        self.ledger = processor.shard.name
        self.ready = False
        # How far the ledger was read (offset, end) while it recovers.
        self.recovering: tuple[int, int] | None = None
        self.transactions = Histogram(TRANSACTION_BOUNDS_MS)
        self.inputs = Histogram(INPUT_BOUNDS_MS)
        self.counts: Counter[tuple[type[fx.Effect], str]] = Counter(
            {(kind, value): 0 for kind, (_, _, known) in COUNTED.items() for value in known}
        )
        self.funds: list[FundNow] = []
        self.open_liquidations = self.parked = 0
        self.sequence = self.read_sequence = -1
        self._wall_ms = wall_ms
        self._began_s = 0.0
        self._broken = False

    def observe(self) -> None:
        """Count what the shard commits from now on."""
        self.processor.observer = self

    def recovered(self) -> None:
        """Take note of what the ledger has come to, with nothing on its way."""
        self.ready = True
        self.read_sequence = self.processor.state.sequence - self.processor.entries_written - 1
        self._note()

    def moved(self, offset: int, end: int) -> None:
        """Take note of how far the ledger was read."""
        self.recovering = (offset, end)

    def missing(self) -> str | None:
        """Return what is missing before this shard may commit, None where nothing is."""
        if self.ready:
            return None
        if self.recovering is None:
            return f"ledger {self.ledger}: not taken yet"
        offset, end = self.recovering
        return f"ledger {self.ledger}: read up to offset {offset} of {end}"

    def committing(self) -> None:
        """Learn that a transaction begins."""
        self._began_s = time.perf_counter()

    def committed(self, written: Sequence[Written]) -> None:
        """Count what was committed; nothing that goes wrong here ends the service."""
        try:
            self._count(written)
        except Exception:  # noqa: BLE001 - that is the point
            if not self._broken:
                self._broken = True
                _log.exception("ledger %s: its metrics are wrong from here on", self.ledger)

    def _count(self, written: Sequence[Written]) -> None:
        self.transactions.observe([(time.perf_counter() - self._began_s) * 1000])
        counts, counted = self.counts, COUNTED
        for one in written:
            for effect in one.entry.effects:
                kind = type(effect)
                if kind in counted:
                    by = counted[kind][0]
                    counts[kind, "" if by is None else getattr(effect, by)] += 1
        if not self.ready:
            return
        if self.live:
            now_ms = self._wall_ms()
            causes = [one.entry.cause for one in written]
            taken_ms = [one.timestamp_ms for one in causes if type(one) is InputCause]
            # The clock of who sent a record may be ahead of ours.
            self.inputs.observe([now_ms - at_ms if at_ms < now_ms else 0 for at_ms in taken_ms])
        self._note()

    @property
    def live(self) -> bool:
        """Tell whether a shard that is ready runs by the wall clock."""
        return self.processor.mode == "wall"

    def _note(self) -> None:
        state = self.processor.state
        self.funds = [
            FundNow(self.ledger, currency, f.available, f.reserved, f.shortfall, f.deltas)
            for currency, f in state.funds.items()
            # Those of others are here as well, and empty.
            if state.routing.get(currency) == self.ledger
        ]
        self.open_liquidations, self.parked = len(state.liquidations), len(state.parked)
        self.sequence = state.sequence - 1

    def open_triggers(self) -> int:
        """Return of how many liquidations ADL is still to take something."""
        liquidations = self.processor.state.liquidations.values()
        return sum(bool(one.trigger_target) for one in liquidations)

    def total(self, kind: type[fx.Effect]) -> int:
        """Return how often something happened in all."""
        return sum(count for (of, _), count in self.counts.items() if of is kind)

    def counted(self, kind: type[fx.Effect]) -> list[tuple[str, int]]:
        """Return how often something happened, by the value that it is counted by."""
        found = [(value, count) for (of, value), count in self.counts.items() if of is kind]
        more = sum(count for _, count in found[REASONS_MAX:])
        return found[:REASONS_MAX] + ([(OTHER, more)] if more else [])
