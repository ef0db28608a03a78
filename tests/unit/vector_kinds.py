"""The kinds of worked examples that are this system's job, each run through our own functions.

A runner takes a vector by its inputs alone and compares what the fund does with each expected field
that it knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from insurance_fund.events import effects as fx
from insurance_fund.events.amounts import ONE, ZERO, amount_text, exact, unit
from insurance_fund.events.fields import PositionSide
from insurance_fund.fund.contracts import (
    Price,
    closing_price,
    degenerate_limit,
)
from insurance_fund.fund.reservations import Books, needed
from tests.unit.vector_cases import (
    FINEST,
    HOURS_9_MS,
    MILLION,
    MOST,
    NAME,
    NO_CONCESSION_BINDS,
    SCALE,
    NotRunnableError,
    Position,
    Run,
    Vector,
    account,
    at_bankruptcy,
    claiming,
    decimals,
    floored,
    fraction,
    priced,
    said,
)


def bankruptcy_value_linear(vector: Vector) -> None:
    size, cash = vector.amount("position_size"), vector.amount("quote_balance")
    closed = vector.maybe("close_delta")
    closed = -size if closed is None else closed
    if "error" in vector.expected:
        refused_close(vector, size, "buy" if closed > 0 else "sell", abs(closed))
    else:
        compare_value(vector, account(size, cash), size, closed)


def compare_value(vector: Vector, position: Position, size: Decimal, closed: Decimal) -> None:
    """Compare the bankruptcy price, and the cash that moves when this much is closed at it."""
    price = position.bankruptcy_price()
    assert price is not None
    vector.compare("bankruptcy_unit_price", price)
    vector.compare("bankruptcy_cash_delta", -Fraction(closed) * price)
    takeover = position.takeover()
    cash = abs(Fraction(closed)) * price
    if floored(cash) == cash and floored(position.margin) == position.margin:
        assert takeover.worth(abs(closed), floored(cash)) == 0
    if size > 0 and price <= 0:
        one_tick = degenerate_limit(takeover, takeover.bankruptcy_price(), ONE, ONE)
        assert one_tick == position.tick
    if position.sendable:
        Run(position).take_over(position)
    else:
        vector.differs("no_message")


def bankruptcy_value_cross_margin(vector: Vector) -> None:
    """Take the share that the engine allocates (by maintenance margin) as the margin handed over.

    The allocation is the engine's and is worked out here; what follows from it is ours.
    """
    legs = vector.inputs["positions"]
    sizes = [Fraction(str(leg["size"])) for leg in legs]
    marks = [Fraction(str(leg["mark"])) for leg in legs]
    values = [size * mark for size, mark in zip(sizes, marks, strict=True)]
    needs = [abs(v) * Fraction(str(leg["mmf"])) for v, leg in zip(values, legs, strict=True)]
    equity = Fraction(vector.amount("quote_balance")) + sum(values)
    index = int(vector.inputs["close_index"])
    share = equity * needs[index] / sum(needs)
    vector.compare("net_collateral", equity)
    vector.compare("total_maintenance_margin", sum(needs, Fraction(0)))
    vector.compare("collateral_share_of_closed_position", share)
    size, mark = said(legs[index]["size"]), said(legs[index]["mark"])
    closed = -size if vector.inputs.get("close", "full") == "full" else vector.amount("close")
    closed = closed.copy_sign(-size)
    side: PositionSide = "long" if size > 0 else "short"
    compare_value(vector, Position(side, abs(size), mark, floored(share)), size, closed)


def bankruptcy_value_rounding(vector: Vector) -> None:
    """Ask which cash on the scale still leaves the fund without a loss when a part is closed."""
    scale = int(vector.maybe("amount_scale") or 6)
    size, cash = vector.amount("position_size"), vector.amount("quote_balance")
    closed = abs(vector.amount("close_size", "close_delta"))
    size = abs(size) if vector.side(size) == "long" else -abs(size)
    # An entry price that keeps the margin on the scale.
    entry = Decimal(10) ** decimals(size)
    position = Position(vector.side(size), abs(size), entry, cash + size * entry)
    price = position.bankruptcy_price()
    assert price is not None
    exact_cash = Fraction(closed) * price
    takeover, lower = position.takeover(scale), floored(exact_cash, scale)
    cents = [lower, lower + unit(scale)] if size > 0 else [lower + unit(scale), lower]
    least = next(cent for cent in cents if takeover.worth(closed, cent) >= 0)
    for name, theirs in vector.expected.items():
        if name.startswith(("exact_cash", "rounded_cash")):
            ours = exact_cash if name.startswith("exact") else least
            # Cash that is paid is written with or without its sign.
            vector.compare(name, -ours if str(theirs).startswith("-") else ours)


def refused_close(vector: Vector, size: Decimal, side: str, closed: Decimal) -> None:
    """Send a closing of the wrong side or size: it is rejected and nothing else changes."""
    position = Position("long" if size > 0 else "short", abs(size), Decimal(100))
    run = Run(position, Decimal(1000), concession=Decimal("0.01"))
    run.take_over(position)
    before = run.life.available(), run.life.reserved()
    run.send_fill(side, closed, Decimal(100))
    vector.notes.append(f"rejected: {run.life.only(fx.Rejected).reason}")
    assert (run.life.available(), run.life.reserved()) == before
    vector.compared.add("error")


def invalid_close_delta(vector: Vector) -> None:
    case = str(vector.inputs.get("case"))
    found = re.match(r"([+-]?[0-9.]+)(?: on ([+-]?[0-9.]+))?", case)
    if found is None:
        raise NotRunnableError(f"the case is prose: {case!r}")
    closed = said(found[1])
    refused_close(vector, said(found[2] or 1), "buy" if closed > 0 else "sell", abs(closed))


def insurance_delta_single_fill(vector: Vector) -> None:
    if "error" in vector.expected:
        of = vector.maybe("position_size") or ONE
        refused_close(vector, of, "sell" if of > 0 else "buy", vector.amount("size"))
        return
    signs = []
    for at in vector.inputs.get("bankruptcy_prices") or [vector.inputs.get("bankruptcy_price")]:
        quantity = vector.maybe("size", "quantity", "contracts")
        position = at_bankruptcy(vector, ONE if quantity is None else quantity, at)
        price = vector.amount("fill_price")
        run = Run(position)
        run.take_over(position)
        fee = fee_of(vector, position, position.quantity, price)
        ours = Decimal(run.fill(position, position.quantity, price, fee).delta)
        in_full = exact_delta(position, price) - Fraction(fee)
        assert 0 <= in_full - Fraction(ours) <= Fraction(FINEST), "not our floor"
        if in_full == 0 and ours:
            vector.differs("floor", ours=ours)
        signs.append("none" if in_full == 0 else "draw" if ours < 0 else "deposit")
        vector.compare("insurance_fund_delta_without_fee_cap", ours)
        vector.compare(
            "insurance_fund_delta", source_part(vector, position, position.quantity, price, ours)
        )
        closing = run.total - run.balance - run.shortfall
        assert closing == ours
    vector.compare("signs", signs)


def exact_delta(position: Position, price: Decimal | Fraction) -> Fraction:
    """Return M + PnL - the closing fee by the formulas of docs/rules.md 2, as a fraction."""
    face = Fraction(position.quantity * position.size)
    entry, at = Fraction(position.entry), Fraction(price)
    inverse = position.contract == "inverse"
    gain = face * (1 / entry - 1 / at) if inverse else face * (at - entry)
    fee = Fraction(position.fee_rate) * (face / at if inverse else face * at)
    return Fraction(position.margin) + position.sign * gain - fee


def fee_of(vector: Vector, position: Position, quantity: Decimal, price: Decimal) -> Decimal:
    fee = vector.maybe("fee")
    if fee is not None:
        return fee
    rate = vector.maybe("trading_fee_rate", "trade_fee_rate", "close_fee_rate", "fee_rate")
    return floored((rate or ZERO) * position.takeover().notional(quantity, price))


def source_part(
    vector: Vector, position: Position, quantity: Decimal, price: Decimal, ours: Decimal
) -> Decimal:
    """Return what the fund keeps of a delta where the source caps it by a fee on the notional."""
    ppm = vector.maybe("max_liquidation_fee_ppm")
    if ppm is None:
        return ours
    cap = floored(position.takeover().notional(quantity, price) * ppm / MILLION)
    if ours > cap:
        vector.differs("fee_cap", ours=amount_text(ours), source=amount_text(cap))
    return min(ours, cap)


def refusal(vector: Vector, answer: fx.CompensationReserved) -> str:
    """Return the source's word for the cap that is too small; of several the one it names."""
    claim = Decimal(answer.reserved) + Decimal(answer.unreserved)
    caps = {
        "INSUFFICIENT_FUND": answer.caps.fund,
        "ACCOUNT_LOSS_CAP": answer.caps.per_liquidation,
    }
    words = [word for word, cap in caps.items() if cap is not None and Decimal(cap) < claim]
    theirs = vector.expected.get("status")
    return theirs if theirs in words else words[0]


