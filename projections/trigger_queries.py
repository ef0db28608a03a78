"""Queries about ADL triggers, with their evidence, revisions and executions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import select

from insurance_fund.projections import tables
from insurance_fund.projections.queries import (
    KEY,
    Reading,
    Values,
    key_of,
    of_liquidations,
    plain,
    query_newest,
)

STATES: Final = ("open", "executed", "cancelled")
# With the id: one entry may raise several, of liquidations that it takes over.
ORDER: Final = ("first_ms", "first_sequence", "ledger", "liquidation_id")
# Of one trigger; a liquidation in many small parts could have more than anyone reads at once.
EXECUTIONS_MAX: Final = 1_000


def query_triggers(
    reading: Reading, filters: Values, key: Sequence[Any] | None, limit: int
) -> list[Values]:
    """Return ADL triggers, the newest first; `key` is the one behind which to go on.

    It is what a row has in the columns of `ORDER`.
    """
    rows = query_newest(reading, tables.adl_triggers, filters, ORDER, key, limit)
    return _with_parts(reading, rows)


def query_trigger(reading: Reading, trigger_id: str) -> list[Values]:
    """Return the ADL trigger of an id, in each ledger that has one the newest."""
    table = tables.adl_triggers
    mine = (table.c.ledger.in_(list(reading.positions)), table.c.trigger_id == trigger_id)
    rows = reading.rows(select(*plain(table)).where(*mine).order_by(table.c.first_sequence))
    return _with_parts(reading, list({row["ledger"]: row for row in rows}.values()))


def query_triggers_of(reading: Reading, liquidations: Sequence[tuple[Any, ...]]) -> list[Values]:
    """Return the ADL triggers of liquidations, by their keys."""
    table = tables.adl_triggers
    query = select(*plain(table)).where(of_liquidations(table, liquidations))
    return _with_parts(reading, reading.rows(query))


def _with_parts(reading: Reading, triggers: list[Values]) -> list[Values]:
    """Give each trigger its evidence as values, its revisions and its executions."""
    if not triggers:
        return triggers
    keys = [key_of(row) for row in triggers]
    revisions: dict[tuple[Any, ...], list[Values]] = {key: [] for key in keys}
    executions: dict[tuple[Any, ...], list[Values]] = {key: [] for key in keys}
    for table, last, found in (
        (tables.adl_revisions, "revision", revisions),
        (tables.adl_executions, "sequence", executions),
    ):
        query = select(*plain(table)).where(of_liquidations(table, keys))
        order = (*(table.c[name] for name in KEY), table.c[last])
        for row in reading.rows(query.order_by(*order).limit(EXECUTIONS_MAX * len(keys))):
            found[key_of(row)].append(_part(row))
    for row, key in zip(triggers, keys, strict=True):
        row["evidence"] = orjson.loads(row["evidence"])
        row["execution_count"] = row["executions"]
        row["revisions"], row["executions"] = revisions[key], executions[key]
    return triggers


def _part(row: Values) -> Values:
    part = {name: value for name, value in row.items() if name not in KEY}
    if "evidence" in part:
        part["evidence"] = orjson.loads(part["evidence"])
    return part
