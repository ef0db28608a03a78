"""Known: the rows that entries to come may still change, and what was changed of late.

These are what is open and what is current; what is closed is written once more and then let go.
A projection finds here whatever it has to know beside the entry, and reads no database.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Table

from insurance_fund.projections import tables
from insurance_fund.projections.tables import Row, row_of

Changes = dict[Table, dict[tuple[Any, ...], Row]]


class At(NamedTuple):
    """Where an entry stands: its sequence, its time, and its offset in the log."""

    sequence: int
    now_ms: int
    log_offset: int


class Known:
    """The open and current rows of one ledger; `changes` are those to be written, by their keys.

    A row is a plain mapping from the columns of its table. Minutes are the newest of each fund and
    instrument, orders those of the open liquidations.
    """

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self.about: Row | None = None
        self.funds: dict[str, Row] = {}
        self.fund_minutes: dict[str, Row] = {}
        self.instruments: dict[str, Row] = {}
        self.instrument_minutes: dict[str, Row] = {}
        self.liquidations: dict[str, Row] = {}
        self.orders: dict[str, dict[str, Row]] = {}
        self.triggers: dict[str, Row] = {}
        self.counters: dict[tuple[str, str], Row] = {}
        self.changes: Changes = {table: {} for table in tables.READ_MODELS}
        # What the entry in hand has to do with: noted effect by effect, settled at its end.
        self.moved: set[str] = set()
        self.told: set[str] = set()
        self.closed: list[str] = []

    def changed(self, table: Table, row: Row, *key: Any) -> None:
        """Note that a row, whose key behind the ledger is `key`, is to be written."""
        self.changes[table][key] = row

    def changed_of(self, table: Table, row: Row, *key: Any) -> None:
        """Note a changed row of a liquidation: `key` is what stands behind its takeover."""
        self.changes[table][row["liquidation_id"], row["takeover_sequence"], *key] = row

    def take_changes(self) -> Changes:
        """Return what was changed since the last call."""
        taken, self.changes = self.changes, {table: {} for table in tables.READ_MODELS}
        return taken

    def fund(self, margin_currency: str) -> Row:
        """Return the row of a fund, a new one for a currency that is seen for the first time."""
        row = self.funds.get(margin_currency)
        if row is None:
            row = row_of(tables.funds, ledger=self.ledger, margin_currency=margin_currency)
            self.funds[margin_currency] = row
        return row