def insurance_delta_fill_sequence(vector: Vector) -> None:
    """Let the exchange ask for each fill by an order of its own: we say whether a cap binds.

    A source that refuses a fill is an exchange that does not send such an order. Where its fee cap
    leaves a part of the surplus to the account, that part is withdrawn, so that the next fill
    meets the source's balance.
    """
    position = at_bankruptcy(vector)
    balance = vector.maybe("fund_balance_before", "fund_balance")
    run = Run(position, balance, pricing="exchange", limit=vector.maybe("max_account_loss"))
    run.take_over(position)
    deltas, kept, refused = [], [], ""
    for number, asked in enumerate(vector.inputs["fills"]):
        quantity, price = said(asked["size"]), said(asked["price"])
        order = f"o{number}"
        run.life.submit(order, amount_text(price), amount_text(quantity), liquidation_id=NAME)
        answer = run.life.only(fx.CompensationReserved)
        if answer.binding_cap is not None:
            refused = refusal(vector, answer)
            run.life.report(order, "cancelled", "0", liquidation_id=NAME)
            break
        on: dict[str, Any] = {"order": order, "liquidation_id": NAME}
        fee = said(asked.get("fee", "0"))
        booked = run.fill(position, quantity, price, fee, **on)
        deltas.append(Decimal(booked.delta))
        kept.append(source_part(vector, position, quantity, price, deltas[-1]))
        run.transfer(kept[-1] - deltas[-1])
        assert not run.shortfall
    residual = ZERO
    if (liquidation := run.life.state.liquidations.get(NAME)) is not None:
        residual = liquidation.residual
    filled = position.quantity - residual
    assert run.total == run.balance + sum(kept, ZERO)
    vector.compare("per_fill_delta", kept)
    vector.compare("net_delta", sum(kept, ZERO))
    vector.compare("per_fill_delta_without_fee_cap", deltas)
    vector.compare("net_delta_without_fee_cap", sum(deltas, ZERO))
    vector.compare("gross_insurance_lost", sum((-d for d in deltas if d < 0), ZERO))
    vector.compare("filled_size", filled)
    vector.compare("fund_balance_after", run.total)
    vector.compare("status", refused or ("PARTIALLY_FILLED" if residual else "FILLED"))


