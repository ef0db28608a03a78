"""Rows of the read models against the fund's own state, and rebuilt against incremental."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events.amounts import ZERO, exact
from insurance_fund.fund.state import Liquidation, State
from insurance_fund.fund.windows import Bucket, Window
from insurance_fund.projections import tables
from insurance_fund.projections.database import Database, open_database
from insurance_fund.projections.outcomes import Outcomes
from insurance_fund.projections.projector import Projector
from tests.projections.ledgers import (
    LEDGER,
    Rows,
    fold,
    in_batches,
    project,
    random_ledger,
    records_of,
    rows_of,
)
from tests.property.choices import Chooser, Seeded
from tests.property.scale import EXAMPLES
from tests.unit.life import Life

SEEDS_A_CHUNK = 50


def incrementally(path: Path, lines: list[bytes], draw: Chooser) -> Rows:
    """Apply a ledger in batches of all sizes; between some of them the worker starts anew."""
    database = open_database(f"sqlite:{path}")
    records = records_of(lines, draw)
    projector = Projector(database, LEDGER)
    for batch in in_batches(records, draw):
        if not draw.number(0, 4):
            projector = Projector(database, LEDGER)
        projector.apply(batch)
    rows = rows_of(database)
    database.close()
    return rows


def at_once(path: Path, lines: list[bytes], draw: Chooser) -> Rows:
    database = open_database(f"sqlite:{path}")
    project(database, records_of(lines, draw))
    rows = rows_of(database)
    database.close()
    return rows


@pytest.mark.parametrize("chunk", range(6 * EXAMPLES))
def test_incremental_rows_equal_a_rebuild_and_the_state_of_the_fund(
    chunk: int, tmp_path: Path
) -> None:
    for seed in range(chunk * SEEDS_A_CHUNK, (chunk + 1) * SEEDS_A_CHUNK):
        lines = random_ledger(seed)
        rows = at_once(tmp_path / f"{seed}.db", lines, Seeded(seed))
        assert incrementally(tmp_path / f"{seed}-i.db", lines, Seeded(seed)) == rows, seed
        assert_agrees(rows, *fold(lines))


@exact
def assert_agrees(rows: Rows, state: State, outcomes: Outcomes) -> None:
    assert_funds_agree(rows, state, outcomes)
    assert_instruments_agree(rows, state)
    assert_liquidations_agree(rows, state, outcomes)
    (about,) = rows["ledgers"].values()
    assert about["parked"] == len(state.parked)
    assert (about["rules"], about["software"]) == (state.rules, state.software)


def assert_funds_agree(rows: Rows, state: State, outcomes: Outcomes) -> None:
    for (_, currency), row in rows["funds"].items():
        fund, outcome = state.funds[currency], outcomes.funds.get(currency)
        assert row["available"] == fund.available
        assert row["reserved"] == fund.reserved
        assert row["shortfall"] == fund.shortfall
        assert row["withdrawals"] == fund.withdrawn
        transfers = row["deposits"] - row["withdrawals"] + row["shortfall_payments"]
        assert transfers == fund.transfers
        assert row["gains"] + row["draws"] == fund.deltas
        assert outcome is not None
        for name in ("gains", "draws", "granted", "used"):
            assert row[name] == getattr(outcome, name), (currency, name)
        assert row["deleveraged_notional"] == outcome.deleveraged.notional
        for ended, group in outcome.ended.items():
            assert row[ended] == group.liquidations
        minutes = [r for (_, c, _), r in sorted(rows["fund_minutes"].items()) if c == currency]
        assert_window_agrees(minutes, fund.totals, state)
        assert {n: minutes[-1][n] for n in tables.MOVED} == {n: row[n] for n in tables.MOVED}
        history = [r for (_, c, _), r in sorted(rows["fund_history"].items()) if c == currency]
        assert [history[-1][b] for b in ("available", "reserved", "shortfall")] == [
            fund.available,
            fund.reserved,
            fund.shortfall,
        ]
        totals = [r["available"] + r["reserved"] for r in history]
        assert max(totals) <= max(r["highest"] for r in minutes)
        assert min(totals) >= min(r["lowest"] for r in minutes)
    moved = {c for c, fund in state.funds.items() if fund.transfers or fund.deltas or fund.held}
    assert moved <= {currency for _, currency in rows["funds"]}


def assert_window_agrees(minutes: list[dict[str, Any]], window: Window, state: State) -> None:
    """Hold the window that the rows tell to that of the fund, the shortest and the longest."""
    told = Window([Bucket(m["minute"], m["peak"], m["level"]) for m in minutes])
    for window_ms in (60_000, state.window_ms_max):
        assert told.highest(state.now_ms, window_ms) == window.highest(state.now_ms, window_ms)


def assert_instruments_agree(rows: Rows, state: State) -> None:
    assert {name for _, name in rows["instruments"]} == set(state.instruments)
    for (_, name), row in rows["instruments"].items():
        instrument = state.instruments[name]
        assert row["delta"] == instrument.delta == row["gains"] + row["draws"]
        assert row["reserved"] == instrument.reserved
        assert row["closing_fee_rate"] == Decimal(instrument.terms.closing_fee_rate)
        orders = [r for r in rows["orders"].values() if r["instrument_id"] == name]
        assert row["orders"] == len(orders)
        assert row["orders_ended"] == sum(r["status"] != "open" for r in orders)
        filled = [r for r in orders if r["status"] != "open" and r["seen"] == r["quantity"]]
        assert len(filled) <= row["orders_filled"] <= row["orders_ended"]
        minutes = [r for (_, n, _), r in sorted(rows["instrument_minutes"].items()) if n == name]
        assert_window_agrees(minutes, instrument.deltas, state)
        last = minutes[-1] if minutes else {"level": ZERO, "reserved": ZERO}
        assert (last["level"], last["reserved"]) == (instrument.delta, instrument.reserved)


def assert_liquidations_agree(rows: Rows, state: State, outcomes: Outcomes) -> None:
    for key, row in rows["liquidations"].items():
        if row["status"] == "closed":
            assert_nothing_is_left(rows, key, row)
    open_rows = [r for r in rows["liquidations"].values() if r["status"] == "open"]
    assert {r["liquidation_id"] for r in open_rows} == set(state.liquidations)
    for row in open_rows:
        liquidation = state.liquidations[row["liquidation_id"]]
        outcome = outcomes.open[row["liquidation_id"]]
        assert row["closed"] == liquidation.closed
        assert row["filled"] == liquidation.closed - liquidation.deleveraged
        assert row["residual"] == liquidation.residual
        assert row["reserved"] == liquidation.reserved
        assert row["delta"] == liquidation.booked
        assert row["shortfall"] == -liquidation.shortfall
        assert row["draws"] == -liquidation.draws
        assert row["used"] == outcome.used
        assert row["awaited"] == sum((o.awaited for o in liquidation.orders.values()), ZERO)
        assert_orders_agree(rows, row, liquidation)
        assert_trigger_agrees(rows, row, liquidation)


def assert_nothing_is_left(rows: Rows, key: tuple[Any, ...], row: dict[str, Any]) -> None:
    """Hold a closed liquidation to it: nothing of it is open, held, or still asked for."""
    assert row["closed"] == row["quantity"]
    assert not any(row[name] for name in ("residual", "awaited", "reserved", "missing_fills"))
    assert row["order_status"] != "open"
    for order in (r for k, r in rows["orders"].items() if k[:3] == key):
        assert order["status"] != "open"
        assert order["ended_sequence"] is not None
        assert (order["filled_sequence"] is None) == (order["seen"] < order["quantity"])
        assert not order["reserved"]
    trigger = rows["adl_triggers"].get(key)
    assert trigger is None or (trigger["state"] != "open" and not trigger["asked"])


def assert_orders_agree(rows: Rows, row: dict[str, Any], liquidation: Liquidation) -> None:
    key = (LEDGER, row["liquidation_id"], row["takeover_sequence"])
    orders = {k[-1]: r for k, r in rows["orders"].items() if k[:3] == key}
    assert set(orders) == set(liquidation.orders)
    for order_id, order in orders.items():
        kept = liquidation.orders[order_id]
        assert (order["seen"], order["reported"]) == (kept.seen, kept.reported)
        assert (order["status"], order["reserved"]) == (kept.status, kept.reserved)
        assert (order["price"], order["attempt"]) == (kept.price, kept.attempt)
        assert order["binding_cap"] == kept.binding_cap
    last = liquidation.last_order
    if last is not None:
        assert (row["order_id"], row["order_status"]) == (last.order_id, last.status)
        assert row["order_price"] == last.price


def assert_trigger_agrees(rows: Rows, row: dict[str, Any], liquidation: Liquidation) -> None:
    found = rows["adl_triggers"].get((LEDGER, row["liquidation_id"], row["takeover_sequence"]))
    trigger = liquidation.trigger
    assert (found is None) == (trigger is None)
    if found is not None and trigger is not None:
        assert (found["revision"], found["quantity"]) == (trigger.revision, trigger.quantity)
        assert found["asked"] == liquidation.trigger_target
        assert found["executed"] == liquidation.deleveraged
        assert (found["state"] == "open") == bool(liquidation.trigger_target)


def test_fills_are_missing_until_those_that_were_missed_have_come(
    opened: Callable[..., Database],
) -> None:
    life, database = Life({"default": {"order_pricing": "exchange"}}), opened()

    def missing() -> tuple[bool, dict[str, bool]]:
        project(database, records_of(life.lines))
        rows = rows_of(database)
        (liquidation,) = rows["liquidations"].values()
        return liquidation["missing_fills"], {
            key[-1]: row["missing_fills"] for key, row in rows["orders"].items()
        }

    life.take_over()
    life.submit("first", "45000", "4")
    life.submit("second", "45000", "4")
    life.report("first", "expired", "3", liquidation_id="liq-7", final=False)
    life.wait(60_000)
    assert missing() == (True, {"first": True, "second": False})
    # Reported just now: of this one nothing is missing yet.
    life.report("second", "expired", "2", liquidation_id="liq-7", final=False)
    assert missing() == (True, {"first": True, "second": False})
    life.fill("1", "45000", "f1", "first", liquidation_id="liq-7")
    assert missing() == (True, {"first": True, "second": False})
    life.fill("2", "45000", "f2", "first", liquidation_id="liq-7")
    assert missing() == (False, {"first": False, "second": False})


def test_applying_a_ledger_twice_equals_once(opened: Callable[..., Database]) -> None:
    lines, database = random_ledger(7), opened()
    records = records_of(lines)
    project(database, records)
    rows = rows_of(database)
    project(database, records)
    assert rows_of(database) == rows
