"""Matching over random orders and tapes: nobody gets more than there is, or than they asked for."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from insurance_fund.events.messages import LiquidationOrder
from insurance_fund.streams.paper.matching import Matching
from insurance_fund.streams.paper.tape import Trade
from tests.property.scale import EXAMPLES, STEADY
from tests.unit.life import START_MS as T
from tests.unit.test_paper_matching import buying, order

some = settings(max_examples=150 * EXAMPLES, deadline=None, derandomize=STEADY, print_blob=True)
STEP = Decimal("0.5")
PRICES = st.integers(95, 105)


@st.composite
def orders(draw: st.DrawFn) -> LiquidationOrder:
    quantity = str(draw(st.integers(1, 20)) * STEP)
    price = str(draw(PRICES))
    return order("a", price, quantity) if draw(st.booleans()) else buying("b", price, quantity)


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    return Trade(T, "BTCUSDT", Decimal(draw(PRICES)), Decimal(draw(st.integers(1, 900))) / 100)


@some
@given(st.lists(st.one_of(orders(), trades()), max_size=40))
def test_no_trade_is_used_twice_and_no_order_gets_more_than_it_wants_or_a_worse_price(
    happenings: list[LiquidationOrder | Trade],
) -> None:
    made = Matching()
    asked: list[LiquidationOrder] = []
    got: dict[int, Decimal] = defaultdict(Decimal)
    for happening in happenings:
        if isinstance(happening, LiquidationOrder):
            made.add(happening, STEP)
            asked.append(happening)
            continue
        if not asked:
            continue
        used = Decimal(0)
        for execution in made.match(happening):
            taker, limit = execution.order, Decimal(execution.order.price)
            got[id(taker)] += execution.quantity
            used += execution.quantity
            assert execution.quantity > 0
            assert execution.quantity % STEP == 0
            assert execution.price == happening.price
            assert execution.rest == Decimal(taker.quantity) - got[id(taker)] >= 0
            sells = taker.order_side == "sell"
            assert happening.price >= limit if sells else happening.price <= limit
        assert used <= happening.quantity
        # What nobody took, nobody wanted.
        if happening.quantity - used >= STEP:
            assert not made.wants(happening)
    ended = {id(one.order): one.filled for one in made.expire(T + 30_000)}
    for one in asked:
        is_full = got[id(one)] == Decimal(one.quantity)
        assert ended.get(id(one)) == (None if is_full else got[id(one)])
