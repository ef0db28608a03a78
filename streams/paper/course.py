"""The course of a crash: where prices stand at each moment, and the tape of trades along it.

Prices are counted in ticks, shares in millionths; nothing is a fraction that a machine could round
in its own way.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from insurance_fund.events.amounts import number
from insurance_fund.streams.paper.draws import Draws
from insurance_fund.streams.paper.tape import Trade

# 2026-01-02T00:00:00Z
START_MS: Final = 1_767_312_000_000
WHOLE: Final = 1_000_000


class Instrument(NamedTuple):
    """An instrument of the market.

    `start_ticks` is its price at the start, `maintenance` its maintenance margin in millionths of
    notional, `beta` how far it falls in percent of the course, `weight` its share of the
    liquidations, `trade_notional` the size of an ordinary trade in quote currency.
    """

    name: str
    contract_size: str
    tick_size: str
    start_ticks: int
    maintenance: int
    beta: int
    weight: int
    trade_notional: int


class Point(NamedTuple):
    """A moment: the price as a share of the start's, the size of trades, half a spread."""

    time_ms: int
    share: int
    depth: int
    spread: int


class _Phase(NamedTuple):
    """Waves that go a way in a time, and back by a share of it; all least and most."""

    waves: int
    move: tuple[int, int]
    move_ms: tuple[int, int]
    back_percent: tuple[int, int]
    back_ms: tuple[int, int]
    depth: int
    spread: int


# Calm, a slide, the fall with a jump in its middle and one at its end, the rebound, what follows,
# and a minute in which the last orders end. Bids thin out in the fall, and most in the jumps.
_PHASES: Final = (
    _Phase(8, (-2_500, 2_500), (20_000, 40_000), (30, 110), (10_000, 30_000), WHOLE, 60),
    _Phase(4, (-8_000, -4_000), (10_000, 20_000), (20, 60), (8_000, 20_000), 600_000, 150),
    _Phase(8, (-24_000, -8_000), (6_000, 16_000), (20, 60), (8_000, 20_000), 200_000, 400),
    _Phase(1, (-45_000, -35_000), (4_000, 6_000), (25, 40), (15_000, 25_000), 100_000, 1_000),
    _Phase(8, (-24_000, -8_000), (6_000, 16_000), (20, 60), (8_000, 20_000), 200_000, 400),
    _Phase(1, (-60_000, -45_000), (4_000, 6_000), (50, 70), (20_000, 30_000), 100_000, 1_200),
    _Phase(8, (6_000, 16_000), (8_000, 20_000), (20, 60), (10_000, 25_000), 300_000, 250),
    _Phase(10, (-3_000, 6_000), (20_000, 40_000), (20, 60), (10_000, 30_000), 800_000, 100),
    _Phase(1, (0, 0), (60_000, 60_000), (0, 0), (1_000, 1_000), WHOLE, 60),
)
# Time between two trades of an instrument.
_PAUSE_MS: Final = (50, 550)
# Most trades are small, some are ten times as large.
_SIZES: Final = (1, 1, 1, 2, 3, 10)


def draw_course(draws: Draws) -> list[Point]:
    """Draw a course: the phases of a crash one after the other, each wave of its own size."""
    time_ms, share = START_MS, WHOLE
    points = [Point(time_ms, share, _PHASES[0].depth, _PHASES[0].spread)]
    for phase in _PHASES:
        for _ in range(phase.waves):
            move = draws.between(*phase.move)
            time_ms += draws.between(*phase.move_ms)
            share += move
            points.append(Point(time_ms, share, phase.depth, phase.spread))
            time_ms += draws.between(*phase.back_ms)
            share -= move * draws.between(*phase.back_percent) // 100
            points.append(Point(time_ms, share, 2 * phase.depth, phase.spread // 2))
    return points


def draw_tape(draws: Draws, instrument: Instrument, course: Sequence[Point]) -> Iterator[Trade]:
    """Draw the trades of an instrument from the start of a course to its end."""
    time_ms, end_ms, noise = START_MS, course[-1].time_ms, 0
    tick, size = number(instrument.tick_size), number(instrument.contract_size)
    while (time_ms := time_ms + draws.between(*_PAUSE_MS)) < end_ms:
        point = _at(course, time_ms)
        # A walk that is drawn back to the course.
        noise += draws.between(-point.spread, point.spread) - noise // 16
        share = WHOLE - (WHOLE - point.share) * instrument.beta // 100
        share += noise + draws.pick((-1, 1)) * point.spread
        price = instrument.start_ticks * share // WHOLE * tick
        notional = instrument.trade_notional * point.depth // WHOLE
        notional = notional * draws.pick(_SIZES) * draws.between(20, 180) // 100
        quantity = notional // (price * size)
        if quantity:
            yield Trade(time_ms, instrument.name, price, quantity)


def _at(course: Sequence[Point], time_ms: int) -> Point:
    index = bisect.bisect_right(course, time_ms, key=lambda point: point.time_ms)
    before, after = course[index - 1], course[index]
    done, whole = time_ms - before.time_ms, after.time_ms - before.time_ms
    share, depth, spread = (
        old + (new - old) * done // whole for old, new in zip(before[1:], after[1:], strict=True)
    )
    return Point(time_ms, share, depth, spread)
