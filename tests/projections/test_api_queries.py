"""Funds and instruments as they are queried: what the fund itself reckons, now and at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from insurance_fund.events.amounts import ZERO, amount_text, exact, floor_scale
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.reservations import instrument_headroom
from insurance_fund.fund.state import Instrument, State
from insurance_fund.fund.windows import BUCKET_MS
from insurance_fund.projections import fund_queries
from insurance_fund.projections.database import Database
from insurance_fund.projections.fund_queries import query_funds, query_history, query_instruments
from insurance_fund.projections.projector import Projector
from insurance_fund.projections.queries import begin_reading
from tests.projections.ledgers import LEDGER, fold, project, random_ledger, records_of
from tests.property.scale import EXAMPLES
from tests.unit.life import Life


@exact
def shares_of(state: State, latest: State, now_ms: int) -> dict[str, dict[str, Any]]:
    """Return what the rolling window allows each instrument that has a fund, as of `now_ms`.

    Instruments and policy are those of the latest state.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, known in latest.instruments.items():
        currency = known.terms.margin_currency
        instrument = state.instruments.get(name, Instrument(known.terms))
        fund, rules = state.funds[currency], latest.policy.for_instrument(name)
        window_ms, scale = rules.instrument_window_ms, latest.policy.currencies[currency].scale
        highest = fund.totals.highest(now_ms, window_ms) - fund.withdrawn
        fallen = instrument.deltas.highest(now_ms, window_ms) - instrument.delta
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
    told = follow(draining_life().lines, opened("views.db"))
    assert len(set(told)) > 10


def draining_life() -> Life:
    """Return a life of 15 minutes in which an instrument gains less than it costs."""
    default = {"instrument_window_ms": 120_000, "attempts": [["0.01", 3_600_000]]}
    # The fund keeps what the longest window needs.
    other = {"instrument_window_ms": 600_000}
    life = Life({"default": default, "instruments": {"OTHER": other}})
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
    return life


def test_each_minute_tells_what_the_fund_itself_reckoned_at_its_end(
    opened: Callable[[str], Database],
) -> None:
    used: list[str] = []
    for seed in range(40 * EXAMPLES):
        used += look_back(random_ledger(seed), opened(f"{seed}.db"))
    assert len(set(used)) > 50, "ledgers in which no share is used test nothing"


def test_policy_that_holds_now_tells_the_shares_of_all_minutes(
    opened: Callable[[str], Database],
) -> None:
    life = draining_life()
    # From here on the two windows have different maxima.
    life.fill("1", price="40000", name="dear")
    for number in range(4):
        life.wait(60_000)
        life.transfer("fund_deposit", "1", f"late{number}")
    # Windows that are no whole minutes, and of which the instrument's is not the default one.
    overlay = {"BTCUSDT": {"instrument_window_ms": 90_000, "instrument_share": "0.123456789"}}
    life.set_policy({"default": {"instrument_window_ms": 590_000}, "instruments": overlay})
    used = look_back(life.lines, opened("views.db"))
    assert len(set(used)) > 10


def test_page_of_minutes_ends_where_its_shares_are_many(
    opened: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened("views.db")
    project(database, records_of(draining_life().lines))
    whole = minutes_in(database, "USDT", 100)
    assert len(whole) > 5
    # One instrument: as many points as shares; never none at all.
    for shares_max, points in ((5, 5), (0, 1)):
        monkeypatch.setattr(fund_queries, "SHARES_MAX", shares_max)
        with database.connect() as connection:
            reading = begin_reading(connection, [LEDGER])
            page = query_history(reading, (LEDGER, "USDT"), "minute", (0, 10**15), None, 100)
        assert page == (whole[:points], True)
        assert minutes_in(database, "USDT", 100) == whole


def look_back(lines: Sequence[bytes], database: Database) -> list[str]:
    """Compare all minutes of a ledger, also page by page; return what was used of shares."""
    project(database, records_of(lines))
    latest, told = fold(lines)[0], list[str]()
    expected = ends_of_minutes(lines, latest)
    moved = [name for name, fund in latest.funds.items() if fund.transfers or fund.deltas]
    for currency in moved:
        points = minutes_in(database, currency, 5_000)
        assert points
        assert minutes_in(database, currency, 2) == points
        for point in points:
            known = expected[currency, point["now_ms"] // BUCKET_MS]
            assert {name: point[name] for name in known} == known
            told += [one["used"] for one in point["instruments"]]
    return told


def minutes_in(database: Database, currency: str, limit: int) -> list[dict[str, Any]]:
    """Return a fund by the minute, out of pages of so many points."""
    found: list[dict[str, Any]] = []
    key, more = None, True
    with database.connect() as connection:
        reading = begin_reading(connection, [LEDGER])
        while more:
            page, more = query_history(
                reading, (LEDGER, currency), "minute", (0, 10**15), key, limit
            )
            found += page
            key = (page[-1]["now_ms"], page[-1]["sequence"]) if page else None
    return found


@exact
def ends_of_minutes(lines: Sequence[bytes], latest: State) -> dict[tuple[str, int], dict[str, Any]]:
    """Return what each fund came to at the end of each minute; the last one ends now."""
    state, found = State(), dict[tuple[str, int], dict[str, Any]]()
    times_ms = [decode_entry(line).now_ms for line in lines]
    for line, now_ms, next_ms in zip(lines, times_ms, [*times_ms[1:], None], strict=True):
        apply_entry(state, decode_entry(line), sha256_hex(line))
        minute = now_ms // BUCKET_MS
        if next_ms is not None and next_ms // BUCKET_MS == minute:
            continue
        end_ms = now_ms if next_ms is None else minute * BUCKET_MS + BUCKET_MS - 1
        shares = shares_of(state, latest, end_ms)
        assert_headroom_agrees(shares, state, latest, end_ms)
        for currency, fund in state.funds.items():
            window_ms = latest.policy.default.instrument_window_ms
            highest = fund.totals.highest(end_ms, window_ms) - fund.withdrawn
            found[currency, minute] = {
                "available": amount_text(fund.available),
                "reserved": amount_text(fund.reserved),
                "withdrawals": amount_text(fund.withdrawn),
                "window_maximum": amount_text(highest),
                "instruments": [
                    {"instrument_id": name, **{k: shares[name][k] for k in ("limit", "used")}}
                    for name, known in sorted(latest.instruments.items())
                    if known.terms.margin_currency == currency and shares[name]["used"] != "0"
                ],
            }
    return found


def assert_headroom_agrees(
    shares: dict[str, dict[str, Any]], state: State, latest: State, now_ms: int
) -> None:
    """Hold what is left of a share to what the fund would grant of it."""
    for liquidation in state.liquidations.values():
        name, currency = liquidation.terms.instrument_id, liquidation.margin_currency
        if liquidation.policy == latest.policy.kept(name, currency):
            left = Decimal(shares[name]["limit"]) - Decimal(shares[name]["used"])
            headroom = instrument_headroom(state, liquidation, now_ms)
            assert left == floor_scale(headroom, liquidation.policy.scale)


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
        expected = shares_of(state, state, state.now_ms)
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
