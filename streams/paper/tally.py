"""What an exchange has come to so far, counted from what it said and what it was sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import ZERO, exact, number
from insurance_fund.streams.paper.messages import OrdinaryFill, Said


@dataclass(slots=True)
class _Open:
    left: Decimal
    deleveraged: bool = False


@dataclass(slots=True)
class Tally:
    """Counts; a liquidation has ended when its whole position was filled or deleveraged.

    Of those that ended, a part of `deleveraged` was deleveraged, `filled` were filled alone.
    `foreign` are orders and triggers on instruments that are not traded here, `refused` records of
    this run that the fund sent to dead letters, the first of them because of `first_refusal`.
    """

    started: int = 0
    filled: int = 0
    deleveraged: int = 0
    orders: int = 0
    triggers: int = 0
    fills: int = 0
    executions: int = 0
    ordinary_fills: int = 0
    foreign: int = 0
    refused: int = 0
    first_refusal: str | None = None
    _open: dict[str, _Open] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Return how many liquidations have ended."""
        return self.filled + self.deleveraged

    @exact
    def add(self, said: Iterable[Said]) -> None:
        """Count what was said."""
        for _, message in said:
            match message:
                case msg.PositionTakenOver():
                    self.started += 1
                    self._open[message.liquidation_id] = _Open(number(message.quantity))
                case msg.Fill():
                    self.fills += 1
                    self._close(message, deleveraged=False)
                case msg.AdlExecuted():
                    self.executions += 1
                    self._close(message, deleveraged=True)
                case OrdinaryFill():
                    self.ordinary_fills += 1
                case _:
                    pass

    def _close(self, message: msg.Fill | msg.AdlExecuted, *, deleveraged: bool) -> None:
        position = self._open.get(message.liquidation_id)
        if position is None:
            return  # of an earlier run, or closed already
        position.left -= number(message.quantity)
        position.deleveraged = position.deleveraged or deleveraged
        if position.left <= ZERO:
            del self._open[message.liquidation_id]
            self.deleveraged += position.deleveraged
            self.filled += not position.deleveraged
