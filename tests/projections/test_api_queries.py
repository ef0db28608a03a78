"""Funds and instruments as they are queried: what the fund itself reckons, at every entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from insurance_fund.events.amounts import ZERO, amount_text, exact, floor_scale
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.state import State
from insurance_fund.projections.database import Database
from insurance_fund.projections.fund_queries import query_funds, query_instruments
from insurance_fund.projections.projector import Projector
from insurance_fund.projections.queries import begin_reading
from tests.projections.ledgers import LEDGER, random_ledger, records_of
from tests.property.scale import EXAMPLES
from tests.unit.life import Life


@exact
def shares_of(state: State) -> dict[str, dict[str, object]]:
    """Return what the rolling window allows each instrument that has a fund."""
    found: dict[str, dict[str, object]] = {}
    for name, instrument in state.instruments.items():
        currency = instrument.terms.margin_currency
        fund, rules = state.funds[currency], state.policy.for_instrument(name)
        window_ms, scale = rules.instrument_window_ms, state.policy.currencies[currency].scale
        highest = fund.totals.highest(state.now_ms, window_ms) - fund.withdrawn
        fallen = instrument.deltas.highest(state.now_ms, window_ms) - instrument.delta
        limit, used = Decimal(rules.instrument_share) * highest, fallen + instrument.reserved
        found[name] = {
            "share": rules.instrument_share,
            "window_ms": window_ms,
            "window_maximum": amount_text(highest),
            "limit": amount_text(floor_scale(limit, scale)),
            "used": amount_text(used),
            "headroom": amount_text(max(ZERO, floor_scale(limit - used, scale))),
        }
    return found


def test_shares_are_what_the_fund_itself_reckons(opened: Callable[[str], Database]) -> None:
    told: list[str] = []
    for seed in range(12 * EXAMPLES):
        told += follow(random_ledger(seed), opened(f"{seed}.db"))
    assert len(set(told)) > 50, "ledgers in which no share is used test nothing"


def test_minutes_leave_the_window_as_the_fund_itself_has_it(
    opened: Callable[[str], Database],
) -> None:
    life = Life({"default": {"instrument_window_ms": 120_000, "attempts": [["0.01", 3_600_000]]}})
    life.take_over(quantity="40", margin="2000")
    for number in range(36):
        life.wait(25_000)
        if number % 3:
            # At a gain, and at a cost that is more than all gains since the one before.
            price = "45200" if number % 3 == 1 else "44600"
            life.fill("1", price=price, name=f"f{number}")
        else:
            kind = "fund_withdrawal" if number % 2 else "fund_deposit"
            life.transfer(kind, "10", f"t{number}")
    told = follow(life.lines, opened("views.db"))
    assert len(set(told)) > 10


def follow(lines: Sequence[bytes], database: Database) -> list[str]:
    """Compare at every entry of a ledger; return what was used of shares."""
    state, projector, told = State(), Projector(database, LEDGER), list[str]()
    for record in records_of(lines):
        assert record.value is not None
        apply_entry(state, decode_entry(record.value), sha256_hex(record.value))
        projector.apply([record])
        with database.connect() as connection:
            reading = begin_reading(connection, [LEDGER])
            funds, instruments = query_funds(reading), query_instruments(reading)
        expected = shares_of(state)
        for one in instruments:
            if one["window"] is not None:
                assert one["window"] == expected[one["instrument_id"]]
                told.append(one["window"]["used"])
        for fund in funds:
            known = state.funds[fund["margin_currency"]]
            assert fund["total"] == amount_text(known.total)
            assert fund["available"] == amount_text(known.available)
            for one in fund["instruments"]:
                assert one == {
                    "instrument_id": one["instrument_id"],
                    **expected[one["instrument_id"]],
                }
    return told