def fund_sufficiency(vector: Vector) -> None:
    delta = vector.amount("insurance_fund_delta")
    position, _ = claiming(abs(delta))
    run = Run(position, vector.amount("fund_balance"), pricing="exchange")
    run.take_over(position)
    price = position.entry + delta
    run.life.submit("o1", amount_text(price), "1", liquidation_id=NAME)
    asked = run.life.only(fx.CompensationReserved)
    booked = run.fill(position, ONE, price, order="o1", liquidation_id=NAME)
    assert Decimal(booked.delta) == delta
    # What was found before the fill is what happens when it comes.
    assert Decimal(asked.unreserved) == run.shortfall == max(ZERO, -(run.balance + delta))
    assert run.total == max(ZERO, run.balance + delta)
    vector.compare("allowed", asked.unreserved == "0")


def fund_payment_ordering(vector: Vector) -> None:
    """Close the worse account at its bankruptcy price: the fund pays in the fill's own entry."""
    price, pool = vector.amount("fill_price"), vector.amount("pool_balance")
    accounts = {
        side: (said(vector.inputs[name]["size"]), said(vector.inputs[name]["cash"]))
        for side, name in (("short", "account_short"), ("long", "account_long"))
    }
    side, (size, cash) = min(accounts.items(), key=lambda a: a[1][1] + a[1][0] * price)
    position = account(size, cash)
    run = Run(position, vector.maybe("isolated_fund_balance", "fund_balance"))
    run.take_over(position)
    booked = run.fill(position, position.quantity, price)
    delta = Decimal(booked.delta)
    postings = run.life.last.entry.postings
    assert (
        Decimal(postings["fund:USDT:available"]) + Decimal(postings.get("fund:USDT:reserved", "0"))
        == delta
    )
    vector.compare("insurance_fund_delta", delta)
    vector.compare("pool_after_payment", pool - delta)
    # What is left to the account: its cash and what it pays or gets for the fill, less the delta.
    vector.compare(f"{side}_account_cash", cash + size * price - delta)


