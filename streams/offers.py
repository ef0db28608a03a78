"""Offers: which recorded fills the orders of a what-if take, for one liquidation."""

from __future__ import annotations

from decimal import Decimal

from insurance_fund.events.amounts import ZERO
from insurance_fund.fund.state import Liquidation, Order
from insurance_fund.streams.recorded import Life, RecordedFill


class Offers:
    """The recorded fills of a liquidation, offered one by one in the order of the ledger."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self._offered = 0
        # When orders ended by a report, before their own time.
        self._ends: dict[str, int] = {}

    def take_next(self) -> RecordedFill:
        """Return the next fill and go on to the one after it."""
        fill = self.life.fills[self._offered]
        self._offered += 1
        return fill

    def end(self, order: Order, time_ms: int) -> None:
        """Note that an order ended by a report of this time, at the latest by its own."""
        self._ends[order.order_id] = min(order.expires_at_ms, time_ms)

    def order_for(self, liquidation: Liquidation, fill: RecordedFill) -> tuple[Order | None, bool]:
        """Return the order that a fill is offered to, and whether it takes it.

        The recorded order takes its own, whatever its price: what the exchange did there, it did
        here. Any other fill goes to an order of its time, which takes it at its limit or better.
        """
        own = liquidation.orders.get(fill.order_id)
        if own is not None and self.life.has(own):
            return own, True
        orders = liquidation.orders.values()
        order = next((one for one in orders if self._is_of_the_time_of(one, fill)), None)
        if order is None:
            return None, False
        if liquidation.side == "long":
            return order, fill.price >= order.price
        return order, fill.price <= order.price

    def coming(self, liquidation: Liquidation, order: Order) -> Decimal:
        """Return what an order was filled by its end and the ledger books only later."""
        coming = ZERO
        for fill in self.life.fills[self._offered :]:
            target, takes = self.order_for(liquidation, fill)
            if target is order and takes:
                coming += fill.quantity
        return coming

    def _is_of_the_time_of(self, order: Order, fill: RecordedFill) -> bool:
        # In the millisecond in which it ends, it can have its own fill; another's is of the next.
        end_ms = self._ends.get(order.order_id, order.expires_at_ms)
        own = fill.order_id == order.order_id
        return fill.event_time_ms <= end_ms if own else fill.event_time_ms < end_ms
