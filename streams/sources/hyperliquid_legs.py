"""The legs of a Hyperliquid liquidation: found among the account's fills, read as takeovers.

With N the notional of the account's positions at their mark prices and A its equity there, a leg
is filled at its mark price times `1 - s A / N` (s = +1 long, -1 short), of which six significant
digits, and at most six decimals, are kept: its bankruptcy price, if the equity is shared in
proportion to notional. For legs of one side that comes to `sum of fill notionals = N - s A`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events.amounts import ONE, ZERO, amount_text, floor_to
from insurance_fund.events.errors import SettingsError
from insurance_fund.fund.contracts import PRICE_DIGITS
from insurance_fund.streams.sources.hyperliquid_rows import LiquidationRow, TradeRow

MARGIN_CURRENCY: Final = "USDC"
_DIGITS_KEPT: Final = 6
_DECIMALS_KEPT: Final = 6


def legs_of(liquidation: LiquidationRow, fills: Sequence[TradeRow]) -> list[TradeRow]:
    """Return those of the account's fills by which its positions were taken over.

    They are those of the same second in which the other side crossed the spread. Raises
    SettingsError where two of them are of one coin.
    """
    legs: dict[str, TradeRow] = {}
    for fill in fills:
        if fill.time_ms == liquidation.time_ms and not fill.crossed:
            first = legs.setdefault(fill.coin, fill)
            if first is not fill:
                raise SettingsError(
                    f"{fill.file}, line {fill.line}, coin: line {first.line} is a fill of this "
                    f"account in {fill.coin} at the same time, that of its liquidation, and which "
                    "one is the takeover cannot be told; leave one of the two"
                )
    return list(legs.values())


def takeover_of(
    liquidation: LiquidationRow, leg: TradeRow, legs: Sequence[TradeRow]
) -> msg.PositionTakenOver:
    """Return the takeover of a leg, in contracts of one coin.

    A single leg at its bankruptcy price is taken over at the mark price, with A as its margin. Any
    other is taken over at the price of its fill, with nothing left: A belongs to several positions.
    """
    mark_price = None
    entry_price, margin = leg.price, ZERO
    if _at_bankruptcy(liquidation, legs):
        if len(legs) == 1 and liquidation.equity >= 0:
            mark_price = floor_to(liquidation.notional, leg.quantity, PRICE_DIGITS)
            entry_price, margin = mark_price, liquidation.equity
        else:
            left = liquidation.notional - _sign(leg) * liquidation.equity
            mark_price = floor_to(leg.price * liquidation.notional, left, PRICE_DIGITS)
    name = f"hl-{liquidation.number}-{leg.coin}"
    return msg.PositionTakenOver(
        event_id=f"{name}-taken-over",
        event_time_ms=liquidation.time_ms,
        margin_currency=MARGIN_CURRENCY,
        liquidation_id=name,
        account_id=liquidation.account_id,
        instrument_id=leg.coin,
        position_side="short" if leg.buys else "long",
        quantity=amount_text(leg.quantity),
        entry_price=amount_text(entry_price),
        margin=amount_text(margin),
        bankruptcy_price=amount_text(leg.price),
        mark_price=None if mark_price is None else amount_text(mark_price),
    )


def mismatch_of(
    liquidation: LiquidationRow, legs: Sequence[TradeRow], fills: Sequence[TradeRow]
) -> str | None:
    """Say why the fill notionals of the legs are not N -/+ A, or return None where they are."""
    if not legs:
        return "the account has no fill at that time: nothing is taken over"
    longs = sum(not leg.buys for leg in legs)
    shorts = len(legs) - longs
    if _at_bankruptcy(liquidation, legs):
        if not longs or not shorts:
            return None
        return (
            f"legs of both sides ({longs} long, {shorts} short), so that their fills do not sum to "
            "notional -/+ equity; each is at its bankruptcy price if the equity is shared by "
            "notional, and is taken over there"
        )
    filled = sum((leg.price * leg.quantity for leg in legs), ZERO)
    kept = _kept(liquidation, fills)
    return (
        f"{amount_text(filled)} was taken over, but the account is said to have had "
        f"{amount_text(liquidation.notional)} with an equity of {amount_text(liquidation.equity)}; "
        + (f"it kept {kept}, counted in these figures" if kept else "it kept no position")
        + ": taken over at the price of the fill"
    )


def _at_bankruptcy(liquidation: LiquidationRow, legs: Sequence[TradeRow]) -> bool:
    # With f the fill notional of a leg, N = sum of f N / (N - s A); here times the denominators.
    notional, equity = liquidation.notional, liquidation.equity
    if not -notional < equity < notional:
        return False
    whole = (notional - equity) * (notional + equity)
    slack = ZERO
    for leg in legs:
        other = notional + _sign(leg) * equity
        whole -= leg.price * leg.quantity * other
        slack += _last_digit(leg.price) * leg.quantity * other
    return abs(whole) <= slack


def _sign(leg: TradeRow) -> Decimal:
    return -ONE if leg.buys else ONE


def _last_digit(price: Decimal) -> Decimal:
    return ONE.scaleb(max(price.adjusted() - _DIGITS_KEPT + 1, -_DECIMALS_KEPT))


def _kept(liquidation: LiquidationRow, fills: Sequence[TradeRow]) -> str:
    positions: dict[str, Decimal] = {}
    for fill in fills:
        if fill.time_ms <= liquidation.time_ms:
            quantity = fill.quantity if fill.buys else -fill.quantity
            positions[fill.coin] = positions.get(fill.coin, ZERO) + quantity
    return ", ".join(
        f"{amount_text(abs(quantity))} {coin} {'long' if quantity > 0 else 'short'}"
        for coin, quantity in sorted(positions.items())
        if quantity
    )