def account_loss_limit_remaining(vector: Vector) -> None:
    """Draw what was lost so far within one liquidation, then ask for its next order."""
    names = [name for name in vector.inputs if vector.maybe(name) is not None]
    if any("notional" in name for name in names):
        raise NotRunnableError(
            "a limit on the notional liquidated is the exchange's, not the fund's"
        )
    limit = vector.amount(*(name for name in names if name.startswith("max_")))
    lost = vector.amount(*(name for name in names if name.endswith("so_far")))
    position = Position("long", Decimal(2), 2 * lost or ONE)
    run = Run(position, pricing="exchange", limit=limit)
    run.take_over(position)
    for order, draw in (("o1", lost), ("o2", ZERO)):
        price = position.entry - draw
        run.life.submit(order, amount_text(price), "1", liquidation_id=NAME)
        remaining = run.life.only(fx.CompensationReserved).caps.per_liquidation
        run.fill(position, ONE, price, order=order, liquidation_id=NAME)
    assert remaining is not None
    vector.compare("remaining", Decimal(remaining))


def price_tick_alignment(vector: Vector) -> None:
    """Price an order without compensation for a position that is bankrupt at the raw price."""
    raw, tick, side = vector.amount("raw_price"), vector.amount("tick_size"), vector.side()
    entry, margin = (raw, ZERO) if raw > 0 else (tick, tick - raw)
    if side == "short" and raw <= 0:
        raise NotRunnableError("a short that is bankrupt at zero or below cannot be handed over")
    position = Position(side, ONE, entry, margin, tick=tick)
    run = Run(position, ZERO)
    run.take_over(position)
    price = run.order_price()
    if side == "short" and raw < tick:
        assert run.life.only(fx.AdlTriggered).reason == "no_order"
        vector.differs("below_one_tick")
    else:
        assert run.life.only(fx.OrderIssued).compensation == "0"
    if raw >= tick:
        assert price == position.takeover().contract.to_tick(Price(raw, ONE), side)
    vector.compare("order_price", price)


