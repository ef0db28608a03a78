"""Amounts of any size that a message may carry: refused or booked, never a broken fund."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.books import Books
from tests.property.scale import EXAMPLES, STEADY
from tests.unit.life import Life

some = settings(max_examples=100 * EXAMPLES, deadline=None, derandomize=STEADY, print_blob=True)
WHOLE = 20
PLACES = 18


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Return an amount above zero of up to 20 digits and 18 decimals, most of them at an end."""
    whole = draw(st.sampled_from((0, 1, 9, WHOLE)))
    places = draw(st.sampled_from((0, 2, PLACES)))
    digits = draw(st.integers(10 ** max(0, whole - 1) if whole else 0, 10**whole - 1))
    part = draw(st.integers(1, 10**places - 1)) if places else 0
    tail = f"{part:0{places}d}".rstrip("0") if places else ""
    if not digits and not tail:
        return "1"
    return f"{digits}" + (f".{tail}" if tail else "")


@some
@given(
    kind=st.sampled_from(("linear", "inverse", "quanto")),
    side=st.sampled_from(("long", "short")),
    scale=st.sampled_from((0, 6, 18)),
    rate=st.integers(0, 10**PLACES - 1),
    amounts=st.fixed_dictionaries(
        {
            name: texts()
            for name in ("size", "tick", "deposit", "quantity", "entry", "margin", "price", "fee")
        }
    ),
)
def test_amounts_of_any_size_leave_the_fund_whole(
    kind: str, side: str, scale: int, rate: int, amounts: dict[str, Any]
) -> None:
    policy = {
        "currencies": {"USDT": {"scale": scale}},
        "default": {"attempts": [["0.012345678901234567", 30_000]]},
    }
    instrument = {
        "instrument_id": "ANY",
        "contract_type": kind,
        "contract_size": amounts["size"],
        "tick_size": amounts["tick"],
        "quantity_step": f"0.{1:0{PLACES}d}",
        "closing_fee_rate": f"0.{rate:0{PLACES}d}",
    }
    life = Life(policy, deposit=amounts["deposit"], instruments=(instrument,))
    life.take_over(
        "liq",
        instrument_id="ANY",
        position_side=side,
        quantity=amounts["quantity"],
        entry_price=amounts["entry"],
        margin=amounts["margin"],
    )
    order = {"order": "liq:1", "instrument_id": "ANY"}
    closing = "sell" if side == "long" else "buy"
    life.fill(instrument["quantity_step"], amounts["price"], "f1", fee="-1", side=closing, **order)
    life.fill(
        amounts["quantity"], amounts["entry"], "f2", fee=amounts["fee"], side=closing, **order
    )
    life.wait(60_000)
    life.adl(amounts["quantity"], amounts["price"], liquidation_id="liq", trigger_id="liq:adl")
    books = Books({"USDT": scale})
    for line in life.lines:
        books.read(line)
