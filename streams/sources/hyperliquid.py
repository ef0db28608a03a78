"""Hyperliquid: its files of 2023, read as takeovers and as the tape to close them on.

`liquidations.csv` says what accounts had when they were liquidated, `non_mm_trades.csv` holds the
fills of all accounts but market makers. By some of these fills, the *legs*, a liquidated account
hands its positions to the exchange's liquidator: they become takeovers, and stay out of the tape.

A trade between two of these accounts stands in the file twice, once from each side, and is one
trade of the tape; so is the trade of an account with itself.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import SCALE_MAX, amount_text, exact, unit
from insurance_fund.events.errors import SettingsError
from insurance_fund.fund.policy import DAY_MS, DEFAULT_CURRENCIES
from insurance_fund.streams.paper.tape import Trade
from insurance_fund.streams.sources.cells import Remark, decimals
from insurance_fund.streams.sources.hyperliquid_legs import (
    MARGIN_CURRENCY,
    legs_of,
    mismatch_of,
    takeover_of,
)
from insurance_fund.streams.sources.hyperliquid_rows import (
    TradeRow,
    read_liquidations,
    read_trades,
)

# The longest pause of the whole tape is two days: in a week some of it is missing.
GAP_MS: Final = 7 * DAY_MS


@dataclass(frozen=True, slots=True)
class HyperliquidTape:
    """What the files of a folder come to.

    `takeovers` are one a leg, `trades` the tape without them; both are in order of time, and of the
    files within one. `notes` name those of the `liquidations` rows of the one file whose fills are
    not at the bankruptcy price that the row says, with the reason; `untraded` the legs in coins
    that the tape has no trade of. `two_sided` trades of the tape stand twice among the `rows` of
    the other file.

    A policy takes all of it, and exactly, whose `scale` of the currency and `event_jump_ms_max`
    are at least `scale` and `event_jump_ms`.
    """

    instruments: Sequence[msg.InstrumentDefined]
    takeovers: Sequence[msg.PositionTakenOver]
    trades: Sequence[Trade]
    notes: Sequence[Remark]
    untraded: Sequence[Remark]
    liquidations: int
    rows: int
    two_sided: int
    scale: int
    event_jump_ms: int


@exact
def read_backtest(directory: Path) -> HyperliquidTape:
    """Read `liquidations.csv` and `non_mm_trades.csv` of a folder.

    Instruments are inferred: linear, of one coin, with a tick as fine as the finest price of the
    tape and a step as fine as the finest size. Raises SettingsError with file, line and column for
    what cannot be used, a tape with a gap of more than GAP_MS among it.
    """
    liquidations, rows = read_liquidations(directory), read_trades(directory)
    _check_gaps(rows)
    fills: dict[str, list[TradeRow]] = {row.account_id: [] for row in liquidations}
    for row in rows:
        if row.account_id in fills:
            fills[row.account_id].append(row)
    takeovers: list[msg.PositionTakenOver] = []
    legs: list[TradeRow] = []
    notes: list[Remark] = []
    for liquidation in liquidations:
        its_fills = fills[liquidation.account_id]
        its_legs = legs_of(liquidation, its_fills)
        takeovers += (takeover_of(liquidation, leg, its_legs) for leg in its_legs)
        legs += its_legs
        reason = mismatch_of(liquidation, its_legs, its_fills)
        if reason is not None:
            text = f"liquidation {liquidation.number}: {reason}"
            notes.append(Remark(liquidation.file, liquidation.line, text))
    tape = list(_trades(rows, {leg.line for leg in legs}))
    return HyperliquidTape(
        instruments=_instruments(rows[0].time_ms, [row for row, _ in tape], legs),
        takeovers=tuple(takeovers),
        trades=tuple(Trade(row.time_ms, row.coin, row.price, row.quantity) for row, _ in tape),
        notes=tuple(notes),
        untraded=tuple(_untraded({row.coin for row, _ in tape}, legs)),
        liquidations=len(liquidations),
        rows=len(rows),
        two_sided=sum(other is not None for _, other in tape),
        scale=_scale(rows),
        event_jump_ms=_event_jump_ms(rows, takeovers),
    )


def _trades(rows: Sequence[TradeRow], legs: Set[int]) -> Iterator[tuple[TradeRow, TradeRow | None]]:
    """Yield each trade but the takeovers: its first row, and the one from its other side."""
    for _, second in groupby(rows, key=attrgetter("time_ms")):
        trades = list(second)
        others = _two_sided(trades)
        for row in trades:
            other = others.get(row.line)
            is_seen = other is not None and other.line < row.line
            is_leg = row.line in legs or (other is not None and other.line in legs)
            if not is_seen and not is_leg:
                yield row, other


def _two_sided(rows: Sequence[TradeRow]) -> dict[int, TradeRow]:
    # Of the two sides of a trade one crossed the spread and the other did not.
    resting: defaultdict[tuple[Any, ...], deque[TradeRow]] = defaultdict(deque)
    for row in rows:
        if not row.crossed:
            resting[row.coin, row.price, row.quantity, row.buys].append(row)
    others: dict[int, TradeRow] = {}
    for row in rows:
        if row.crossed and (found := resting[row.coin, row.price, row.quantity, not row.buys]):
            other = found.popleft()
            others[row.line], others[other.line] = other, row
    return others


def _instruments(
    start_ms: int, tape: Sequence[TradeRow], legs: Sequence[TradeRow]
) -> tuple[msg.InstrumentDefined, ...]:
    # Legs are priced finer than an order can be; they count where nothing else was traded.
    ticks = _finest(legs) | _finest(tape)
    return tuple(
        msg.InstrumentDefined(
            event_id=f"hl-{coin}",
            event_time_ms=start_ms,
            margin_currency=MARGIN_CURRENCY,
            instrument_id=coin,
            contract_type="linear",
            contract_size="1",
            tick_size=amount_text(unit(ticks[coin][0])),
            quantity_step=amount_text(unit(step)),
            closing_fee_rate="0",
        )
        for coin, (_, step) in sorted(_finest([*tape, *legs]).items())
    )


def _finest(rows: Sequence[TradeRow]) -> dict[str, tuple[int, int]]:
    """Return by coin the most decimals of a price and of a quantity."""
    finest: dict[str, tuple[int, int]] = {}
    for row in rows:
        price, quantity = finest.get(row.coin, (0, 0))
        finest[row.coin] = (
            max(price, decimals(amount_text(row.price))),
            max(quantity, decimals(amount_text(row.quantity))),
        )
    return finest


def _untraded(traded: Set[str], legs: Sequence[TradeRow]) -> Iterator[Remark]:
    for leg in legs:
        if leg.coin not in traded:
            text = f"{leg.coin} was taken over, and the tape has no trade in it that could close it"
            yield Remark(leg.file, leg.line, text)


def _check_gaps(rows: Sequence[TradeRow]) -> None:
    # Whoever is liquidated where the tape is missing would be deleveraged for want of it.
    for before, row in pairwise(rows):
        gap_ms = row.time_ms - before.time_ms
        if gap_ms > GAP_MS:
            raise SettingsError(
                f"{row.file}, line {row.line}, time: there is no trade in the {gap_ms // DAY_MS} "
                "days before this one, so part of the tape is missing; cut both files there and "
                "play each part"
            )


def _scale(rows: Sequence[TradeRow]) -> int:
    """Return the decimals in which every price times quantity is exact, as far as any has them."""
    finest = max(price + quantity for price, quantity in _finest(rows).values())
    return min(max(finest, DEFAULT_CURRENCIES[MARGIN_CURRENCY].scale), SCALE_MAX)


def _event_jump_ms(rows: Sequence[TradeRow], takeovers: Sequence[msg.PositionTakenOver]) -> int:
    """Return the longest time between two records that a fund may see."""
    traded_ms = [row.time_ms for row in rows]
    # The fund sees no trades: from one takeover to the next nothing may come to it.
    seen_ms = [traded_ms[0], *(takeover.event_time_ms for takeover in takeovers)]
    return max((b - a for times in (traded_ms, seen_ms) for a, b in pairwise(times)), default=0)