def adl_match(vector: Vector) -> None:
    """Compare the price of our trigger and what stays open; counterparties are the engine's.

    What the engine found (`match`, `fills`) is taken from the vector as its executions.
    """
    liquidated = vector.inputs["liquidated"]
    if not liquidated:
        raise NotRunnableError("about the counterparty's side; the position is not given")
    position = account(said(liquidated["size"]), said(liquidated["cash"]))
    run = Run(position)
    run.take_over(position)
    run.life.report(f"{NAME}:1", "expired", "0")
    trigger = run.life.only(fx.AdlTriggered)
    price = Decimal(trigger.price)
    assert (trigger.quantity, trigger.price_basis) == (
        amount_text(position.quantity),
        "bankruptcy_price",
    )
    taken = vector.expected.get("fills")
    if taken is None:
        taken = [vector.inputs["size"]] if vector.expected["match"] else []
    residual = position.quantity
    for number, quantity in enumerate(q for q in taken if Decimal(q)):
        run.life.adl(quantity, trigger.price, f"x{number}")
        executed = run.life.only(fx.AdlExecuted)
        assert executed.delta == "0"
        residual = Decimal(executed.residual)
    assert run.total == run.balance
    if vector.expected.get("price") is not None:
        vector.compare("price", price)
    vector.compare("cash_moved", (position.quantity - residual) * price)
    vector.compare("remaining", residual)
    if not vector.compared:
        raise NotRunnableError("only about the choice of counterparties")


def fund_draw_cap(vector: Vector) -> None:
    """Ask for the loss where the market's cap is its share of the window's highest balance.

    Of a fund of the cap times a power of two, that power's inverse is the share; this market loses
    what was used, another one the rest down to the vault.
    """
    loss, vault = vector.amount("loss"), vector.amount("fund_vault", "fund_balance")
    used = vector.maybe("market_insurance_used_so_far") or ZERO
    most = vector.maybe("market_max_insurance")
    share, top = ONE, vault + used
    if most is not None and most < top:
        top, share = (most, ONE) if most else (top, ZERO)
        while top < vault + used:
            top, share = top * 2, share * Decimal("0.5")
    position, concession = claiming(loss)
    floor = vector.maybe("min_residual") or ZERO
    run = Run(position, top, concession=concession, share=share, floor=floor)
    run.move("used", -used)
    run.move("others", -(run.total - vault), "OTHER")
    run.take_over(position)
    order = run.life.only(fx.OrderIssued)
    vector.notes.append(f"binding cap: {order.binding_cap}")
    booked = run.fill(position, ONE, Decimal(order.price))
    assert Decimal(booked.delta) == -Decimal(order.compensation)
    vector.compare("draw", vault - run.total)


def takeover_then_close(vector: Vector) -> None:
    margin = vector.maybe("remaining_margin_transferred", "remaining_margin") or ZERO
    entry = vector.maybe("takeover_mark_price", "entry_price")
    size = vector.amount("size")
    position = at_bankruptcy(vector, size, entry)
    fills = vector.inputs.get("fills") or [{"size": size, "price": vector.amount("fill_price")}]
    before = vector.maybe("fund_balance_before")
    closes = [(said(f["size"]), said(f["price"])) for f in fills]
    rate = vector.maybe("trading_fee_rate") or ZERO
    # The scale of the source's money: what its balances and values need; the fee is rounded to it.
    values = (
        before or ZERO,
        margin,
        position.quantity * position.entry,
        *(q * p for q, p in closes),
    )
    scale = int(vector.maybe("amount_scale") or min(SCALE, decimals(*values)))
    if position.contract == "inverse":
        scale = SCALE
    position = Position(
        position.side,
        position.quantity,
        position.entry,
        margin + position.margin,
        position.contract,
        position.size,
        fee_rate=rate,
    )
    run = Run(position, before, scale=scale)
    run.take_over(position)
    booked = [
        run.fill(position, quantity, price, fee_of(vector, position, quantity, price))
        for quantity, price in closes
    ]
    deltas = [Decimal(b.delta) for b in booked]
    vector.compare("close_pnl_vs_takeover", sum((Decimal(b.pnl) for b in booked), ZERO))
    vector.compare("fees_paid_by_fund", sum((Decimal(b.fee) for b in booked), ZERO))
    vector.compare("insurance_fund_delta", sum(deltas, ZERO))
    vector.compare("per_fill_delta", deltas)
    vector.compare("shortfall", run.shortfall)
    vector.compare("fund_balance_after", run.total)


