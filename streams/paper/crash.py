"""The synthetic market: a crash of some twenty percent, and who is liquidated in it.

Three instruments of one margin currency fall together, the smaller ones further, and rebound. Each
price that a fall goes through liquidates as many longs as any other, each price of a rise as many
shorts. An account's entry price and margin are such that at the mark price of its takeover it has
exactly its maintenance margin left.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import ONE, amount_text, exact, floor_div, floor_scale, number
from insurance_fund.events.fields import PositionSide
from insurance_fund.streams.paper.course import (
    START_MS,
    WHOLE,
    Instrument,
    Point,
    draw_course,
    draw_tape,
)
from insurance_fund.streams.paper.draws import Draws
from insurance_fund.streams.paper.market import Market, deposit
from insurance_fund.streams.paper.tape import Trade

CURRENCY: Final = "USDT"
SCALE: Final = 6
FUND: Final = "120000"
CLOSING_FEE_RATE: Final = "0.0005"
ADL_UNFILLED_ONE_IN: Final = 20
LIQUIDATIONS_MAX: Final = 100_000
INSTRUMENTS: Final = (
    Instrument("BTCUSDT", "0.001", "0.1", 968_420, 4_000, 100, 5, 24_000),
    Instrument("ETHUSDT", "0.01", "0.01", 341_275, 5_000, 125, 3, 15_000),
    Instrument("SOLUSDT", "0.1", "0.01", 19_384, 10_000, 150, 2, 8_000),
)
# What the liquidated positions come to, however many they are.
_NOTIONAL: Final = 60_000_000
_SHORTS_PERCENT: Final = 18
_LEVERAGES: Final = (3, 5, 10, 20, 25, 50, 100)
# Nobody entered at a price further than this beyond what was traded, in percent.
_REACH_PERCENT: Final = 1
# Some twelve seconds of trades.
_MARK_TRADES: Final = 40
# Sizes of positions spread over this many powers of two.
_POWERS: Final = 10
_SIZE: Final = (1_000, 2_000)
_SIZE_MEAN: Final = 1_500 * (2**_POWERS - 1) // _POWERS


@exact
def crash(seed: int, liquidations: int, run: str = "") -> Market:
    """Make the market of a seed, the same whenever it is made, with so many liquidations in it.

    `run` stands in every id, in front of what tells one from the other.
    """
    draws = Draws(seed)
    course = draw_course(draws)
    tapes = [list(draw_tape(draws, instrument, course)) for instrument in INSTRUMENTS]
    return Market(
        instruments=[_defined(instrument, run) for instrument in INSTRUMENTS],
        deposits=[deposit(CURRENCY, FUND, START_MS, run)],
        takeovers=_takeovers(draws, course, tapes, liquidations, run),
        trades=sorted((trade for tape in tapes for trade in tape), key=lambda one: one.time_ms),
        adl_unfilled_one_in=ADL_UNFILLED_ONE_IN,
    )


def _defined(instrument: Instrument, run: str) -> msg.InstrumentDefined:
    return msg.InstrumentDefined(
        event_id=f"define-{run}{instrument.name}",
        event_time_ms=START_MS,
        margin_currency=CURRENCY,
        instrument_id=instrument.name,
        contract_type="linear",
        contract_size=instrument.contract_size,
        tick_size=instrument.tick_size,
        quantity_step="1",
        closing_fee_rate=CLOSING_FEE_RATE,
    )


class _Traded:
    """What an instrument had traded at by a time, in ticks: its mark price, lowest and highest.

    The mark price follows what is traded, as an exchange's does: it is the mean of some trades.
    """

    def __init__(self, instrument: Instrument, tape: Sequence[Trade]) -> None:
        tick = number(instrument.tick_size)
        ticks = [int(trade.price // tick) for trade in tape]
        sums = list(accumulate(ticks, initial=0))
        marks = []
        for end in range(1, len(sums)):
            start = max(0, end - _MARK_TRADES)
            marks.append((sums[end] - sums[start]) // (end - start))
        self._times = [trade.time_ms for trade in tape]
        self._prices = list(zip(marks, accumulate(ticks, min), accumulate(ticks, max), strict=True))

    def at(self, time_ms: int) -> tuple[int, int, int]:
        return self._prices[max(0, bisect.bisect_right(self._times, time_ms) - 1)]


def _takeovers(
    draws: Draws,
    course: Sequence[Point],
    tapes: Sequence[Sequence[Trade]],
    liquidations: int,
    run: str,
) -> list[msg.PositionTakenOver]:
    drawn: list[tuple[int, PositionSide]] = []
    for _ in range(liquidations):
        short = draws.below(100) < _SHORTS_PERCENT
        drawn.append((_moment(draws, course, 1 if short else -1), "short" if short else "long"))
    markets = list(zip(INSTRUMENTS, map(_Traded, INSTRUMENTS, tapes), strict=True))
    weighted = [market for market in markets for _ in range(market[0].weight)]
    width = max(4, len(str(liquidations)))
    takeovers = []
    for count, (time_ms, side) in enumerate(sorted(drawn), start=1):
        instrument, traded = draws.pick(weighted)
        mark, lowest, highest = traded.at(time_ms)
        entry = _entry(draws, instrument, side, mark, range(lowest, highest + 1))
        notional = _NOTIONAL // liquidations * (draws.between(*_SIZE) << draws.below(_POWERS))
        account = _Account(instrument, side, mark, entry, notional // _SIZE_MEAN)
        takeovers.append(_takeover(f"{run}{count:0{width}d}", time_ms, account))
    return takeovers


def _moment(draws: Draws, course: Sequence[Point], sign: int) -> int:
    """Draw a moment at which the course rises (1) or falls (-1), evenly over its prices."""
    moves = [sign * (after.share - before.share) for before, after in pairwise(course)]
    left = draws.below(sum(move for move in moves if move > 0))
    for (before, after), move in zip(pairwise(course), moves, strict=True):
        if move <= 0:
            continue
        if left < move:
            return before.time_ms + (after.time_ms - before.time_ms) * left // move
        left -= move
    raise AssertionError("what is drawn lies within the moves")


def _entry(
    draws: Draws, instrument: Instrument, side: PositionSide, mark: int, traded: range
) -> int:
    """Draw a leverage and return the entry price, in ticks, from which `mark` ends the account.

    With maintenance margin m and leverage l it is P (1 - m) / (1 - 1 / l) for a long, and
    P (1 + m) / (1 + 1 / l) for a short; only prices that were traded, or nearly, are drawn from.
    """
    sign = 1 if side == "long" else -1
    kept = WHOLE - sign * instrument.maintenance
    # The initial margin of a new position is at least twice the maintenance margin.
    allowed = [one for one in _LEVERAGES if 2 * one * instrument.maintenance <= WHOLE]
    entries = [mark * kept * one // (WHOLE * (one - sign)) for one in allowed]
    reach = mark * _REACH_PERCENT // 100
    reached = [e for e in entries if traded.start - reach <= e <= traded.stop + reach]
    return draws.pick(reached or entries[-1:])


class _Account(NamedTuple):
    """Who is liquidated: prices in ticks, notional in quote currency."""

    instrument: Instrument
    side: PositionSide
    mark: int
    entry: int
    notional: int


def _takeover(name: str, time_ms: int, account: _Account) -> msg.PositionTakenOver:
    instrument, side, mark, entry, notional = account
    tick, size = number(instrument.tick_size), number(instrument.contract_size)
    quantity = max(ONE, floor_div(Decimal(notional), mark * tick * size))
    sign = 1 if side == "long" else -1
    # Margin + PnL(entry -> mark) is the maintenance margin.
    left = Decimal(mark * instrument.maintenance - sign * (mark - entry) * WHOLE) / WHOLE
    margin = floor_scale(left * tick * size * quantity, SCALE)
    return msg.PositionTakenOver(
        event_id=f"takeover-{name}",
        event_time_ms=time_ms,
        margin_currency=CURRENCY,
        liquidation_id=f"liq-{name}",
        account_id=f"acc-{name}",
        instrument_id=instrument.name,
        position_side=side,
        quantity=amount_text(quantity),
        entry_price=amount_text(entry * tick),
        margin=amount_text(margin),
        mark_price=amount_text(mark * tick),
    )
