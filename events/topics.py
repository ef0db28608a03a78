"""Names of the topics, in the order in which a poll takes the inputs."""

from __future__ import annotations

from typing import Final

INSTRUMENTS: Final = "instruments"
FUND_TRANSFERS: Final = "fund-transfers"
LIQUIDATIONS: Final = "liquidations"
FILLS: Final = "fills"
INPUT_TOPICS: Final = (INSTRUMENTS, FUND_TRANSFERS, LIQUIDATIONS, FILLS)

LIQUIDATION_ORDERS: Final = "liquidation-orders"
ADL_TRIGGERS: Final = "adl-triggers"
DEAD_LETTERS: Final = "dead-letters"
OUTPUT_TOPICS: Final = (LIQUIDATION_ORDERS, ADL_TRIGGERS, DEAD_LETTERS)

FUND_LEDGER: Final = "fund-ledger"

# Of a compacted topic only the newest record of each key counts.
FUND_SNAPSHOTS: Final = "fund-snapshots"
COMPACTED_TOPICS: Final = frozenset({FUND_SNAPSHOTS})

# On a bus the fills topic carries all fills; one without these bytes is not about a liquidation.
FILLS_FILTER: Final = b'"liquidation_id"'
