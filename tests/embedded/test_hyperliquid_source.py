"""The Hyperliquid files of 2023, read as takeovers and a tape; the fund computes from them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import exact, is_multiple, number
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import ClockCause, PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import DAY_MS, parse_policy, policy_document
from insurance_fund.fund.state import State
from insurance_fund.streams.paper.tape import Trade
from insurance_fund.streams.sources.hyperliquid import HyperliquidTape, read_backtest

REAL = Path(__file__).parents[3] / "shared" / "data" / "hyperliquid-2023"
TWO_LEGS = (10, 12, 25, 49)
OTHERS = (26, 27, 54)

# A long of 10 ETH at a mark price of 100 with an equity of 10, handed over at 99.
LIQUIDATED = "2023-03-01T00:00:10Z,0xaa,1000,10,Cross"
LEG = "2023-03-01T00:00:10Z,0xaa,ETH,Ask,99,10,false"
LIQUIDATOR = "2023-03-01T00:00:10Z,0xff,ETH,Bid,99,10,true"
EARLIER = "2023-03-01T00:00:05Z,0xbb,ETH,Bid,100.5,0.25,true"
LATER = "2023-03-01T00:00:12Z,0xcc,ETH,Ask,99.5,4,false"
LIQUIDATIONS = "time,user,liquidated_ntl_pos,liquidated_account_value,leverage_type"
TRADES = "time,user,coin,side,px,sz,crossed"


def write(
    folder: Path,
    *trades: str,
    liquidations: Sequence[str] = (LIQUIDATED,),
    headers: tuple[str, str] = (LIQUIDATIONS, TRADES),
) -> Path:
    for name, lines in (
        ("liquidations.csv", [headers[0], *liquidations]),
        ("non_mm_trades.csv", [headers[1], *trades]),
    ):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def read(folder: Path, *trades: str, **files: Any) -> HyperliquidTape:
    return read_backtest(write(folder, *trades, **files))


def changed(row: str, column: int, cell: str) -> str:
    cells = row.split(",")
    cells[column] = cell
    return ",".join(cells)


@pytest.fixture(scope="module")
def real() -> HyperliquidTape:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not on this machine")
    return read_backtest(REAL)


def table(name: str) -> list[dict[str, str]]:
    with (REAL / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def policy_of(tape: HyperliquidTape) -> dict[str, Any]:
    """Return the policy with the decimals and the jump that the tape asks for."""
    currencies = {"USDC": {"scale": tape.scale}}
    return {"currencies": currencies, "event_jump_ms_max": tape.event_jump_ms}


def effects_of(tape: HyperliquidTape, policy: dict[str, Any] | None = None) -> list[fx.AnyEffect]:
    """Let a fund take instruments and takeovers in event time, deadlines in between."""
    keeper = Bookkeeper("main", State())
    document = policy_document(parse_policy(policy_of(tape) if policy is None else policy))
    keeper.policy(PolicyCause(document, {"USDC": "main"}, "event", RULES, "test"), 0)
    effects: list[fx.AnyEffect] = []
    now_ms = 0
    for offset, message in enumerate([*tape.instruments, *tape.takeovers]):
        is_instrument = isinstance(message, msg.InstrumentDefined)
        topic = topics.INSTRUMENTS if is_instrument else topics.LIQUIDATIONS
        while (due := keeper.state.schedule.first()) and due[0] <= message.event_time_ms:
            now_ms = max(now_ms, due[0])
            keeper.deadline(ClockCause(due[1], due[0], {}, False), now_ms)
        now_ms = max(now_ms, message.event_time_ms)
        value = msgspec.json.encode(message)
        effects += keeper.record(topic, 0, offset, 0, value, now_ms).entry.effects
    return effects


def taken_over(effects: Sequence[fx.AnyEffect]) -> dict[str, fx.PositionTakenOver]:
    assert not [e for e in effects if isinstance(e, fx.Rejected | fx.RecordParked)]
    return {e.liquidation_id: e for e in effects if isinstance(e, fx.PositionTakenOver)}


def number_of(takeover: msg.PositionTakenOver) -> int:
    return int(takeover.liquidation_id.split("-")[1])


def legs(tape: HyperliquidTape, liquidation: int) -> list[msg.PositionTakenOver]:
    return [t for t in tape.takeovers if number_of(t) == liquidation]


def sixth_digit(price: Decimal) -> Decimal:
    return Decimal(1).scaleb(price.adjusted() - 5)


def test_all_62_liquidations_import_with_the_legs_of_the_derived_file(
    real: HyperliquidTape,
) -> None:
    assert real.liquidations == 62
    sides = {"long": "Ask", "short": "Bid"}
    assert [
        (
            f"hl-{row['liq_id']}-{row['coin']}",
            row["user"],
            row["coin"],
            row["fill_side"],
            number(row["fill_sz"]),
            number(row["fill_px"]),
        )
        for row in table("derived_liquidation_fills.csv")
    ] == [
        (
            t.liquidation_id,
            t.account_id,
            t.instrument_id,
            sides[t.position_side],
            number(t.quantity),
            number(t.bankruptcy_price or "0"),
        )
        for t in real.takeovers
    ]
    assert {number_of(t) for t in real.takeovers} == set(range(1, 63))
    assert set(taken_over(effects_of(real))) == {t.liquidation_id for t in real.takeovers}
    assert len(real.takeovers) == 69


@exact
def test_our_bankruptcy_price_of_the_55_single_legs_is_that_of_the_fill_to_the_sixth_digit(
    real: HyperliquidTape,
) -> None:
    booked = taken_over(effects_of(real))
    single = [t for t in real.takeovers if number_of(t) not in (*TWO_LEGS, *OTHERS)]
    assert len(single) == 55
    above = []
    for takeover in single:
        ours = number(booked[takeover.liquidation_id].bankruptcy_price or "0")
        theirs = number(takeover.bankruptcy_price or "0")
        assert takeover.margin != "0"
        assert takeover.entry_price == takeover.mark_price
        if abs(ours - theirs) > sixth_digit(theirs):
            above.append(takeover.liquidation_id)
            # Prices have at most six decimals, which leaves DOGE five digits.
            assert abs(ours - theirs) < Decimal("0.000001")
    assert above == ["hl-23-DOGE"]
    assert not [e for e in booked.values() if e.flags]


@exact
def test_single_leg_is_taken_over_at_the_mark_price_with_all_of_the_equity(
    real: HyperliquidTape,
) -> None:
    rows = {row["liq_id"]: row for row in table("derived_liquidation_fills.csv")}
    for takeover in real.takeovers:
        row = rows[str(number_of(takeover))]
        if row["mark_px_implied"]:
            assert number(takeover.entry_price) == number(row["mark_px_implied"])
            assert number(takeover.margin) == number(row["liquidated_account_value"])


@exact
def test_fills_of_the_4_with_two_legs_come_to_notional_with_the_equity_off_or_on(
    real: HyperliquidTape,
) -> None:
    liquidations = table("liquidations.csv")
    two = [n for n in range(1, 63) if len(legs(real, n)) == 2]
    assert tuple(two) == TWO_LEGS
    for liquidation in two:
        row, pair = liquidations[liquidation - 1], legs(real, liquidation)
        assert len({t.position_side for t in pair}) == 1
        assert [(t.entry_price, t.margin) for t in pair] == [
            (t.bankruptcy_price, "0") for t in pair
        ]
        filled = sum(number(t.entry_price) * number(t.quantity) for t in pair)
        equity = Decimal(row["liquidated_account_value"])
        expected = Decimal(row["liquidated_ntl_pos"])
        expected += -equity if pair[0].position_side == "long" else equity
        assert abs(filled - expected) <= Decimal("0.01")


@exact
@pytest.mark.parametrize("liquidation", [*TWO_LEGS, 54])
def test_marks_implied_by_sharing_the_equity_by_notional_are_prices_that_give_the_notional(
    liquidation: int, real: HyperliquidTape
) -> None:
    notional = Decimal(0)
    for leg in legs(real, liquidation):
        mark = number(leg.mark_price or "0")
        digit = sixth_digit(mark)  # what the exchange cut off the price of the fill
        notional += (mark // digit + 1) * digit * number(leg.quantity)
    assert notional == Decimal(table("liquidations.csv")[liquidation - 1]["liquidated_ntl_pos"])


def test_the_3_others_are_taken_over_at_their_fills_and_named_with_the_reason(
    real: HyperliquidTape,
) -> None:
    path = str(REAL / "liquidations.csv")
    assert [(note.file, note.line) for note in real.notes] == [(path, n + 1) for n in OTHERS]
    partial, other_partial, mixed = (note.text for note in real.notes)
    assert partial == (
        "liquidation 26: 2496.82426 was taken over, but the account is said to have had 5679.325 "
        "with an equity of 516.055776; it kept 30.75 LTC long, counted in these figures: taken "
        "over at the price of the fill"
    )
    assert "liquidation 27: 2719.428525 was taken over" in other_partial
    assert "it kept 141.06 AVAX long, 0.10545 BTC long, counted in these figures" in other_partial
    assert mixed.startswith("liquidation 54: legs of both sides (1 long, 3 short)")
    for liquidation in OTHERS:
        for takeover in legs(real, liquidation):
            assert (takeover.entry_price, takeover.margin) == (takeover.bankruptcy_price, "0")
            assert (takeover.mark_price is None) == (liquidation != 54)


@exact
def test_tape_holds_each_trade_once_and_no_takeover(real: HyperliquidTape) -> None:
    sides: dict[Trade, Counter[tuple[str, str]]] = {}
    for row in table("non_mm_trades.csv"):
        trade = trade_of(row["time"], row["coin"], row["px"], row["sz"])
        sides.setdefault(trade, Counter())[row["side"], row["crossed"]] += 1
    # A trade has one side that crossed and one that did not; either may be a market maker's.
    expected = Counter(
        {
            trade: max(n["Bid", "true"], n["Ask", "false"])
            + max(n["Ask", "true"], n["Bid", "false"])
            for trade, n in sides.items()
        }
    )
    for row in table("derived_liquidation_fills.csv"):
        leg = trade_of(row["time"], row["coin"], row["fill_px"], row["fill_sz"])
        expected[leg] -= 1
        assert expected[leg] == 0
    assert Counter(real.trades) == +expected
    assert len(real.trades) == 34_824
    assert (real.rows, real.two_sided) == (35_691, 729)
    assert real.rows == len(real.trades) + real.two_sided + 2 * len(real.takeovers)
    times = [trade.time_ms for trade in real.trades]
    assert times == sorted(times)


def trade_of(time: str, coin: str, price: str, size: str) -> Trade:
    seconds = int(datetime.fromisoformat(time).timestamp())
    return Trade(seconds * 1000, coin, Decimal(price), Decimal(size))


@exact
def test_tick_and_step_are_those_of_the_tape(real: HyperliquidTape) -> None:
    terms = {i.instrument_id: i for i in real.instruments}
    assert [(c, terms[c].tick_size, terms[c].quantity_step) for c in ("BTC", "ETH", "DOGE")] == [
        ("BTC", "1", "0.00001"),
        ("ETH", "0.1", "0.0001"),
        ("DOGE", "0.000001", "1"),
    ]
    assert len(terms) == 14
    for trade in real.trades:
        assert is_multiple(trade.price, number(terms[trade.instrument_id].tick_size))
        assert is_multiple(trade.quantity, number(terms[trade.instrument_id].quantity_step))


def test_jump_of_the_real_tape_bridges_the_longest_time_without_a_liquidation(
    real: HyperliquidTape,
) -> None:
    assert (real.scale, real.event_jump_ms) == (6, 810_030_000)
    shorter = {**policy_of(real), "event_jump_ms_max": real.event_jump_ms - 1}
    assert [e for e in effects_of(real, shorter) if isinstance(e, fx.Rejected)]


def test_reading_twice_gives_the_same(real: HyperliquidTape) -> None:
    assert read_backtest(REAL) == real


def test_a_leg_is_a_takeover_and_all_else_is_the_tape(tmp_path: Path) -> None:
    tape = read(tmp_path, EARLIER, LEG, LIQUIDATOR, LATER)
    assert tape.takeovers == (
        msg.PositionTakenOver(
            event_id="hl-1-ETH-taken-over",
            event_time_ms=1677628810000,
            margin_currency="USDC",
            liquidation_id="hl-1-ETH",
            account_id="0xaa",
            instrument_id="ETH",
            position_side="long",
            quantity="10",
            entry_price="100",
            margin="10",
            bankruptcy_price="99",
            mark_price="100",
        ),
    )
    assert tape.trades == (
        Trade(1677628805000, "ETH", Decimal("100.5"), Decimal("0.25")),
        Trade(1677628812000, "ETH", Decimal("99.5"), Decimal(4)),
    )
    assert tape.instruments == (
        msg.InstrumentDefined(
            event_id="hl-ETH",
            event_time_ms=1677628805000,
            margin_currency="USDC",
            instrument_id="ETH",
            contract_type="linear",
            contract_size="1",
            tick_size="0.1",
            quantity_step="0.01",
            closing_fee_rate="0",
        ),
    )
    assert (tape.liquidations, tape.rows, tape.two_sided) == (1, 4, 0)
    assert tape.notes == ()
    assert (tape.scale, tape.event_jump_ms) == (6, 5_000)
    (booked,) = taken_over(effects_of(tape)).values()
    assert (booked.bankruptcy_price, booked.flags) == ("99", ())


def test_a_short_is_bought_above_its_mark_price(tmp_path: Path) -> None:
    tape = read(tmp_path, changed(changed(LEG, 3, "Bid"), 4, "101"))
    (takeover,) = tape.takeovers
    assert (takeover.position_side, takeover.entry_price, takeover.margin) == ("short", "100", "10")
    assert taken_over(effects_of(tape))["hl-1-ETH"].bankruptcy_price == "101"


def test_mark_price_that_does_not_end_is_cut_after_18_digits(tmp_path: Path) -> None:
    tape = read(tmp_path, changed(changed(LEG, 4, "330"), 5, "3"))
    (takeover,) = tape.takeovers
    assert (takeover.entry_price, takeover.margin) == ("333." + 18 * "3", "10")
    assert tape.notes == ()
    assert taken_over(effects_of(tape))["hl-1-ETH"].flags == ()


@pytest.mark.parametrize(("price", "matches"), [("98.9999", True), ("98.9998", False)])
def test_fill_is_at_the_bankruptcy_price_within_one_unit_of_its_sixth_digit(
    price: str, matches: bool, tmp_path: Path
) -> None:
    tape = read(tmp_path, changed(LEG, 4, price))
    assert bool(tape.notes) != matches
    assert tape.takeovers[0].margin == ("10" if matches else "0")


def test_negative_equity_is_taken_over_at_the_fill_with_no_margin(tmp_path: Path) -> None:
    tape = read(tmp_path, changed(LEG, 4, "101"), liquidations=[changed(LIQUIDATED, 3, "-10")])
    (takeover,) = tape.takeovers
    assert (takeover.entry_price, takeover.margin, takeover.mark_price) == ("101", "0", "100")
    assert tape.notes == ()


@pytest.mark.parametrize("side", ["Ask", "Bid"])
def test_equity_of_the_whole_notional_is_no_margin_of_the_leg(side: str, tmp_path: Path) -> None:
    whole = [changed(LIQUIDATED, 3, "1000")]
    tape = read(tmp_path, changed(LEG, 3, side), liquidations=whole)
    (takeover,) = tape.takeovers
    assert (takeover.entry_price, takeover.margin, takeover.mark_price) == ("99", "0", None)
    (note,) = tape.notes
    assert note.text == (
        "liquidation 1: 990 was taken over, but the account is said to have had 1000 with an "
        f"equity of 1000; it kept 10 ETH {'short' if side == 'Ask' else 'long'}, counted in these "
        "figures: taken over at the price of the fill"
    )


def test_legs_of_one_liquidation_are_taken_over_each_at_its_fill(tmp_path: Path) -> None:
    other = changed(changed(changed(LEG, 2, "SOL"), 4, "19.8"), 5, "50")
    tape = read(
        tmp_path,
        LEG,
        other,
        LIQUIDATOR,
        liquidations=[changed(changed(LIQUIDATED, 2, "2000"), 3, "20")],
    )
    assert [(t.liquidation_id, t.entry_price, t.margin, t.mark_price) for t in tape.takeovers] == [
        ("hl-1-ETH", "99", "0", "100"),
        ("hl-1-SOL", "19.8", "0", "20"),
    ]
    assert (tape.notes, tape.trades) == ((), ())


def test_legs_of_both_sides_are_named(tmp_path: Path) -> None:
    short = changed(changed(changed(LEG, 2, "SOL"), 3, "Bid"), 4, "101")
    lines = [changed(changed(LIQUIDATED, 2, "2000"), 3, "20")]
    (note,) = read(tmp_path, LEG, short, liquidations=lines).notes
    assert note.text.startswith("liquidation 1: legs of both sides (1 long, 1 short)")
    (note,) = read(tmp_path, LEG, changed(short, 4, "102"), liquidations=lines).notes
    assert note.text.startswith("liquidation 1: 2010 was taken over")


def test_what_an_account_kept_is_the_reason_that_is_named(tmp_path: Path) -> None:
    bought = "2023-03-01T00:00:01Z,0xaa,ETH,Bid,101,16,true"
    sold = "2023-03-01T00:00:02Z,0xaa,ETH,Ask,101,2,false"
    after = "2023-03-01T00:00:11Z,0xaa,ETH,Ask,99,4,true"
    tape = read(tmp_path, bought, sold, LEG, after, liquidations=[changed(LIQUIDATED, 2, "1400")])
    (note,) = tape.notes
    assert (note.file, note.line) == (str(tmp_path / "liquidations.csv"), 2)
    assert "it kept 4 ETH long, counted in these figures" in note.text
    without = read(
        tmp_path,
        changed(bought, 5, "12"),
        sold,
        LEG,
        liquidations=[changed(LIQUIDATED, 2, "1400")],
    )
    assert "it kept no position: taken over" in without.notes[0].text


def test_liquidation_without_a_fill_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    early = "2022-01-01T00:00:00Z,0xdd,1000,10,Cross"
    tape = read(tmp_path, LEG, changed(LATER, 1, "0xdd"), liquidations=[early, LIQUIDATED])
    assert [t.liquidation_id for t in tape.takeovers] == ["hl-2-ETH"]
    (note,) = tape.notes
    assert (note.line, note.text) == (
        2,
        "liquidation 1: the account has no fill at that time: nothing is taken over",
    )
    assert tape.liquidations == 2
    # From the one trade to the other: a liquidation that is not taken over is no record.
    assert tape.event_jump_ms == 2_000
    (none,) = read(tmp_path, changed(LEG, 1, "0xdd")).notes
    assert none.text == note.text


def test_fill_by_which_the_account_crossed_the_spread_is_no_leg(tmp_path: Path) -> None:
    tape = read(tmp_path, changed(changed(LEG, 6, "true"), 4, "99.7"), LEG)
    assert [t.bankruptcy_price for t in tape.takeovers] == ["99"]
    assert [t.price for t in tape.trades] == [Decimal("99.7")]


@pytest.mark.parametrize("other", ["0xbb", "0xcc"])
def test_two_sides_of_a_trade_are_one_trade(other: str, tmp_path: Path) -> None:
    side = f"2023-03-01T00:00:05Z,{other},ETH,Ask,100.50,0.250,false"
    for rows in ([EARLIER, side], [side, EARLIER]):
        tape = read(tmp_path, *rows, LEG, LATER)
        assert [t.price for t in tape.trades] == [Decimal("100.5"), Decimal("99.5")]
        assert (tape.two_sided, tape.rows) == (1, 4)


@pytest.mark.parametrize(
    "row",
    [
        "2023-03-01T00:00:05Z,0xcc,ETH,Ask,100.5,0.25,true",
        "2023-03-01T00:00:05Z,0xcc,ETH,Bid,100.5,0.25,false",
        "2023-03-01T00:00:05Z,0xcc,ETH,Ask,100.4,0.25,false",
        "2023-03-01T00:00:05Z,0xcc,ETH,Ask,100.5,0.26,false",
        "2023-03-01T00:00:05Z,0xcc,SOL,Ask,100.5,0.25,false",
        "2023-03-01T00:00:06Z,0xcc,ETH,Ask,100.5,0.25,false",
    ],
)
def test_rows_that_differ_in_more_than_their_side_are_two_trades(row: str, tmp_path: Path) -> None:
    tape = read(tmp_path, EARLIER, row, LEG)
    assert (len(tape.trades), tape.two_sided) == (2, 0)


def test_two_resting_sides_are_two_trades(tmp_path: Path) -> None:
    resting = changed(EARLIER, 6, "false")
    tape = read(tmp_path, resting, changed(resting, 3, "Ask"), LEG)
    assert (len(tape.trades), tape.two_sided) == (2, 0)


def test_each_row_has_at_most_one_other_side(tmp_path: Path) -> None:
    side = changed(changed(EARLIER, 3, "Ask"), 6, "false")
    tape = read(tmp_path, EARLIER, side, side, LEG)
    assert (len(tape.trades), tape.two_sided) == (2, 1)


def test_coin_that_never_trades_has_the_terms_of_its_leg(tmp_path: Path) -> None:
    tape = read(
        tmp_path,
        "2023-03-01T00:00:05Z,0xbb,SOL,Bid,20,1,true",
        changed(changed(LEG, 4, "98.9999"), 5, "10.0"),
    )
    assert [(i.instrument_id, i.tick_size, i.quantity_step) for i in tape.instruments] == [
        ("ETH", "0.0001", "1"),
        ("SOL", "1", "1"),
    ]
    assert set(taken_over(effects_of(tape))) == {"hl-1-ETH"}
    ((file, line, text),) = tape.untraded
    assert (file, line) == (str(tmp_path / "non_mm_trades.csv"), 3)
    assert text == "ETH was taken over, and the tape has no trade in it that could close it"
    assert read(tmp_path, LEG, LATER).untraded == ()


def test_step_is_as_fine_as_the_leg_where_the_tape_is_coarser(tmp_path: Path) -> None:
    leg = changed(changed(LEG, 5, "0.125"), 4, "7920")
    tape = read(tmp_path, changed(EARLIER, 5, "0.5"), leg)
    assert [(i.tick_size, i.quantity_step) for i in tape.instruments] == [("0.1", "0.001")]
    assert set(taken_over(effects_of(tape))) == {"hl-1-ETH"}


def test_scale_is_as_fine_as_price_times_quantity(tmp_path: Path) -> None:
    def scale(*rows: str) -> int:
        return read(tmp_path, LEG, *rows).scale

    fine = changed(changed(LATER, 4, "99.12345"), 5, "0.123")
    assert (scale(LATER), scale(fine)) == (6, 8)
    assert scale(fine, changed(LATER, 5, "0.1234567")) == 12
    assert scale(changed(LATER, 5, "0.123456789012345678"), fine) == 18


def test_gap_of_more_than_a_week_in_the_tape_is_refused_at_the_trade_behind_it(
    tmp_path: Path,
) -> None:
    week_later = changed(LATER, 0, "2023-03-08T00:00:10Z")
    assert read(tmp_path, LEG, week_later).event_jump_ms == 7 * DAY_MS
    more = changed(LATER, 0, "2023-03-08T00:00:11Z")
    said = r"non_mm_trades\.csv, line 3, time: there is no trade in the 7 days before this one"
    with pytest.raises(SettingsError, match=said):
        read(tmp_path, LEG, more)


def test_columns_are_found_by_name_between_others(tmp_path: Path) -> None:
    plain = read(tmp_path, LEG, LATER)
    (tmp_path / "liquidations.csv").write_bytes(
        b"\xef\xbb\xbfliquidated_account_value,hash,user,time,liquidated_ntl_pos\r\n\r\n"
        b'10.00,"a,b",0xaa,2023-03-01T00:00:10+00:00,1000\r\n'
    )
    (tmp_path / "non_mm_trades.csv").write_text(
        "crossed,sz,px,side,coin,user,time\n"
        + "".join(f"{','.join(reversed(row.split(',')))}\n" for row in (LEG, LATER))
        + "\n"
    )
    assert read_backtest(tmp_path) == plain


def test_liquidations_of_one_second_are_read_in_any_order(tmp_path: Path) -> None:
    lines = [changed(LIQUIDATED, 1, "0xdd"), LIQUIDATED]
    trades = [LEG, changed(changed(LEG, 1, "0xdd"), 2, "SOL")]
    one = read(tmp_path, *trades, liquidations=lines)
    assert [t.liquidation_id for t in one.takeovers] == ["hl-1-SOL", "hl-2-ETH"]
    assert one.takeovers == read(tmp_path, *reversed(trades), liquidations=lines).takeovers


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        (0, "2023-03-01 00:00:12", "time: '2023-03-01 00:00:12' does not say its offset"),
        (0, "yesterday", "time: 'yesterday' is no time"),
        (0, "2023-03-01T00:00:04Z", "time: it is earlier than in line 3; sort the lines by time"),
        (1, "", "user: '' is no account; needed are letters"),
        (1, "a:b", "user: 'a:b' is no account"),
        (2, "", "coin: '' is no coin; needed are letters"),
        (2, "PURR/USDC", "coin: 'PURR/USDC' is no coin"),
        (2, 33 * "A", f"coin: '{33 * 'A'}' is no coin"),
        (3, "Buy", "side: 'Buy' is neither Bid nor Ask"),
        (4, "0", "px: 0 is not above 0"),
        (4, "-99.5", "px: -99.5 is not above 0"),
        (4, "NaN", "px: 'NaN' is no number of at most 18 decimals"),
        (4, "1e3", "px: '1e3' is no number"),
        (4, "99.", "px: '99.' is no number"),
        (4, "\u0661", "px: '\u0661' is no number"),
        (5, "0.000", "sz: 0.000 is not above 0"),
        (5, "-4", "sz: -4 is not above 0"),
        (5, "", "sz: '' is no number"),
        (5, "0.1234567890123456789", "sz: '0.1234567890123456789' is no number of at most 18"),
        (6, "yes", "crossed: 'yes' is neither true nor false"),
    ],
)
def test_wrong_cell_of_the_trades_is_named(
    column: int, cell: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, EARLIER, LEG, changed(LATER, column, cell))
    assert str(refused.value).startswith(f"{tmp_path / 'non_mm_trades.csv'}, line 4, {said}")


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        (0, "2023-03-01T00:00:09Z", "time: it is earlier than in line 2; sort the lines by time"),
        (0, "1969-12-31T23:59:59Z", "time: '1969-12-31T23:59:59Z' lies before 1970"),
        (1, "0xaa", "user: line 2 is a liquidation of this account at the same time"),
        (1, "?", "user: '?' is no account"),
        (2, "0", "liquidated_ntl_pos: 0 is not above 0"),
        (2, "-1000", "liquidated_ntl_pos: -1000 is not above 0"),
        (2, "1,000", "liquidated_ntl_pos: '1,000' is no number"),
        (3, "", "liquidated_account_value: '' is no number"),
        (3, "--1", "liquidated_account_value: '-1' is no number"),
    ],
)
def test_wrong_cell_of_the_liquidations_is_named(
    column: int, cell: str, said: str, tmp_path: Path
) -> None:
    second = [f'"{c}"' for c in changed(LIQUIDATED, 1, "0xdd").split(",")]
    second[column] = f'"{cell}"'
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, LEG, liquidations=[LIQUIDATED, ",".join(second)])
    assert str(refused.value).startswith(f"{tmp_path / 'liquidations.csv'}, line 3, {said}")


def test_second_fill_of_the_coin_at_the_time_of_the_liquidation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"non_mm_trades\.csv, line 4, coin: line 2 is a fill"):
        read(tmp_path, LEG, LIQUIDATOR, changed(LEG, 5, "1"))


@pytest.mark.parametrize("column", TRADES.split(","))
def test_header_of_the_trades_without_a_column_is_refused(column: str, tmp_path: Path) -> None:
    header = TRADES.replace(column, "other")
    with pytest.raises(SettingsError, match=rf"line 1, {column}: the header names it 0 times"):
        read(tmp_path, LEG, headers=(LIQUIDATIONS, header))


@pytest.mark.parametrize("column", LIQUIDATIONS.split(",")[:4])
def test_header_of_the_liquidations_without_a_column_is_refused(
    column: str, tmp_path: Path
) -> None:
    header = LIQUIDATIONS.replace(column, "other")
    with pytest.raises(SettingsError, match=rf"line 1, {column}: the header names it 0 times"):
        read(tmp_path, LEG, headers=(header, TRADES))


def test_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 1, px: the header names it 2 times"):
        read(tmp_path, LEG, headers=(LIQUIDATIONS, TRADES.replace("sz", "px")))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (LEG.rpartition(",")[0], "line 3: 6 columns where the header names 7"),
        (LEG + ",1", "line 3: 8 columns where the header names 7"),
        ('"2023"x,' + LEG, "line 3: no line of comma-separated values"),
    ],
)
def test_line_that_is_no_row_is_refused(row: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"non_mm_trades\.csv, {said}"):
        read(tmp_path, EARLIER, row)


def test_bytes_that_are_no_text_are_refused_where_they_stand(tmp_path: Path) -> None:
    write(tmp_path, LEG)
    (tmp_path / "non_mm_trades.csv").write_bytes(f"{TRADES}\n".encode() + b"\xff\x00," * 7 + b"\n")
    with pytest.raises(SettingsError, match="line 2: 8 columns where the header names 7"):
        read_backtest(tmp_path)
    (tmp_path / "non_mm_trades.csv").write_bytes(f"{TRADES}\n\n{LEG}".encode() + b"\xff\n")
    with pytest.raises(SettingsError, match="line 3, crossed: 'false\ufffd' is neither true"):
        read_backtest(tmp_path)


@pytest.mark.parametrize("name", ["liquidations.csv", "non_mm_trades.csv"])
def test_file_without_rows_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, LEG) / name
    for text in ("", f"{LIQUIDATIONS if name.startswith('l') else TRADES}\n\n"):
        path.write_text(text)
        with pytest.raises(SettingsError, match=rf"{name}: there is no row in it"):
            read_backtest(tmp_path)


@pytest.mark.parametrize("name", ["liquidations.csv", "non_mm_trades.csv"])
def test_missing_file_and_folder_are_refused(name: str, tmp_path: Path) -> None:
    (write(tmp_path, LEG) / name).unlink()
    with pytest.raises(SettingsError, match=rf"{name}: there is no such file; name the folder"):
        read_backtest(tmp_path)
    with pytest.raises(SettingsError, match=r"nowhere/liquidations\.csv: there is no such file"):
        read_backtest(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file/liquidations\.csv: Not a directory"):
        read_backtest(tmp_path / "file")
