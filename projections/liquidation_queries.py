"""Queries about liquidations: their lists, their orders, and where their entries stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import select

from insurance_fund.projections import tables
from insurance_fund.projections.queries import (
    Reading,
    Values,
    key_of,
    of_liquidations,
    plain,
    query_newest,
)
from insurance_fund.projections.trigger_queries import query_triggers_of

STATUSES: Final = ("open", "closed")
# With the id: one entry takes over all that waited for the instrument that it defines.
ORDER: Final = ("taken_over_ms", "takeover_sequence", "ledger", "liquidation_id")


def query_liquidations(
    reading: Reading, filters: Values, key: Sequence[Any] | None, limit: int
) -> list[Values]:
    """Return liquidations, the newest takeover first; `key` is the one behind which to go on.

    It is what a row has in the columns of `ORDER`.
    """
    return query_newest(reading, tables.liquidations, filters, ORDER, key, limit)


def query_liquidation(reading: Reading, liquidation_id: str, ledger: str | None) -> list[Values]:
    """Return the liquidations of an id, the newest first, of all ledgers or of one."""
    table = tables.liquidations
    query = select(*plain(table)).where(
        table.c.ledger.in_(list(reading.positions)), table.c.liquidation_id == liquidation_id
    )
    if ledger is not None:
        query = query.where(table.c.ledger == ledger)
    newest = (table.c.taken_over_ms.desc(), table.c.takeover_sequence.desc(), table.c.ledger)
    return reading.rows(query.order_by(*newest))


def query_orders_and_trigger(
    reading: Reading, liquidation: Values
) -> tuple[list[Values], Values | None]:
    """Return the orders of a liquidation, as they were issued, and its ADL trigger."""
    key, table = key_of(liquidation), tables.orders
    mine = of_liquidations(table, [key])
    orders = reading.rows(
        select(*plain(table)).where(mine).order_by(table.c.attempt, table.c.order_id)
    )
    for order in orders:
        order["caps"] = None if order["caps"] is None else orjson.loads(order["caps"])
    triggers = query_triggers_of(reading, [key])
    return orders, triggers[0] if triggers else None


def query_entries(
    reading: Reading, liquidation: tuple[str, str], after: int, limit: int
) -> list[tuple[int, int]]:
    """Return (sequence, log offset) of entries about a liquidation, (ledger, id), in order.

    They begin behind the sequence `after`.
    """
    table, (ledger, liquidation_id) = tables.liquidation_entries, liquidation
    query = (
        select(table.c.sequence, table.c.log_offset)
        .where(
            table.c.ledger == ledger,
            table.c.liquidation_id == liquidation_id,
            table.c.sequence > after,
        )
        .order_by(table.c.sequence)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in reading.connection.execute(query)]