def fund_amount_rounding(vector: Vector) -> None:
    deficit, one = vector.amount("deficit"), vector.maybe("unit") or ONE
    scale = decimals(one)
    if unit(scale) != one:
        raise NotRunnableError(f"units are powers of ten here, not {one}")
    entry = Decimal(math.ceil(deficit) + 1)
    position = Position("long", ONE, entry)
    run = Run(position, vector.maybe("fund_balance"), scale=scale)
    run.take_over(position)
    booked = run.fill(position, ONE, entry - deficit)
    assert Decimal(booked.delta) == floored(-deficit, scale)
    vector.compare("fund_draw", run.balance - run.total)
    vector.compare("residual_for_adl", run.shortfall)


def bankruptcy_price(vector: Vector) -> None:
    position = priced(vector)
    price = position.bankruptcy_price()
    vector.compare("bankruptcy_price_exact", price)
    vector.compare("fee_adjusted_bankruptcy_price", price)
    run = Run(position, ZERO)
    run.take_over(position)
    if "fee_adjusted_bankruptcy_price" in vector.expected:
        before_fee = position.takeover().bankruptcy_price(ZERO)
        vector.compare("bankruptcy_price", None if before_fee is None else fraction(before_fee))
    elif vector.has("tick_size"):
        vector.compare("bankruptcy_price", run.order_price())
    else:
        vector.compare("bankruptcy_price", price)


def closing_price_after_compensation(vector: Vector) -> None:
    position = priced(vector)
    takeover = position.takeover()
    bankrupt = takeover.bankruptcy_price()
    if bankrupt is None or bankrupt.numerator <= 0:
        raise NotRunnableError(
            "no compensation is given where there is no bankruptcy price above 0"
        )
    vector.compare("bankruptcy_price_exact", fraction(bankrupt))
    at_bankrupt = takeover.contract.to_tick(bankrupt, position.side)
    vector.compare("bankruptcy_price", at_bankrupt)
    compensation, conceded = vector.maybe("compensation"), vector.maybe("max_price_improvement")
    limit: Decimal | None
    if conceded is not None:
        run = Run(position, concession=conceded, limit=compensation)
        run.take_over(position)
        limit = run.order_price()
        granted = Decimal(run.life.only(fx.OrderIssued).compensation)
        vector.compare("max_fund_compensation", Fraction(granted) / position.times)
        vector.compare("closing_price_limit", limit)
    else:
        given = vector.amount("compensation") * floored(position.times)
        limit = compensated(vector, position, given)
    vector.compare("closing_price", limit)
    for name, price in (("bankruptcy", at_bankrupt), ("closing", limit)):
        if price is None:
            continue
        run = Run(position)
        run.take_over(position)
        delta = fill_in_halves(run, position, price)
        ours = Fraction(delta) / position.times
        vector.compare(f"fund_delta_if_filled_at_{name}_price", ours)
        claim = needed(takeover, Books(ZERO, ZERO, ZERO, ZERO), price, position.quantity)
        assert abs(claim - max(ZERO, -delta)) <= FINEST


def fill_in_halves(run: Run, position: Position, price: Decimal) -> Decimal:
    """Close at one price by two fills, each with its share of the margin; return both deltas."""
    half = floored(position.quantity / 2)
    first, second = (
        Decimal(run.fill(position, quantity, price, position.fee(quantity, price)).delta)
        for quantity in (half, position.quantity - half)
    )
    share = Fraction(half) / Fraction(position.quantity)
    assert abs(Fraction(first) - Fraction(first + second) * share) <= 3 * FINEST
    return first + second


def compensated(vector: Vector, position: Position, compensation: Decimal) -> Decimal | None:
    """Return the limit that a compensation allows, None where no price is too bad."""
    takeover, rest = position.takeover(), position.quantity
    bankrupt = takeover.bankruptcy_price()
    assert bankrupt is not None
    conceded = bankrupt.times(ONE - position.sign * MOST)
    assert takeover.concession_cost(MOST, rest) == floored(
        -exact_delta(position, fraction(conceded))
    )
    allowed = takeover.price_allowed_by(compensation, rest)
    vector.compare("closing_price_exact", None if allowed is None else fraction(allowed))
    if allowed is None:
        # What caps it here is the concession of the attempt.
        capped = closing_price(takeover, bankrupt, MOST, compensation, rest)
        assert capped == takeover.contract.to_tick(conceded, position.side)
        return None
    most = NO_CONCESSION_BINDS[position.side]
    limit = closing_price(takeover, bankrupt, most, compensation, rest)
    if compensation <= takeover.concession_cost(MOST, rest):
        run = Run(position, concession=MOST, limit=compensation)
        run.take_over(position)
        order = run.life.only(fx.OrderIssued)
        assert (Decimal(order.price), Decimal(order.compensation)) == (limit, compensation)
        assert order.binding_cap in ("per_liquidation", "price_concession")
    else:
        vector.differs("beyond_concession")
    return limit


