"""Outcomes of a ledger: lives lived by hand, and what they came to."""

from __future__ import annotations

from typing import Any

from insurance_fund.events.ledger import decode_entry
from insurance_fund.projections.outcomes import Outcomes
from tests.unit.life import BTCUSDT, XBTUSD, Life


def rows(life: Life, currency: str = "USDT") -> dict[str, Any]:
    outcomes = Outcomes()
    for line in life.lines:
        outcomes.apply(decode_entry(line))
    return outcomes.funds[currency].rows()


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


def test_fund_is_told_before_the_first_takeover_at_its_lowest_and_now() -> None:
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
    assert (told["draws"], told["gains"]) == ("-30", "100")
    assert told["ended"]["compensated"] == {"liquidations": 1, "notional": "4470"}
    assert told["ended"]["better_than_bankruptcy"] == {"liquidations": 1, "notional": "4600"}


def test_what_the_fund_could_not_pay_is_shortfall_and_not_used_compensation() -> None:
    life = Life(deposit="10")
    life.take_over()
    life.fill("10", price="44000")
    told = rows(life)
    assert (told["after"], told["shortfall"], told["used"]) == ("0", "-90", "10")


def test_each_margin_currency_has_its_own_outcome_and_its_worst_instrument() -> None:
    second = {**BTCUSDT, "instrument_id": "ETHUSDT"}
    life = Life(instruments=(BTCUSDT, second, XBTUSD))
    life.deposit("5", "XBT", "x1")
    life.take_over("a")
    life.fill("10", price="44900", order="a:1", name="f1")
    life.take_over("b", instrument_id="ETHUSDT")
    life.fill("10", price="45100", order="b:1", name="f2", instrument_id="ETHUSDT")
    life.take_over(
        "c", instrument_id="XBTUSD", margin_currency="XBT", quantity="50000", margin="0.02"
    )
    outcomes = Outcomes()
    for line in life.lines:
        outcomes.apply(decode_entry(line))
    dollars, coins = outcomes.funds["USDT"], outcomes.funds["XBT"]
    assert dollars.worst_instrument == "BTCUSDT"
    assert dollars.costliest is not None
    assert dollars.costliest[1] == "a"
    assert rows(life)["by_instrument"] == {"BTCUSDT": "-10", "ETHUSDT": "10"}
    assert (coins.worst_instrument, coins.costliest) == (None, None)
    assert rows(life, "XBT")["before"] == rows(life, "XBT")["after"] == "5"
