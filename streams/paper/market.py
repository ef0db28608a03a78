"""A market: all that happens on it whatever the fund does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

from msgspec.structs import replace

from insurance_fund.events import messages as msg
from insurance_fund.streams.paper.tape import Trade

MessageT = TypeVar("MessageT", bound=msg.Message)
DEPOSIT_MEMO: Final = "what the fund begins with"
# How much faster than the rest a calm beginning is played.
CALM_SPEED: Final = 12


@dataclass(frozen=True, slots=True)
class Market:
    """Instruments, money for the fund, takeovers, and the tape; each in order of its times.

    Of `adl_unfilled_one_in` ADL triggers about one finds nobody at first, none where it is 0.
    Raises ValueError, with both times, for takeovers or trades that go back in time.
    """

    instruments: Sequence[msg.InstrumentDefined]
    deposits: Sequence[msg.FundDeposit]
    takeovers: Sequence[msg.PositionTakenOver]
    trades: Sequence[Trade]
    adl_unfilled_one_in: int = 0

    def __post_init__(self) -> None:
        _check_order("the takeovers", (takeover.event_time_ms for takeover in self.takeovers))
        _check_order("the tape", (trade.time_ms for trade in self.trades))

    def played(self, start_ms: int, speed: float, calm_ms: int = 0) -> Market:
        """Return this market as it happens from `start_ms` on, `speed` times as fast.

        It begins with its first instrument; what happens within `calm_ms` of that goes by
        `CALM_SPEED` times as fast again.
        """
        begin_ms = self.instruments[0].event_time_ms

        def at(time_ms: int) -> int:
            calm = min(time_ms - begin_ms, calm_ms)
            return start_ms + int((time_ms - begin_ms - calm + calm / CALM_SPEED) / speed)

        def said(messages: Sequence[MessageT]) -> list[MessageT]:
            return [replace(one, event_time_ms=at(one.event_time_ms)) for one in messages]

        return Market(
            instruments=said(self.instruments),
            deposits=said(self.deposits),
            takeovers=said(self.takeovers),
            trades=[trade._replace(time_ms=at(trade.time_ms)) for trade in self.trades],
            adl_unfilled_one_in=self.adl_unfilled_one_in,
        )


def _check_order(what: str, times_ms: Iterable[int]) -> None:
    for before_ms, time_ms in pairwise(times_ms):
        if time_ms < before_ms:
            raise ValueError(f"{what} go back in time: {time_ms} stands behind {before_ms}")


def deposit(margin_currency: str, amount: str, time_ms: int, run: str = "") -> msg.FundDeposit:
    """Return the money that the fund of a currency begins with; `run` makes its id another."""
    name = f"begin-{run}{margin_currency}"
    return msg.FundDeposit(
        event_id=name,
        event_time_ms=time_ms,
        margin_currency=margin_currency,
        transfer_id=name,
        amount=amount,
        memo=DEPOSIT_MEMO,
    )
