"""Prices of the fund in exact fractions: bankruptcy, closing price, splitting of fills."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import exact
from insurance_fund.fund import contracts
from tests.property.choices import text
from tests.property.model_prices import Position, ceil_at, floor_at
from tests.property.scale import EXAMPLES, STEADY
from tests.unit.life import Life

some = settings(max_examples=150 * EXAMPLES, deadline=None, derandomize=STEADY, print_blob=True)
SCALE = 6
COMPENSATION_MAX = 10**12


def amounts(most: int, *, least: int = 1) -> st.SearchStrategy[Fraction]:
    """Amounts with zero to eighteen decimals, the first `least` units of the last place on."""
    return st.integers(0, 18).flatmap(
        lambda digits: st.integers(least, most * 10**digits).map(lambda n: Fraction(n, 10**digits))
    )


@st.composite
def positions(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("linear", "inverse", "quanto")
) -> Position:
    step = draw(st.sampled_from(("1", "0.001", "25")))
    quantity = Fraction(step) * draw(st.integers(1, 10_000))
    entry = draw(amounts(100_000))
    size = draw(amounts(1_000))
    kind = draw(st.sampled_from(kinds))
    notional = quantity * size / entry if kind == "inverse" else quantity * size * entry
    margin = floor_at(notional * draw(st.integers(0, 2_000)) / 1_000, SCALE)
    assume(margin < 10**18)
    return Position(
        contract_type=kind,
        contract_size=size,
        tick=draw(st.sampled_from((Fraction(1, 10), Fraction(5), Fraction(1, 10**8)))),
        step=Fraction(step),
        fee_rate=draw(st.sampled_from((0, 1, 75, 999))) * Fraction(1, 100_000),
        scale=SCALE,
        side=draw(st.sampled_from(("long", "short"))),
        quantity=quantity,
        entry=entry,
        margin=margin,
    )


def taken_over(position: Position) -> contracts.Takeover:
    return contracts.Takeover(
        contract=contracts.Contract(
            inverse=position.contract_type == "inverse",
            size=Decimal(text(position.contract_size)),
            tick=Decimal(text(position.tick)),
            step=Decimal(text(position.step)),
            fee_rate=Decimal(text(position.fee_rate)),
        ),
        side="long" if position.side == "long" else "short",
        quantity=Decimal(text(position.quantity)),
        entry_price=Decimal(text(position.entry)),
        margin=Decimal(text(position.margin)),
        scale=position.scale,
    )


def fraction(price: contracts.Price) -> Fraction:
    return Fraction(price.numerator) / Fraction(price.denominator)


@some
@given(positions())
def test_nothing_is_left_at_the_bankruptcy_price(position: Position) -> None:
    price = exact(taken_over(position).bankruptcy_price)()
    if price is None:
        assert position.contract_type == "inverse"
        assert position.side == "short"
        assert position.margin >= position.notional(position.quantity, position.entry)
        return
    found = fraction(price)
    if position.contract_type != "inverse" or found > 0:
        assert position.equity(position.quantity, found) == 0


@some
@given(
    positions(),
    st.integers(0, COMPENSATION_MAX),
    st.sampled_from(("0", "0.01", "0.2", "0.99")),
    st.integers(1, 100),
)
def test_closing_price_costs_no_more_than_the_compensation_or_the_concession(
    position: Position, units: int, concession: str, percent: int
) -> None:
    takeover = taken_over(position)
    price = exact(takeover.bankruptcy_price)()
    assume(price is not None)
    assert price is not None
    assume(fraction(price) >= position.tick)
    steps = position.quantity / position.step
    rest = max(1, int(steps * percent / 100)) * position.step
    compensation = Fraction(units, 10**SCALE)
    limit = Fraction(
        exact(contracts.closing_price)(
            takeover,
            price,
            Decimal(concession),
            Decimal(text(compensation)),
            Decimal(text(rest)),
        )
    )
    assert limit >= position.tick
    assert limit % position.tick == 0
    cost = -position.equity(rest, limit)
    assert cost <= compensation
    assert cost <= -position.equity(rest, position.conceded_price(Fraction(concession)))
    assert limit == position.closing_price(rest, compensation, Fraction(concession))


@some
@given(positions(), st.sampled_from(("0", "0.01", "0.2", "0.99")))
def test_concession_cap_is_what_the_conceded_price_costs(
    position: Position, concession: str
) -> None:
    assume(not position.is_degenerate())
    cost = exact(taken_over(position).concession_cost)(
        Decimal(concession), Decimal(text(position.quantity))
    )
    assert Fraction(cost) == position.concession_cap(position.quantity, Fraction(concession))


@some
@given(positions(), amounts(200_000), st.integers(0, 10_000))
def test_worth_and_notional_are_rounded_once_against_the_fund(
    position: Position, price: Fraction, fee_units: int
) -> None:
    takeover = taken_over(position)
    notional = exact(takeover.notional)(takeover.quantity, Decimal(text(price)))
    assert Fraction(notional) == position.booked_notional(position.quantity, price)
    fee = Fraction(fee_units, 10**SCALE)
    worth = exact(takeover.worth)(takeover.quantity, notional, Decimal(text(fee)))
    pnl = position.booked_pnl(position.quantity, price)
    assert Fraction(worth) == floor_at(position.margin + pnl - fee, SCALE)


INSTRUMENT = {
    "instrument_id": "ANY",
    "tick_size": "0.1",
    "quantity_step": "1",
    "closing_fee_rate": "0.0005",
    "margin_currency": "USDT",
}


def _closed(terms: dict[str, Any], takeover: dict[str, Any], fills: list[Any]) -> Fraction:
    """Return what the fund got from a liquidation that these fills close."""
    life = Life(instruments=({**INSTRUMENT, **terms},))
    life.take_over("liq", instrument_id="ANY", **takeover)
    side = "sell" if takeover["position_side"] == "long" else "buy"
    for number, (quantity, price, fee) in enumerate(fills):
        life.fill(
            str(quantity),
            text(price),
            f"f{number}",
            "liq:1",
            text(fee),
            side=side,
            instrument_id="ANY",
        )
    return Fraction(life.only(fx.LiquidationClosed).delta)


@settings(some, max_examples=40 * EXAMPLES)
@given(
    st.sampled_from((("linear", "0.013"), ("inverse", "100"), ("quanto", "0.0007"))),
    st.sampled_from(("long", "short")),
    st.integers(2, 1_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))),
    st.integers(100_000, 10_000_000).map(lambda n: Fraction(n, 100)),
    st.tuples(amounts(100_000), amounts(10), amounts(10)),
)
def test_splitting_a_fill_in_two_changes_nothing_in_the_end(
    terms: tuple[str, str],
    side: str,
    parts: tuple[int, int],
    entry: Fraction,
    money: tuple[Fraction, Fraction, Fraction],
) -> None:
    whole, part = parts
    price = ceil_at(money[0], 4)
    fees = [ceil_at(fee, SCALE) for fee in money[1:]]
    takeover = {
        "position_side": side,
        "quantity": str(whole),
        "entry_price": text(entry),
        "margin": "500",
    }
    contract = {"contract_type": terms[0], "contract_size": terms[1]}
    once = _closed(contract, takeover, [(whole, price, sum(fees))])
    twice = _closed(contract, takeover, [(part, price, fees[0]), (whole - part, price, fees[1])])
    # V / P of an inverse contract is rounded for each fill, at a place far below the unit.
    assert abs(once - twice) <= (Fraction(1, 10**SCALE) if terms[0] == "inverse" else 0)


def test_worked_entry_of_the_rules() -> None:
    position = Position(
        contract_type="linear",
        contract_size=Fraction("0.01"),
        tick=Fraction("0.1"),
        step=Fraction(1),
        fee_rate=Fraction("0.0005"),
        scale=SCALE,
        side="long",
        quantity=Fraction(10),
        entry=Fraction(50_000),
        margin=Fraction(500),
    )
    price = position.bankruptcy_price()
    assert price is not None
    assert floor_at(price, 3) == Fraction("45022.511")
    granted = position.concession_cap(position.quantity, Fraction("0.01"))
    limit = position.closing_price(position.quantity, granted, Fraction("0.01"))
    assert limit == Fraction("44572.3")
    worth = position.margin + position.worth_at(position.quantity, limit)
    assert -floor_at(worth, SCALE) == Fraction("44.998615")
