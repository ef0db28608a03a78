"""Outcomes of a ledger: lives lived by hand, what they came to, and the status that shows it."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.projections.outcomes import DELEVERAGING, OPEN, Outcomes
from insurance_fund.projections.status import Status
from tests.unit.life import BTCUSDT, XBTUSD, Life

IN_XBT = {"margin_currency": "XBT", "instrument_id": "XBTUSD"}
ETHUSDT = {**BTCUSDT, "instrument_id": "ETHUSDT"}
TWO_ATTEMPTS: dict[str, Any] = {"default": {"attempts": [["0.005", 5_000], ["0.01", 25_000]]}}


def outcomes_of(life: Life) -> Outcomes:
    outcomes = Outcomes()
    for line in life.lines:
        outcomes.apply(decode_entry(line))
    return outcomes


def rows(life: Life, currency: str = "USDT") -> dict[str, Any]:
    return outcomes_of(life).funds[currency].rows()


def status(life: Life, currency: str = "USDT") -> dict[str, Any]:
    """Return what the status shows of the fund of a currency."""
    view = Status()
    for line in life.lines:
        view.apply(decode_entry(line), sha256_hex(line))
    (fund,) = [fund for fund in view.rows()["funds"] if fund["margin_currency"] == currency]
    return dict(fund)


def test_liquidation_that_was_filled_in_part_and_deleveraged_counts_once_and_by_its_parts() -> None:
    life = Life()
    life.take_over()
    life.fill("4", fee="0.894")
    life.report("liq-7:1", "expired", "4")
    life.adl("2", name="x1")
    life.adl("4", name="x2")
    told = rows(life)
    # 4 contracts at 44700 and 6 at 45000, each of 0.01.
    assert told["ended"] == {
        "better_than_bankruptcy": {"liquidations": 0, "notional": "0"},
        "compensated": {"liquidations": 0, "notional": "0"},
        "deleveraged": {"liquidations": 1, "notional": "4488"},
    }
    assert told["deleveraged"] == {"liquidations": 1, "notional": "2700"}
    assert (told["draws"], told["gains"]) == ("-12.894", "0")
    assert (told["granted"], told["used"]) == ("45", "12.894")
    assert told["by_instrument"] == {"BTCUSDT": "-12.894"}


class TestFund:
    def test_is_told_before_the_first_takeover_at_its_lowest_and_now(self) -> None:
        life = Life(deposit="1000")
        life.transfer("fund_withdrawal", "900", "w1")
        life.deposit("400", name="d2")
        life.take_over("a")
        life.fill("10", price="44700", order="a:1", name="f1")
        life.take_over("b")
        life.fill("10", price="46000", order="b:1", name="f2")
        told = rows(life)
        # 10 contracts of 0.01: -530 of PnL with 500 of margin, then -400 with 500.
        assert (told["before"], told["lowest"], told["after"]) == ("500", "470", "570")
        assert (told["draws"], told["gains"], told["used"]) == ("-30", "100", "30")
        assert told["ended"]["compensated"] == {"liquidations": 1, "notional": "4470"}
        assert told["ended"]["better_than_bankruptcy"] == {"liquidations": 1, "notional": "4600"}

    def test_lowest_is_that_since_the_first_takeover_and_a_withdrawal_counts(self) -> None:
        life = Life(deposit="100")
        life.deposit("900", name="d2")
        assert status(life)["lowest"] == "1000"
        life.take_over()
        life.fill("10")
        assert (rows(life)["lowest"], status(life)["lowest"]) == ("970", "970")
        life.transfer("fund_withdrawal", "70", "w1")
        life.deposit("100", name="d3")
        assert (rows(life)["lowest"], rows(life)["after"]) == ("900", "1000")

    def test_of_another_currency_begins_with_its_own_first_takeover(self) -> None:
        life = Life(instruments=(BTCUSDT, XBTUSD))
        life.deposit("5", "XBT", "x1")
        life.take_over("a")
        life.fill("10", price="44900", order="a:1", name="f1")
        life.deposit("2", "XBT", "x2")
        life.transfer("fund_withdrawal", "1", "x3", "XBT")
        life.take_over("b", quantity="10000", margin="0.01", **IN_XBT)
        life.deposit("3", "XBT", "x4")
        told = rows(life, "XBT")
        assert (told["before"], told["lowest"], told["after"]) == ("6", "6", "9")
        assert rows(life)["before"] == "1000"

    def test_that_could_not_pay_has_a_shortfall_which_is_not_used_compensation(self) -> None:
        life = Life(deposit="10")
        life.take_over()
        life.fill("10", price="44000")
        told = rows(life)
        assert (told["after"], told["shortfall"], told["used"]) == ("0", "-90", "10")
        life.transfer("shortfall_payment", "40", "p1")
        assert rows(life)["shortfall"] == status(life)["shortfall"] == "-50"
        assert rows(life)["after"] == "0"

    def test_uses_only_what_a_liquidation_costs_on_the_whole(self) -> None:
        # 4 at 44700 cost 12, 6 at 45100 bring 6.
        life = Life()
        life.take_over()
        life.fill("4", "44700", "f1")
        assert rows(life)["used"] == "12"
        life.fill("6", "45100", "f2")
        told = rows(life)
        assert (told["draws"], told["gains"], told["used"]) == ("-12", "6", "6")
        assert told["ended"]["compensated"]["liquidations"] == 1


def test_granted_is_summed_over_orders_from_the_moment_they_are_sent() -> None:
    # 0.5 % and 1 % of the 4500 at stake, for the same position.
    life = Life(TWO_ATTEMPTS)
    life.take_over()
    assert rows(life)["granted"] == "22.5"
    life.wait(5_000)
    life.report("liq-7:1", "expired", "0")
    assert rows(life)["granted"] == status(life)["granted"] == "67.5"
    life.fill("10", order="liq-7:2")
    assert rows(life)["granted"] == "67.5"


class TestWorst:
    def test_instrument_is_the_one_that_drew_most_whatever_it_brought(self) -> None:
        life = Life(instruments=(BTCUSDT, ETHUSDT))
        life.take_over("a")
        life.fill("10", price="44900", order="a:1", name="f1")
        # The other one brings 102 and draws 12.
        life.take_over("b", instrument_id="ETHUSDT")
        life.fill("6", price="46700", order="b:1", name="f2", instrument_id="ETHUSDT")
        life.fill("4", price="44700", order="b:1", name="f3", instrument_id="ETHUSDT")
        fund = outcomes_of(life).funds["USDT"]
        assert fund.rows()["by_instrument"] == {"BTCUSDT": "-10", "ETHUSDT": "-12"}
        assert fund.worst_instrument == "ETHUSDT"
        assert fund.costliest == (Decimal(-12), "b")

    def test_liquidation_is_the_one_that_drew_most_over_all_its_bookings(self) -> None:
        life = Life()
        life.take_over("a")
        life.fill("10", price="44850", order="a:1", name="f1")
        life.take_over("b")
        for name in ("f2", "f3"):
            life.fill("5", price="44800", order="b:1", name=name)
        life.take_over("c")
        life.fill("10", price="44900", order="c:1", name="f4")
        assert outcomes_of(life).funds["USDT"].costliest == (Decimal(-20), "b")

    def test_there_is_none_where_nothing_was_drawn(self) -> None:
        life = Life()
        life.take_over()
        life.fill("5", "45100", "f1")
        life.fill("5", "45000", "f2")
        fund = outcomes_of(life).funds["USDT"]
        assert (fund.worst_instrument, fund.costliest) == (None, None)
        assert fund.rows()["by_instrument"] == {}


class TestCurrencies:
    def test_each_has_its_own_outcome(self) -> None:
        life = Life(instruments=(BTCUSDT, XBTUSD))
        life.deposit("5", "XBT", "x1")
        life.take_over("a")
        life.fill("10", price="44900", order="a:1", name="f1")
        life.take_over("b", quantity="50000", margin="0.02", **IN_XBT)
        outcomes = outcomes_of(life)
        dollars, coins = outcomes.funds["USDT"], outcomes.funds["XBT"]
        assert dollars.costliest == (Decimal(-10), "a")
        assert (coins.worst_instrument, coins.costliest) == (None, None)
        assert coins.rows()["before"] == coins.rows()["after"] == "5"
        assert (dollars.scale, coins.scale) == (6, 8)
        assert list(outcomes.open) == ["b"]

    def test_notional_of_inverse_contracts_is_floored_to_the_scale_where_it_is_written(
        self,
    ) -> None:
        life = Life(instruments=(XBTUSD,), deposit=None)
        life.deposit("1", "XBT")
        life.take_over(quantity="10000", margin="0.01", **IN_XBT)
        life.fill("4000", "48000.5", "f1", **IN_XBT)
        life.report("liq-7:1", "cancelled", "4000", margin_currency="XBT")
        life.adl("6000", "47700", margin_currency="XBT")
        fund = outcomes_of(life).funds["XBT"]
        ended, deleveraged = fund.ended["deleveraged"].notional, fund.deleveraged.notional
        assert ended.as_tuple().exponent == -26
        assert fund.rows()["deleveraged"]["notional"] == "0.12578616"
        assert fund.rows()["ended"]["deleveraged"]["notional"] == "0.20911862"
        assert abs(Fraction(deleveraged) - Fraction(6_000, 47_700)) < Fraction(1, 10**20)

    def test_that_is_unused_is_told_so_by_the_status(self) -> None:
        life = Life()
        assert status(life)["in_use"]
        unused = status(life, "XBT")
        assert not unused["in_use"]
        assert (unused["lowest"], unused["granted"], unused["used"]) == ("0", "0", "0")
        assert unused["closed"] == dict.fromkeys(
            ("better_than_bankruptcy", "compensated", "deleveraged"), 0
        )


class TestAsked:
    def test_is_what_triggers_still_want_and_not_booked(self) -> None:
        # 6 of 10 at 45045.1, where 1 permille of fee is paid for: 300 - 297.294 - 2.702706.
        life = Life({"default": {"adl_fee_rate": "0.001"}})
        life.take_over()
        life.fill("4", "44700")
        life.report("liq-7:1", "expired", "4")
        outcomes = outcomes_of(life)
        outcomes.ask(life.state)
        (one,) = outcomes.open.values()
        assert (one.outcome, one.asked) == (DELEVERAGING, Decimal(6))
        assert (str(one.asked_notional), str(one.asked_delta)) == ("2702.706", "0.003294")
        assert (one.deleveraged, one.delta) == (Decimal(0), Decimal(-12))
        assert outcomes.funds["USDT"].deleveraged.liquidations == 0
        assert outcomes.funds["USDT"].rows() == rows(life)

    def test_of_a_part_leaves_the_liquidation_open_while_fills_are_awaited(self) -> None:
        life = Life()
        life.take_over()
        life.fill("4", "44700")
        life.report("liq-7:1", "expired", "6")
        outcomes = outcomes_of(life)
        outcomes.ask(life.state)
        (one,) = outcomes.open.values()
        assert (one.outcome, one.asked) == (OPEN, Decimal(4))
