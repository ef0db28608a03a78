"""What-if by hand: known fills and reports under another policy, and what comes of them.

The position of most cases: long 10 x 0.01 at 50000 with a margin of 500 and a fee rate of 0.0005.
Pb = (50000 - 500 / 0.1) / 0.9995 = 45022.51..; the limit of a concession of 1 % is 44572.3, that of
none 45022.6; ADL is at 45000, where the margin is gone.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.events.ledger import ClockCause, Entry, PolicyCause
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import parse_policy, policy_document
from insurance_fund.projections.differences import (
    FIGURES,
    Side,
    differing_liquidations,
    sums_by_currency,
)
from insurance_fund.streams.recorded import Recorded
from insurance_fund.streams.whatif import CAVEAT, WhatIf
from tests.unit.life import BTCUSDT, START_MS, XBTUSD, Life

NO_CONCESSION: dict[str, Any] = {"default": {"attempts": [["0", 30_000]]}}
TWO_PERCENT: dict[str, Any] = {"default": {"attempts": [["0.02", 30_000]]}}
TWO_ATTEMPTS: dict[str, Any] = {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}}
EXCHANGE: dict[str, Any] = {"default": {"order_pricing": "exchange"}}
IN_XBT = {"margin_currency": "XBT", "instrument_id": "XBTUSD"}


class Read:
    """A ledger after the first pass, and what it came to."""

    def __init__(self, lines: list[bytes]) -> None:
        self.side = Side()
        self.recorded = Recorded(self.side.apply)
        for line in lines:
            self.recorded.take(line)
        self.side.ask(self.recorded.state)


class Watched(WhatIf):
    """A what-if that keeps what it decided, and what that came to."""

    def __init__(self, read: Read, policy: dict[str, Any]) -> None:
        self.effects: list[tuple[int, fx.AnyEffect]] = []
        self.before, self.after = read.side, Side()
        super().__init__(read.recorded, parse_policy(policy), self._watch)

    def _watch(self, entry: Entry) -> None:
        self.effects += [(entry.now_ms, effect) for effect in entry.effects]
        self.after.apply(entry)

    def finish(self) -> None:
        super().finish()
        self.after.ask(self.state)

    def told(self, kind: type[fx.Effect]) -> list[Any]:
        """Return what was decided of one kind, in order."""
        return [effect for _, effect in self.effects if isinstance(effect, kind)]

    def at(self, kind: type[fx.Effect]) -> list[int]:
        """Return when it was decided, in milliseconds after the start."""
        return [at - START_MS for at, effect in self.effects if isinstance(effect, kind)]

    def orders(self) -> list[tuple[str, str, str]]:
        """Return id, quantity and price of each order."""
        return [(o.order_id, o.quantity, o.price) for o in self.told(fx.OrderIssued)]

    def fills(self) -> list[tuple[str, str]]:
        """Return fill and order of each fill that was booked."""
        return [(f.fill_id, f.order_id) for f in self.told(fx.FillBooked)]

    def differences(self) -> list[dict[str, Any]]:
        return differing_liquidations(self.before, self.after)

    def sums(self, currency: str = "USDT") -> dict[str, Any]:
        (row,) = [
            row
            for row in sums_by_currency(self.before, self.after)
            if row["margin_currency"] == currency
        ]
        return row


def ask(lines: list[bytes], policy: dict[str, Any]) -> Watched:
    """Ask what would have come of a ledger under another policy."""
    what_if = Watched(Read(lines), policy)
    for line in lines:
        what_if.take(line)
    what_if.finish()
    times = [now_ms for now_ms, _ in what_if.effects]
    assert times == sorted(times)
    return what_if


def assert_the_same(what_if: Watched) -> None:
    """Hold that a what-if came to what the ledger has come to."""
    assert what_if.differences() == []
    assert what_if.after.outcomes.funds == what_if.before.outcomes.funds
    assert what_if.notes == [CAVEAT]


def pair(recorded: str, what_if: str, difference: str) -> dict[str, str]:
    return {"recorded": recorded, "what_if": what_if, "difference": difference}


def partly_filled(**settings: Any) -> Life:
    """One per cent conceded: 4 filled for compensation, 3 for a gain, 3 deleveraged."""
    life = Life(**settings)
    life.take_over()
    life.fill("4", "44700", "f1", fee="0.894")
    life.fill("3", "45100", "f2")
    life.now_ms += 30_000
    life.report("liq-7:1", "expired", "7")
    life.adl("3", "45000")
    return life


def two_currencies(**settings: Any) -> Life:
    """A draw of 30 USDT after 100 and 900 were paid in, and one of XBT after two deposits."""
    life = Life(instruments=(BTCUSDT, XBTUSD), deposit=None, **settings)
    for currency, amounts in (("USDT", ("100", "900")), ("XBT", ("0.5", "1.5"))):
        for number, amount in enumerate(amounts):
            life.deposit(amount, currency, f"{currency}-{number}")
    life.take_over("a")
    life.fill("10", "44700", order="a:1", name="f1")
    life.take_over("b", quantity="10000", margin="0.005", **IN_XBT)
    life.fill("10000", "48000", order="b:1", name="f2", **IN_XBT)
    return life


class TestTheSamePolicy:
    def test_ledger_of_fills_compensation_and_adl_comes_out_the_same(self) -> None:
        assert_the_same(ask(partly_filled().lines, {}))

    def test_fill_beyond_its_limit_stays_booked(self) -> None:
        life = Life()
        life.take_over()
        life.fill("10", "44000")
        assert life.only(fx.FillBooked).flags == ("limit_violated",)
        assert_the_same(ask(life.lines, {}))

    def test_deadline_that_waited_for_a_backlog_waits_here_too(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 3_600_000
        life.fill("4", event_time_ms=START_MS + 1_000)
        life.fill("6", name="f2", event_time_ms=START_MS + 2_000)
        assert life.kinds()[-1] == "liquidation_closed"
        assert_the_same(ask(life.lines, {}))

    def test_deadline_that_was_taken_late_is_taken_there(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 3_600_000
        life.fill("4", event_time_ms=START_MS + 1_000)
        life.now_ms += 500
        life.wait(0)
        life.adl("6")
        what_if = ask(life.lines, {})
        assert_the_same(what_if)
        assert what_if.at(fx.AdlTriggered) == [3_600_500]

    def test_record_that_came_early_counts_where_the_ledger_took_it(self) -> None:
        life = Life(instruments=())
        life.fill("10", "44700")
        life.take_over()
        life.send("instruments", "instrument_defined", **BTCUSDT)
        assert life.kinds()[-1] == "liquidation_closed"
        assert_the_same(ask(life.lines, {}))

    def test_what_the_ledger_refused_ignored_or_could_not_read_changes_nothing(self) -> None:
        life = Life()
        life.take_over()
        life.raw("fills", b'{"liquidation_id": "broken')
        life.raw("fills", None)
        life.raw("liquidations", b"\xff{" * (2**19 + 1))
        life.fill("4")
        life.fill("4")
        life.fill("4", "1")
        life.fill("11", name="f2")
        life.transfer("fund_withdrawal", "5000", "w1")
        life.fill("1", order="liq-8:1")
        life.wait(3_600_000)
        assert_the_same(ask(life.lines, {}))

    def test_order_that_the_exchange_priced_keeps_its_fills_and_reports(self) -> None:
        life = Life(EXCHANGE)
        life.take_over()
        life.submit("x1", "45100", "4")
        life.fill("4", "45100", order="x1", liquidation_id="liq-7")
        life.submit("x2", "44900", "6")
        life.report("x2", "cancelled", "0", liquidation_id="liq-7", final=False)
        life.wait(60_000)
        life.adl("6")
        assert_the_same(ask(life.lines, EXCHANGE))

    def test_other_software_is_no_other_policy(self) -> None:
        life = partly_filled()
        cause = PolicyCause(
            policy=policy_document(life.state.policy),
            routing=life.state.routing,
            clock="wall",
            rules=RULES,
            software="newer",
        )
        life._keep(life.keeper.policy(cause, life.now_ms))
        assert_the_same(ask(life.lines, {}))

    def test_trigger_that_is_not_executed_yet_is_asked_for_on_both_sides(self) -> None:
        life = partly_filled()
        del life.lines[-1]
        what_if = ask(life.lines, {})
        assert_the_same(what_if)
        assert what_if.sums()["deleveraging"] == pair("1", "1", "0")
        assert what_if.sums()["deleveraged_notional"] == pair("0", "0", "0")
        assert what_if.sums()["asked_notional"] == pair("1350", "1350", "0")

    def test_ledger_of_event_mode_that_has_not_ended_comes_out_the_same(self) -> None:
        life = Life(clock="event")
        life.take_over()
        what_if = ask(life.lines, {})
        assert_the_same(what_if)
        assert what_if.sums()["open"] == pair("1", "1", "0")

    def test_two_currencies_with_two_deposits_each_come_out_the_same(self) -> None:
        life = two_currencies()
        what_if = ask(life.lines, {})
        assert_the_same(what_if)
        assert what_if.sums()["fund_lowest"] == pair("970", "970", "0")
        lowest = what_if.sums("XBT")["fund_lowest"]["recorded"]
        assert Fraction(lowest) == 2 + _floored(_inverse_delta(48_000))


class TestConcession:
    def test_smaller_concession_loses_the_fill_beyond_its_limit_to_adl(self) -> None:
        # Recorded: F = 500 - 212 - 147 - 150 - 0.894 = -9.894, of which the first fill drew
        # 12.894 and the second brought 3. What-if: only the second fill; 3 of the other 7 were
        # deleveraged and 4 are asked for, all at 45000, where they are worth nothing.
        what_if = ask(partly_filled().lines, NO_CONCESSION)
        assert what_if.orders() == [("liq-7:1", "10", "45022.6")]
        assert what_if.fills() == [("f2", "liq-7:1")]
        assert what_if.differences() == [
            {
                "liquidation_id": "liq-7",
                "instrument_id": "BTCUSDT",
                "margin_currency": "USDT",
                "outcome": {"recorded": "deleveraged", "what_if": "deleveraging"},
                "delta": pair("-9.894", "3", "12.894"),
                "gains": pair("3", "3", "0"),
                "draws": pair("-12.894", "0", "12.894"),
                "granted": pair("45", "0", "-45"),
                "deleveraged_notional": pair("1350", "1350", "0"),
                "shortfall": pair("0", "0", "0"),
                "deleveraged": pair("3", "3", "0"),
                "asked": pair("0", "4", "4"),
                "asked_notional": pair("0", "1800", "1800"),
                "asked_delta": pair("0", "0", "0"),
            }
        ]
        sums = what_if.sums()
        assert sums["fund_lowest"] == pair("987.106", "1000", "12.894")
        assert sums["fund_after"] == pair("990.106", "1003", "12.894")
        assert sums["deleveraged_liquidations"] == pair("1", "1", "0")
        assert (sums["deleveraged"], sums["deleveraging"]) == (
            pair("1", "0", "-1"),
            pair("0", "1", "1"),
        )
        assert what_if.notes[1:] == [
            "fills beyond the limit of the order of the what-if, unfilled: 1"
        ]

    def test_larger_concession_keeps_every_fill_and_grants_more(self) -> None:
        # 2 % of the 4500 that the position is worth at 45000, 1 % in the ledger.
        what_if = ask(partly_filled().lines, TWO_PERCENT)
        (row,) = what_if.differences()
        assert what_if.fills() == [("f1", "liq-7:1"), ("f2", "liq-7:1")]
        assert row["granted"] == pair("45", "90", "45")
        changed = {n for n in ("outcome", *FIGURES, "deleveraged") if n in row and _differs(row[n])}
        assert changed == {"granted"}

    def test_liquidations_that_ended_otherwise_come_first(self) -> None:
        life = Life(clock="event")
        for name, price in (("liq-7", "45100"), ("liq-8", "44700"), ("liq-9", "45100")):
            life.take_over(name)
            life.fill("10", price, order=f"{name}:1")
        rows = ask(life.lines, NO_CONCESSION).differences()
        assert [row["liquidation_id"] for row in rows] == ["liq-8", "liq-7", "liq-9"]

    def test_order_of_another_quantity_is_another_order(self) -> None:
        # Its price and expiry are the recorded ones, and a fill far beyond the limit is no reason
        # to think that it would have happened to it.
        life = Life({"default": {"attempts": [["0.002", 5_000], ["0.01", 25_000]]}})
        life.take_over()
        life.fill("4", "44950", "f1")
        life.now_ms += 5_000
        life.report("liq-7:1", "expired", "4")
        life.fill("2", "44000", "f2", "liq-7:2")
        life.fill("4", "44700", "f3", "liq-7:2")
        what_if = ask(life.lines, TWO_ATTEMPTS)
        assert [o[:2] for o in what_if.orders()] == [("liq-7:1", "10"), ("liq-7:2", "10")]
        assert (
            what_if.orders()[1][2] == life.state.closed["liq-7"].keys["issued:liq-7:2"].split()[-1]
        )
        assert what_if.fills() == [("f3", "liq-7:2")]

    def test_short_gains_from_fills_below_its_limit_and_loses_those_above(self) -> None:
        # Short: Pb = 55000 / 1.0005 = 54972.51.., without a concession the limit is 54972.5.
        life = Life()
        life.take_over(position_side="short")
        life.fill("4", "55000", "f1", side="buy")
        life.fill("3", "54900", "f2", side="buy")
        what_if = ask(life.lines, NO_CONCESSION)
        assert what_if.orders() == [("liq-7:1", "10", "54972.5")]
        assert what_if.fills() == [("f2", "liq-7:1")]
        assert what_if.sums()["delta"] == pair("3", "3", "0")

    def test_inverse_contract_is_asked_for_at_its_own_notional(self) -> None:
        # Long 10000 at 50000: V / E = 0.2, margin 0.01. ADL at 10000 / 0.21 = 47619.04.., on the
        # tick of 0.5 upward 47619.5.
        life = Life(clock="event", instruments=(XBTUSD,), deposit=None)
        life.deposit("1", "XBT")
        life.take_over(quantity="10000", margin="0.01", **IN_XBT)
        life.fill("10000", "47400", **IN_XBT)
        what_if = ask(life.lines, NO_CONCESSION)
        (row,) = what_if.differences()
        drawn = _floored(Fraction(1, 100) + Fraction(10_000, 50_000) - Fraction(10_000, 47_400))
        asked = Fraction(10_000) / Fraction("47619.5")
        left = _floored(Fraction(1, 100) + Fraction(10_000, 50_000) - asked)
        assert Fraction(row["delta"]["recorded"]) == drawn
        assert Fraction(row["asked_delta"]["what_if"]) == left
        assert Fraction(row["asked_notional"]["what_if"]) == _floored(asked)
        assert what_if.sums("XBT")["asked_notional"] == row["asked_notional"]
        assert row["deleveraged_notional"]["what_if"] == row["delta"]["what_if"] == "0"
        assert row["asked"]["what_if"] == "10000"

    def test_fill_at_the_limit_is_taken(self) -> None:
        life = Life()
        life.take_over()
        life.fill("10", "45022.6")
        assert ask(life.lines, NO_CONCESSION).fills() == [("f1", "liq-7:1")]

    def test_what_is_asked_for_is_told_in_its_own_currency(self) -> None:
        what_if = ask(two_currencies(clock="event").lines, NO_CONCESSION)
        assert what_if.sums()["asked_notional"] == pair("0", "4500", "4500")
        for currency in ("USDT", "XBT"):
            assert what_if.sums(currency)["deleveraging"] == pair("0", "1", "1")

    def test_parts_of_contracts_are_told_whole(self) -> None:
        life = Life(clock="event", instruments=({**BTCUSDT, "quantity_step": "0.5"},))
        life.take_over(quantity="9.5")
        life.fill("9.5", "44700")
        (row,) = ask(life.lines, NO_CONCESSION).differences()
        assert row["asked"] == pair("0", "9.5", "9.5")

    def test_delta_that_is_asked_for_pays_the_fee_of_a_deleveraging(self) -> None:
        # ADL at 45000 / 0.999 = 45045.04.., on the tick 45045.1: 500 - 495.49 - 4.50451.
        life = Life(clock="event")
        life.take_over()
        life.fill("10", "44700")
        fee = {"default": {"attempts": [["0", 30_000]], "adl_fee_rate": "0.001"}}
        what_if = ask(life.lines, fee)
        assert what_if.told(fx.AdlTriggered)[0].price == "45045.1"
        (row,) = what_if.differences()
        assert row["asked_delta"]["what_if"] == "0.00549"


class TestCaps:
    def test_smaller_share_of_the_instrument_loses_the_fill_that_it_does_not_pay_for(self) -> None:
        # c = 0.04 x 1000 = 40: Pc = (50000 - 540 / 0.1) / 0.9995 = 44622.31..
        life = Life()
        life.take_over()
        life.fill("4", "44630", "f1")
        life.fill("4", "44600", "f2")
        what_if = ask(life.lines, {"default": {"instrument_share": "0.04"}})
        assert what_if.orders() == [("liq-7:1", "10", "44622.4")]
        assert what_if.fills() == [("f1", "liq-7:1")]
        assert what_if.sums()["granted"] == pair("45", "40", "-5")

    def test_limit_of_the_liquidation_holds(self) -> None:
        # c = 20: Pc = (50000 - 520 / 0.1) / 0.9995 = 44822.41..
        what_if = ask(partly_filled().lines, {"default": {"liquidation_limit": "20"}})
        assert what_if.orders() == [("liq-7:1", "10", "44822.5")]
        assert what_if.fills() == [("f2", "liq-7:1")]

    def test_shortfall_of_a_liquidation_is_told(self) -> None:
        # The order of the what-if concedes nothing, and is not filled 30 below.
        life = Life(deposit="10")
        life.take_over()
        life.fill("10", "44700")
        what_if = ask(life.lines, NO_CONCESSION)
        (row,) = what_if.differences()
        assert row["shortfall"] == pair("-20", "0", "20")
        assert what_if.sums()["shortfall"] == row["shortfall"]

    def test_withdrawal_that_the_other_policy_cannot_pay_is_told(self) -> None:
        life = partly_filled()
        life.transfer("fund_withdrawal", "990", "w1")
        what_if = ask(life.lines, {"currencies": {"USDT": {"floor": "500"}}})
        assert "records that the other policy refuses (exceeds_available): 1" in what_if.notes
        assert what_if.sums()["fund_after"]["difference"] == "990"


class TestLifetime:
    def test_fill_goes_to_the_attempt_of_its_time(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 3_000
        life.fill("2", "45100", "good")
        life.fill("2", "44700", "worse")
        life.now_ms += 7_000
        life.fill("6", "44700", "later")
        life.now_ms += 20_000
        life.report("liq-7:1", "expired", "10")
        what_if = ask(life.lines, TWO_ATTEMPTS)
        assert [o[:2] for o in what_if.orders()] == [("liq-7:1", "10"), ("liq-7:2", "8")]
        assert what_if.at(fx.OrderIssued) == [0, 5_000]
        assert what_if.fills() == [("good", "liq-7:1"), ("later", "liq-7:2")]
        assert what_if.at(fx.AdlTriggered) == [30_000]
        assert what_if.told(fx.AdlTriggered)[0].quantity == "2"

    def test_fill_after_the_end_of_a_shorter_order_is_unfilled(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 10_000
        life.fill("4", "45100", "in-time")
        life.now_ms += 1
        life.fill("6", "45100", "too-late")
        what_if = ask(life.lines, {"default": {"attempts": [["0.01", 10_000]]}})
        assert what_if.fills() == [("in-time", "liq-7:1")]
        assert what_if.at(fx.AdlTriggered) == [10_000]
        assert what_if.sums()["deleveraged_notional"] == pair("0", "0", "0")
        assert what_if.sums()["asked_notional"] == pair("0", "2700", "2700")
        assert "fills at a time when no order of the what-if was open, unfilled: 1" in what_if.notes

    def test_fill_in_time_that_is_read_late_belongs_to_the_order_that_it_filled(self) -> None:
        # Read 500 ms after it happened, when the what-if has sent its second order already.
        life = Life()
        life.take_over()
        life.now_ms += 5_500
        life.fill("4", "45100", event_time_ms=START_MS + 4_900)
        what_if = ask(life.lines, TWO_ATTEMPTS)
        assert [o[:2] for o in what_if.orders()] == [("liq-7:1", "10"), ("liq-7:2", "6")]
        assert what_if.told(fx.OrderClosed)[0].filled_quantity == "4"
        assert what_if.fills() == [("f1", "liq-7:1")]

    def test_longer_order_is_open_at_the_end_of_a_ledger_of_the_wall_clock(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 30_000
        life.report("liq-7:1", "expired", "0")
        life.adl("10")
        what_if = ask(life.lines, {"default": {"attempts": [["0.01", 60_000]]}})
        (row,) = what_if.differences()
        assert row["outcome"] == {"recorded": "deleveraged", "what_if": "open"}
        assert row["deleveraged"] == pair("10", "0", "-10")
        assert "ADL executions that were left out, or cut to what was left: 1" in what_if.notes

    def test_longer_order_is_open_where_a_ledger_of_event_mode_has_not_ended(self) -> None:
        life = Life(clock="event")
        life.take_over()
        what_if = ask(life.lines, {"default": {"attempts": [["0.01", 60_000]]}})
        assert what_if.told(fx.OrderClosed) == []
        assert what_if.sums()["open"] == pair("1", "1", "0")

    def test_fill_that_is_read_after_two_orders_ended_belongs_to_the_one_of_its_time(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 35_000
        life.fill("4", "45100", event_time_ms=START_MS + 4_900)
        what_if = ask(life.lines, TWO_ATTEMPTS)
        assert [o.filled_quantity for o in what_if.told(fx.OrderClosed)] == ["4", "0"]
        assert what_if.fills() == [("f1", "liq-7:1")]

    def test_deadline_that_the_ledger_dropped_while_it_waited_is_taken_then(self) -> None:
        # The hold of the first order waits for a backlog; there the ledger closes the liquidation
        # by a fill that the second order of the what-if does not take.
        life = Life({"default": {"attempts": [["0.005", 5_000], ["0.01", 25_000]]}})
        life.take_over()
        life.wait(8_000)
        life.now_ms += 3_600_000
        life.deposit("1", name="d2")
        life.fill("10", "44700", order="liq-7:2", event_time_ms=START_MS + 9_000)
        assert life.kinds()[-1] == "liquidation_closed"
        what_if = ask(life.lines, {"default": {"attempts": [["0.005", 5_000], ["0.006", 25_000]]}})
        assert what_if.fills() == []
        assert what_if.at(fx.ReservationReleased)[-1] == 3_608_000

    def test_longer_order_runs_to_its_end_in_event_mode(self) -> None:
        life = Life(clock="event")
        life.take_over()
        life.now_ms += 30_000
        life.report("liq-7:1", "expired", "0")
        life.adl("10")
        what_if = ask(life.lines, {"default": {"attempts": [["0.01", 60_000]]}})
        assert what_if.at(fx.AdlTriggered) == [60_000]
        (row,) = what_if.differences()
        assert row["outcome"] == {"recorded": "deleveraged", "what_if": "deleveraging"}
        assert row["deleveraged_notional"] == pair("4500", "0", "-4500")
        assert row["asked_notional"] == pair("0", "4500", "4500")

    def test_fills_of_a_second_order_are_offered_to_a_first_one_that_lives_on(self) -> None:
        life = Life(TWO_ATTEMPTS)
        life.take_over()
        life.now_ms += 5_000
        life.report("liq-7:1", "expired", "0")
        life.now_ms += 5_000
        life.fill("10", "44700", order="liq-7:2")
        what_if = ask(life.lines, {"default": {"attempts": [["0.01", 30_000]]}})
        assert what_if.fills() == [("f1", "liq-7:1")]
        assert what_if.differences() == []


class TestReports:
    def test_cancelled_order_is_cancelled_and_has_only_what_it_takes(self) -> None:
        life = Life()
        life.take_over()
        life.fill("4", "44700", "f1")
        life.now_ms += 1_000
        life.report("liq-7:1", "cancelled", "7")
        life.now_ms += 1_000
        life.fill("3", "45100", "f2", event_time_ms=START_MS + 900)
        what_if = ask(life.lines, TWO_ATTEMPTS)
        report = what_if.told(fx.OrderClosed)[0]
        assert (report.reason, report.filled_quantity) == ("cancelled", "3")
        assert [o[:2] for o in what_if.orders()] == [("liq-7:1", "10"), ("liq-7:2", "7")]
        assert what_if.fills() == [("f2", "liq-7:1")]

    def test_what_was_reported_and_never_shown_counts_as_unfilled_for_another_order(self) -> None:
        life = Life()
        life.take_over()
        life.fill("4", "44700")
        life.report("liq-7:1", "cancelled", "6")
        what_if = ask(life.lines, NO_CONCESSION)
        assert what_if.told(fx.OrderClosed)[0].filled_quantity == "0"
        assert what_if.told(fx.AdlTriggered)[0].quantity == "10"

    def test_order_that_was_filled_there_and_not_here_stays_open(self) -> None:
        life = Life()
        life.take_over()
        life.report("liq-7:1", "filled", "10")
        life.fill("10", "44700")
        what_if = ask(life.lines, NO_CONCESSION)
        assert what_if.told(fx.OrderClosed) == []
        assert what_if.sums()["open"] == pair("0", "1", "1")

    def test_order_ends_by_its_own_time_where_its_report_is_of_a_later_one(self) -> None:
        # The first order is the recorded one; its report, of 8 s, is read when the second is out.
        # A fill of 7.5 s is of the second, which concedes enough for it.
        life = Life({"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}})
        life.take_over()
        life.wait(8_000)
        life.report("liq-7:1", "expired", "0")
        life.fill("10", "44700", order="liq-7:2", event_time_ms=START_MS + 7_500)
        what_if = ask(life.lines, {"default": {"attempts": [["0", 5_000], ["0.02", 25_000]]}})
        assert what_if.fills() == [("f1", "liq-7:2")]

    def test_fill_of_another_order_is_offered_to_a_recorded_one_at_its_limit_only(self) -> None:
        # The exchange's clock dates the second order's fill before the end of the first.
        life = Life(TWO_ATTEMPTS)
        life.take_over()
        life.now_ms += 1_000
        life.report("liq-7:1", "cancelled", "0")
        life.fill("10", "44700", order="liq-7:2", event_time_ms=START_MS + 900)
        what_if = ask(life.lines, {"default": {"attempts": [["0", 5_000], ["0.02", 25_000]]}})
        assert what_if.fills() == []

    def test_rejected_attempt_is_repeated_once(self) -> None:
        life = Life()
        life.take_over()
        life.report("liq-7:1", "rejected", "0")
        life.report("liq-7:2", "rejected", "0")
        what_if = ask(life.lines, NO_CONCESSION)
        assert [o[0] for o in what_if.orders()] == ["liq-7:1", "liq-7:2"]
        assert what_if.told(fx.AdlTriggered)[0].reason == "order_rejected"

    def test_fill_after_a_cancellation_goes_to_the_next_order(self) -> None:
        life = Life({"default": {"attempts": [["0.01", 30_000], ["0.01", 30_000]]}})
        life.take_over()
        life.now_ms += 1_000
        life.report("liq-7:1", "cancelled", "0")
        life.now_ms += 1_000
        life.fill("10", "45100", order="liq-7:2")
        what_if = ask(life.lines, {"default": {"attempts": [["0", 30_000], ["0", 30_000]]}})
        assert what_if.at(fx.OrderIssued) == [0, 1_000]
        assert what_if.fills() == [("f1", "liq-7:2")]

    def test_report_about_an_order_that_has_ended_here_is_left_out(self) -> None:
        life = Life()
        life.take_over()
        life.now_ms += 10_000
        life.report("liq-7:1", "cancelled", "0")
        what_if = ask(life.lines, TWO_ATTEMPTS)
        assert [o.order_id for o in what_if.told(fx.OrderClosed)] == ["liq-7:1"]
        assert what_if.at(fx.OrderClosed) == [5_000]
        assert what_if.told(fx.Rejected) == []


class TestPricing:
    def test_fund_prices_what_the_exchange_priced_and_is_offered_its_fills(self) -> None:
        life = Life(EXCHANGE)
        life.take_over()
        life.submit("x1", "44000", "10")
        life.fill("4", "45100", "f1", order="x1", liquidation_id="liq-7")
        life.fill("6", "44500", "f2", order="x1", liquidation_id="liq-7")
        what_if = ask(life.lines, {})
        assert what_if.fills() == [("f1", "liq-7:1")]
        assert what_if.told(fx.Rejected) == []
        assert any("the fund's orders are offered" in note for note in what_if.notes)

    def test_exchange_has_no_orders_where_the_fund_priced_and_all_goes_to_adl(self) -> None:
        what_if = ask(partly_filled(clock="event").lines, EXCHANGE)
        assert what_if.fills() == []
        assert what_if.told(fx.AdlTriggered)[0].reason == "no_order"
        assert what_if.sums()["deleveraged_notional"] == pair("1350", "0", "-1350")
        assert what_if.sums()["asked_notional"] == pair("0", "4500", "4500")
        assert any("no orders of the exchange are recorded" in note for note in what_if.notes)


class TestLedger:
    def test_later_policies_of_the_ledger_are_left_out_and_told(self) -> None:
        life = partly_filled()
        life.set_policy(NO_CONCESSION)
        life.take_over("liq-8")
        life.now_ms += 10
        life.fill("4", "44700", "f9", "liq-8:1")
        what_if = ask(life.lines, {})
        assert [o[0] for o in what_if.orders()] == ["liq-7:1", "liq-8:1"]
        assert [row["liquidation_id"] for row in what_if.differences()] == ["liq-8"]
        assert f"took another policy at sequence {len(life.lines) - 3}" in what_if.notes[1]

    def test_entries_of_other_rules_are_told(self) -> None:
        life = Life()
        cause = PolicyCause(
            policy=policy_document(life.state.policy),
            routing=life.state.routing,
            clock="wall",
            rules=RULES + 1,
            software="other",
        )
        life._keep(life.keeper.policy(cause, life.now_ms))
        what_if = ask(life.lines, {})
        assert len(what_if.notes) == 2
        assert f"were decided by rules {RULES + 1}" in what_if.notes[1]

    def test_checkpoints_and_deadlines_of_parked_records_are_passed_over(self) -> None:
        life = Life()
        life.fill("1", order="liq-8:1")
        taken = life.wait(3_600_000)
        assert isinstance(taken[0].entry.cause, ClockCause)
        assert_the_same(ask(life.lines, {}))

    def test_id_that_comes_again_after_it_was_forgotten_is_another_liquidation(self) -> None:
        policy = {"closed_max": 1}
        life = Life(policy)
        for name in ("liq-7", "liq-8", "liq-7"):
            life.now_ms += 10_000
            life.take_over(name)
            life.fill("10", "44700", f"f{len(life.lines)}", f"{name}:1")
        assert len(life.state.closed) == 1
        assert_the_same(ask(life.lines, policy))

    def test_liquidations_of_one_id_are_told_apart(self) -> None:
        # The last is filled when an order of the same id would have ended, while another ends.
        life = Life({"closed_max": 1})
        life.take_over("liq-9")
        for name, wait_ms in (("liq-7", 0), ("liq-8", 0), ("liq-7", 25_000)):
            life.now_ms += 5_000
            life.take_over(name)
            life.now_ms += wait_ms
            life.fill("10", "44700", f"f{len(life.lines)}", f"{name}:1")
        what_if = ask(life.lines, TWO_PERCENT)
        assert [f for _, f in what_if.fills()] == ["liq-7:1", "liq-8:1", "liq-7:1"]
        assert [closed.reason for closed in what_if.told(fx.OrderClosed)] == [
            "filled",
            "filled",
            "expired",
            "filled",
        ]
        rows = what_if.differences()
        assert [row["liquidation_id"] for row in rows] == ["liq-9", "liq-7", "liq-8", "liq-7"]

    def test_ids_are_remembered_as_long_as_in_the_ledger(self) -> None:
        life = Life()
        for name in ("liq-7", "liq-8"):
            life.now_ms += 1_000
            life.take_over(name)
            life.fill("10", "44700", order=f"{name}:1")
        life.take_over("liq-9", event_time_ms=START_MS)
        assert_the_same(ask(life.lines, {"closed_max": 1}))

    def test_damaged_ledger_is_refused_with_the_sequence(self) -> None:
        life = partly_filled()
        for damaged in (
            [*life.lines[:4], *life.lines[5:]],
            [*life.lines[:3], life.lines[3].replace(b"44.998615", b"44.998616"), *life.lines[4:]],
            [*life.lines[:4], b"", *life.lines[4:]],
        ):
            with pytest.raises(CorruptionError, match="sequence 4: "):
                ask(damaged, {})

    def test_ledger_that_grows_between_the_passes_is_read_to_where_it_ended(self) -> None:
        lines = partly_filled().lines
        what_if = Watched(Read(lines[:5]), {})
        for line in lines:
            what_if.take(line)
        what_if.finish()
        assert_the_same(what_if)

    def test_ledger_that_is_another_one_in_the_second_pass_is_refused(self) -> None:
        what_if = Watched(Read(partly_filled().lines), {})
        for line in Life().lines:
            what_if.take(line)
        with pytest.raises(SettingsError, match="changed while it was read"):
            what_if.finish()

    def test_two_policies_can_be_asked_of_one_reading_of_the_ledger(self) -> None:
        lines = partly_filled().lines
        read = Read(lines)
        both = Watched(read, NO_CONCESSION), Watched(read, {})
        for line in lines:
            for what_if in both:
                what_if.take(line)
        for what_if in both:
            what_if.finish()
        assert [row["liquidation_id"] for row in both[0].differences()] == ["liq-7"]
        assert_the_same(both[1])
        assert both[0].sums() == ask(lines, NO_CONCESSION).sums()

    def test_empty_ledger_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="the ledger is empty"):
            ask([], {})


class TestCurrencies:
    @pytest.mark.parametrize(
        ("currencies", "says"),
        [
            ({"XBT": {"scale": 8}}, "policy: currencies.USDT is missing"),
            ({"USDT": {"scale": 2}}, "policy: currencies.USDT.scale is 2; it must be 6"),
        ],
    )
    def test_policy_must_name_the_money_of_the_ledger_with_its_scale(
        self, currencies: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(SettingsError, match=says):
            ask(partly_filled().lines, {"currencies": currencies})

    def test_money_that_was_only_paid_in_counts_and_a_position_without_money_too(self) -> None:
        paid_in, taken_over = Life(), Life(deposit=None)
        taken_over.take_over()
        for life in (paid_in, taken_over):
            with pytest.raises(SettingsError, match=r"currencies\.USDT is missing"):
                ask(life.lines, {"currencies": {"XBT": {"scale": 8}}})

    def test_policy_need_not_name_a_currency_without_money(self) -> None:
        assert_the_same(ask(partly_filled().lines, {"currencies": {"USDT": {"scale": 6}}}))


def _differs(told: dict[str, str]) -> bool:
    return told["recorded"] != told["what_if"]


def _floored(value: Fraction) -> Fraction:
    return Fraction(value * 10**8 // 1, 10**8)


def _inverse_delta(price: int) -> Fraction:
    # A long of 10000 at 50000 with a margin of 0.005, closed at a price.
    return Fraction(5, 1_000) + Fraction(10_000, 50_000) - Fraction(10_000, price)