def adl_price(vector: Vector) -> None:
    position = priced(vector)
    price = position.bankruptcy_price()
    vector.compare("bankruptcy_price", price)
    run = Run(position)
    run.take_over(position)
    run.life.report(f"{NAME}:1", "expired", "0")
    ours = Decimal(run.life.only(fx.AdlTriggered).price)
    mark, most = vector.maybe("mark_price"), vector.maybe("max_deviation")
    if mark is not None and most is not None and abs(ours - mark) > most * mark:
        vector.differs("adl_at_mark", apart=amount_text(ours - mark))
        vector.compare("adl_price", mark)
    else:
        vector.compare("adl_price", ours)


def adl_drawdown_trigger(vector: Vector) -> None:
    """Let a market lose what the vector says and see whether its share of the fund is used up.

    Triggered here means that the fund grants this market nothing more, so its orders go out at the
    bankruptcy price and end in ADL.
    """
    share = abs(vector.amount("insurance_pnl_ratio", "drop_limit"))
    pool = vector.maybe("pool_balance")
    top = vector.maybe("pool_max_balance_8h", "reference_balance_8h") or pool
    if not top or top < 0:
        raise NotRunnableError("the highest balance of the window is not given")
    peak = vector.maybe("symbol_pnl_max_8h") or ZERO
    loss = drawdown(vector, top, peak)
    position, concession = claiming(max(loss, ZERO))
    run = Run(position, max(ZERO, -peak), concession=concession, share=share)
    run.move("history", peak)
    if peak < 0:
        run.life.wait(HOURS_9_MS)
    run.transfer(top - run.total)
    run.take_over(position)
    order = run.life.only(fx.CompensationReserved)
    vector.compare("threshold", top - Decimal(order.caps.per_instrument))
    vector.compare("amount_adl_must_absorb", max(ZERO, loss) - Decimal(order.granted))
    run.fill(position, ONE, position.entry - loss)
    if pool is not None:
        if pool > top:
            raise NotRunnableError("the balance is above its own highest of the window")
        run.move("others", pool - run.total, "OTHER")
    run.take_over(claiming(ONE)[0], "next")
    spent = run.life.only(fx.CompensationReserved).caps.per_instrument == "0"
    market, now_ms = run.life.state.instruments["X"], run.life.now_ms
    fallen = market.delta - market.deltas.highest(now_ms, 8 * 3_600_000)
    vector.compare("pnl_ratio", Fraction(fallen) / Fraction(top))
    gate = vector.maybe("adl_trigger_threshold")
    if spent and pool is not None and gate is not None and pool <= gate:
        vector.differs("balance_gate", balance=amount_text(pool))
        spent = False
    vector.compare("triggered", spent)


def drawdown(vector: Vector, top: Decimal, peak: Decimal) -> Decimal:
    now, ratio = vector.maybe("symbol_pnl_now"), vector.maybe("pnl_ratio")
    if now is not None:
        return peak - now
    if ratio is not None:
        return floored(-ratio * top)
    return top - vector.amount("balance", "balance_now")


