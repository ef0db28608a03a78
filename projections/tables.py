"""Tables of the read models: what each is of, described once for every database.

Amounts and quantities are exact decimals kept as text, times are milliseconds. Every table begins
with the ledger, so that one database serves all shards. A liquidation is named by its id and the
sequence of its takeover: an id may come again once the fund has forgotten it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, String, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from insurance_fund.events.amounts import ZERO, amount_text, number

# Bumped by any change in these tables or in what is written to them: older ones are rebuilt.
SCHEMA: Final = 1


class Amount(TypeDecorator[Decimal]):
    """An exact decimal, kept as the text that the ledger would have for it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Write an amount."""
        return None if value is None else amount_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """Read an amount."""
        return None if value is None else number(value)


metadata = MetaData()


def _key(name: str, kind: Any = String) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _ledger() -> Column[Any]:
    return _key("ledger")


def _amounts(*names: str) -> list[Column[Any]]:
    return [Column(name, Amount, nullable=False, default=ZERO) for name in names]


def _counts(*names: str) -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False, default=0) for name in names]


def _texts(*names: str) -> list[Column[Any]]:
    return [Column(name, Text, nullable=False) for name in names]


def _maybe(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind, nullable=True) for name in names]


def _liquidation() -> list[Column[Any]]:
    return [_ledger(), _key("liquidation_id"), _key("takeover_sequence", BigInteger)]


# Of which schema the read models are, whether they are whole ("ready") or being built, and a name
# for that building.
about = Table("about", metadata, _key("name"), *_texts("value"))

# How far something has come: `name` is "read_models" or a webhook's. The entry at `sequence` has
# the SHA-256 `sha256`; `next_offset` is where the log goes on behind it.
positions = Table(
    "positions",
    metadata,
    _key("name"),
    _ledger(),
    *_counts("sequence", "next_offset", "now_ms"),
    *_texts("sha256"),
)

# Ledgers: their settings, and how many records are parked.
ledgers = Table(
    "ledgers",
    metadata,
    _ledger(),
    *_texts("clock", "policy", "software"),
    *_counts("rules", "parked"),
)

# Counters of a ledger: `kind` is rejected, parked_expired, duplicate, adl_trigger or flag.
counters = Table("counters", metadata, _ledger(), _key("kind"), _key("reason"), *_counts("records"))

_BALANCES: Final = ("available", "reserved", "shortfall")
# `draws` and `shortfall` are at or below zero. What was granted and used is as in `status`.
# Notional was closed only thanks to compensation where its fill cost the fund something.
_SUMS: Final = ("gains", "draws", "granted", "used")
_NOTIONALS: Final = ("notional", "compensated_notional", "deleveraged_notional")
_ENDED: Final = ("better_than_bankruptcy", "compensated", "deleveraged")

# The fund of each margin currency as it is. `shortfall_payments` are what the treasury paid of it.
funds = Table(
    "funds",
    metadata,
    _ledger(),
    _key("margin_currency"),
    *_amounts(*_BALANCES, "deposits", "withdrawals", "shortfall_payments", *_SUMS, *_NOTIONALS),
    *_counts("open_liquidations", *_ENDED, "sequence", "now_ms"),
)

# What an entry may move, of which the past is kept.
MOVED: Final = (*_BALANCES, "deposits", "withdrawals", "gains", "draws", "used")

# The fund after each entry that moved its money.
fund_history = Table(
    "fund_history",
    metadata,
    _ledger(),
    _key("margin_currency"),
    _key("sequence", BigInteger),
    *_counts("now_ms"),
    *_amounts(*MOVED),
    Index("fund_history_by_time", "ledger", "margin_currency", "now_ms", "sequence"),
)

# The same by the minute, at its last entry, and the lowest and highest total in it. `peak` and
# `level` are the highest and the last T + A, of which the rolling window takes its maximum.
fund_minutes = Table(
    "fund_minutes",
    metadata,
    _ledger(),
    _key("margin_currency"),
    _key("minute", BigInteger),
    *_counts("sequence"),
    *_amounts(*MOVED, "lowest", "highest", "peak", "level"),
)

# Instruments: terms, what they brought and cost the fund, and how their orders fared. `delta` is X
# of docs/rules.md section 4.
instruments = Table(
    "instruments",
    metadata,
    _ledger(),
    _key("instrument_id"),
    *_texts("margin_currency", "contract_type"),
    *_amounts("contract_size", "tick_size", "quantity_step", "closing_fee_rate"),
    *_amounts("delta", "reserved", *_SUMS, *_NOTIONALS),
    *_counts("liquidations", "open_liquidations", *_ENDED),
    *_counts("orders", "orders_ended", "orders_filled", "adl_triggers"),
)

# X of an instrument by the minute: its highest and its last in it, and what is reserved at its last
# entry. There is one of each minute in which either changed.
instrument_minutes = Table(
    "instrument_minutes",
    metadata,
    _ledger(),
    _key("instrument_id"),
    _key("minute", BigInteger),
    *_amounts("peak", "level", "reserved"),
)

# Liquidations, open and closed. `filled` is what fills closed, `closed` that and ADL; `awaited` is
# reported as filled and no fill has shown it, `missing_fills` that this has lasted too long. Of the
# last order: its price and end, and which cap bound what was granted.
liquidations = Table(
    "liquidations",
    metadata,
    *_liquidation(),
    *_texts("instrument_id", "margin_currency", "account_id", "position_side", "status"),
    *_maybe(Text, "outcome", "bankruptcy_price", "binding_cap", "order_id", "order_status"),
    *_amounts("quantity", "entry_price", "margin"),
    *_maybe(Amount, "mark_price", "order_price", "order_quantity"),
    *_amounts("filled", "closed", "deleveraged", "residual", "awaited", "reserved"),
    *_amounts("pnl", "fees", "delta", "shortfall", *_SUMS, *_NOTIONALS),
    *_counts("orders", "scale", "taken_over_ms", "sequence", "now_ms"),
    *_maybe(BigInteger, "expires_at_ms", "closed_ms"),
    Column("missing_fills", Boolean, nullable=False, default=False),
    Index("liquidations_by_status", "ledger", "status", "takeover_sequence"),
)

# Orders. `ended_sequence` is that of the entry at which it first ended, `filled_sequence` of the
# one from which on it has ended with all of it filled.
orders = Table(
    "orders",
    metadata,
    *_liquidation(),
    _key("order_id"),
    *_texts("instrument_id", "pricing", "status"),
    *_maybe(Text, "reason", "binding_cap", "caps"),
    *_amounts("price", "quantity", "seen", "reserved", "granted"),
    *_maybe(Amount, "reported"),
    *_counts("attempt", "sequence", "now_ms", "expires_at_ms"),
    *_maybe(BigInteger, "ended_sequence", "filled_sequence"),
    Column("missing_fills", Boolean, nullable=False, default=False),
)

# The newest revision of each ADL trigger. `asked` is what it still asks for; `unfilled` what the
# ADL engine last said nobody was found for.
adl_triggers = Table(
    "adl_triggers",
    metadata,
    *_liquidation(),
    *_texts("trigger_id", "instrument_id", "margin_currency", "account_id", "position_side"),
    *_texts("order_side", "price_basis", "reason", "evidence", "state"),
    *_maybe(Text, "unfilled_reason"),
    *_amounts("quantity", "price", "executed", "asked", "executed_notional", "delta", "unfilled"),
    *_counts("revision", "executions", "first_sequence", "first_ms", "sequence", "now_ms"),
    *_maybe(BigInteger, "unfilled_ms"),
    Index("adl_triggers_by_state", "ledger", "state", "first_sequence"),
)

adl_revisions = Table(
    "adl_revisions",
    metadata,
    *_liquidation(),
    _key("revision", BigInteger),
    *_texts("type", "reason", "evidence"),
    *_amounts("quantity", "price"),
    *_counts("sequence", "now_ms"),
)

adl_executions = Table(
    "adl_executions",
    metadata,
    *_liquidation(),
    _key("execution_id"),
    *_counts("trigger_revision", "sequence", "now_ms"),
    *_amounts("quantity", "price", "notional", "fee", "delta"),
)

# Which entries are about a liquidation, also before and after its life, and where they stand in
# the log.
liquidation_entries = Table(
    "liquidation_entries",
    metadata,
    _ledger(),
    _key("liquidation_id"),
    _key("sequence", BigInteger),
    *_counts("log_offset"),
)

# Where every so many entries stand in the log, to find any of them from there.
ledger_index = Table(
    "ledger_index",
    metadata,
    _ledger(),
    _key("sequence", BigInteger),
    *_counts("log_offset", "now_ms"),
    Index("ledger_index_by_time", "ledger", "now_ms"),
)

READ_MODELS: Final = tuple(
    table for table in metadata.sorted_tables if table not in (about, positions)
)

Row = dict[str, Any]


def row_of(table: Table, **known: Any) -> Row:
    """Return a new row: what is known of it, and in other columns their default."""
    return {**_BLANKS[table.name], **known}


_BLANKS: Final = {
    table.name: {
        column.name: None if column.default is None else column.default.arg  # type: ignore[attr-defined]
        for column in table.columns
    }
    for table in metadata.sorted_tables
}