def adl_depletion_trigger(vector: Vector) -> None:
    """Ask an empty fund for compensation, then one that has got something again."""
    balance = vector.amount("pool_balance", "fund_balance")
    position, concession = claiming(Decimal(100))
    run = Run(position, max(ZERO, balance), concession=concession)
    run.move("lost", min(ZERO, balance))
    run.take_over(position)
    order = run.life.only(fx.OrderIssued)
    depleted = order.compensation == "0"
    if depleted:
        assert (order.price, order.binding_cap) == (amount_text(position.entry), "fund")
        run.life.report(order.order_id, "expired", "0")
        assert run.life.only(fx.AdlTriggered).quantity == "1"
    vector.compare("triggered", depleted)
    run.transfer(ONE)
    run.take_over(position, "next")
    granted = run.life.only(fx.OrderIssued).compensation
    vector.compare("stop_when", "pool_balance > 0" if granted != "0" else "never")


def shortfall(vector: Vector) -> None:
    position = at_bankruptcy(vector)
    balance = vector.maybe("fund_balance", "fund_balance_before") or ZERO
    run = Run(position, balance)
    run.take_over(position)
    price = vector.amount("fill_price")
    booked = run.fill(
        position, position.quantity, price, fee_of(vector, position, position.quantity, price)
    )
    assert run.total - run.shortfall == balance + Decimal(booked.delta)
    vector.compare("shortfall", run.shortfall)
    vector.compare("fund_draw", max(ZERO, balance - run.total))
    vector.compare("insurance_fund_delta", Decimal(booked.delta))
    vector.compare("fund_balance_after", run.total)


def fund_partial_cover(vector: Vector) -> None:
    """Ask for the whole loss: what is not granted is for ADL; had it been filled, a shortfall."""
    balance, loss = vector.amount("fund_balance"), vector.amount("shortfall", "loss")
    position, concession = claiming(loss)
    run = Run(position, balance, concession=concession)
    run.take_over(position)
    granted = Decimal(run.life.only(fx.OrderIssued).compensation)
    vector.compare("fund_draw", granted)
    vector.compare("residual_for_adl", loss - granted)
    run.fill(position, ONE, position.entry - loss)
    assert (run.balance - run.total, run.shortfall) == (granted, loss - granted)


def quanto_value(vector: Vector) -> None:
    price, factor = vector.amount("price"), vector.amount("multiplier", "contract_size")
    position = Position("long", vector.amount("contracts", "size"), price, ZERO, "quanto", factor)
    value = position.takeover().notional(position.quantity, price)
    vector.compare("value", value)
    if (rate := vector.maybe("initial_margin_rate")) is not None:
        vector.compare("initial_margin", value * rate)
    Run(position).take_over(position)


Runner = Callable[[Vector], None]
RUN: Final[dict[str, Runner]] = {
    "account_loss_limit_remaining": account_loss_limit_remaining,
    "adl_depletion_trigger": adl_depletion_trigger,
    "adl_drawdown_trigger": adl_drawdown_trigger,
    "adl_match": adl_match,
    "adl_price": adl_price,
    "bankruptcy_price_inverse": bankruptcy_price,
    "bankruptcy_price_linear": bankruptcy_price,
    "bankruptcy_value_cross_margin": bankruptcy_value_cross_margin,
    "bankruptcy_value_linear": bankruptcy_value_linear,
    "bankruptcy_value_rounding": bankruptcy_value_rounding,
    "closing_price_after_compensation": closing_price_after_compensation,
    "fee_adjusted_bankruptcy_price": bankruptcy_price,
    "fund_amount_rounding": fund_amount_rounding,
    "fund_draw_cap": fund_draw_cap,
    "fund_partial_cover": fund_partial_cover,
    "fund_payment_ordering": fund_payment_ordering,
    "fund_sufficiency": fund_sufficiency,
    "insurance_delta_fill_sequence": insurance_delta_fill_sequence,
    "insurance_delta_single_fill": insurance_delta_single_fill,
    "invalid_close_delta": invalid_close_delta,
    "price_tick_alignment": price_tick_alignment,
    "quanto_value": quanto_value,
    "shortfall": shortfall,
    "takeover_then_close": takeover_then_close,
}


@exact
def run(vector: Vector) -> None:
    """Run a vector of a kind of ours; raises AssertionError, NotRunnableError."""
    RUN[vector.kind](vector)
