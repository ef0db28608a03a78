"""Recordings of Binance liquidation orders, read as input messages and booked by the fund."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.amounts import exact
from insurance_fund.events.codec import Decoder, Refusal
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper, Written
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import parse_policy, policy_document
from insurance_fund.fund.state import State, snapshot_bytes
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sources.binance import Recording, read_recordings

SELL = (
    "1000PEPE,SELL,LIMIT,IOC,43942,0.0107751,0.0109313,FILLED,43942,43942,1718901133106,473.4794442"
)
BUY = "BTC,BUY,LIMIT,IOC,0.150,65185.41,64929.70,FILLED,0.101,0.150,1718902477549,9777.8115"
HEADER = (
    "Symbol,Side,Order Type,Time in Force,Quantity,Price,Average Price,Order Status,"
    "Last Filled Quantity,Filled Quantity,Event Time (IST),Trade Time (IST)"
)
LOCAL = (
    "BTCUSDT,SELL,LIMIT,IOC,0.013,94434.91,94809.6,FILLED,0.013,0.013,"
    "2024-12-04 22:16:25.587000+05:30,2024-12-04 22:16:25.584000+05:30"
)

REAL = Path(__file__).parents[3] / "shared" / "data" / "binance-forceorders"
REAL_FILES = (
    "alejandrome01_2024-06-20_forceorders_a.csv",
    "alejandrome01_2024-06-20_forceorders_b.csv",
    "anmolkhullar24_2024-12_btcusdt_forceorders.csv",
    "bandsthobaby_2024-08-17_forceorders.csv",
    "bandsthobaby_2024-08-18_forceorders.csv",
)
TRADE_FILES = (
    "alejandrome01_2024-06_aggtrades_gt15k.csv",
    "anmolkhullar24_2024-12_btcusdt_aggtrades.csv",
)


def read(*lines: str, name: str = "a.csv") -> Recording:
    return read_recordings([(name, lines)])


def read_real(name: str) -> Recording:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return read_recordings([(name, path.read_text(encoding="utf-8").splitlines())])


def bodies(recording: Recording, topic: str) -> list[dict[str, Any]]:
    assert all(r.value is not None for r in recording.messages[topic])
    return [json.loads(r.value or b"") for r in recording.messages[topic]]


def changed(row: str, column: int, cell: str) -> str:
    cells = row.split(",")
    cells[column] = cell
    return ",".join(cells)


class Book:
    """A ledger that takes recordings in event order, one after the other."""

    def __init__(self, policy: dict[str, Any]) -> None:
        self.keeper = Bookkeeper("main", State())
        self.lines: list[bytes] = []
        self.offsets = dict.fromkeys(topics.INPUT_TOPICS, 0)
        cause = PolicyCause(
            policy=policy_document(parse_policy(policy)),
            routing=dict.fromkeys(policy["currencies"], "main"),
            clock="event",
            rules=RULES,
            software="test",
        )
        self._keep(self.keeper.policy(cause, 0))

    def _keep(self, written: Written) -> list[fx.AnyEffect]:
        self.lines.append(written.line)
        return written.entry.effects

    def take(self, recording: Recording) -> Iterator[list[fx.AnyEffect]]:
        heads = [list(self._keyed(*topic)) for topic in recording.messages.items()]
        now_ms = self.keeper.state.now_ms
        # Like the merge of event mode this looks at the heads only, whatever stands behind them.
        for time_ms, _, offset, topic, value in heapq.merge(*heads):
            now_ms = max(now_ms, time_ms)
            first = self.keeper.state.schedule.first()
            assert first is None or first[0] > now_ms, "every order ends before its deadline"
            yield self._keep(self.keeper.record(topic, 0, offset, 0, value, now_ms))

    def _keyed(
        self, topic: str, records: Sequence[NewRecord]
    ) -> Iterator[tuple[int, int, int, str, bytes | None]]:
        decoder, order = Decoder(), topics.INPUT_TOPICS.index(topic)
        for record in records:
            message = decoder.decode(topic, record.value)
            assert not isinstance(message, Refusal), message
            yield message.event_time_ms, order, self.offsets[topic], topic, record.value
            self.offsets[topic] += 1


def effects_of(book: Book, recording: Recording) -> list[fx.AnyEffect]:
    return [effect for effects in book.take(recording) for effect in effects]


@exact
def gain(row: Sequence[str]) -> Decimal:
    price, average, filled = Decimal(row[5]), Decimal(row[6]), Decimal(row[9])
    return (average - price) * filled if row[1] == "SELL" else (price - average) * filled


def currency_of(row: Sequence[str]) -> str:
    return "USDC" if row[0].endswith("USDC") else "USDT"


@exact
def total(amounts: Sequence[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))


def test_a_row_is_a_takeover_at_p_an_order_at_p_a_fill_at_ap_and_a_report() -> None:
    recording = read(BUY)
    taken_over, submitted, closed = bodies(recording, topics.LIQUIDATIONS)
    (fill,) = bodies(recording, topics.FILLS)
    (instrument,) = bodies(recording, topics.INSTRUMENTS)
    name, time_ms = taken_over["liquidation_id"], 1718902477549
    assert name.startswith("bf-")
    assert len(name) == 35
    assert taken_over == {
        "type": "position_taken_over",
        "event_id": f"{name}-taken-over",
        "event_time_ms": time_ms,
        "margin_currency": "USDT",
        "liquidation_id": name,
        "account_id": "unknown",
        "instrument_id": "BTCUSDT",
        "position_side": "short",
        "quantity": "0.15",
        "entry_price": "65185.41",
        "margin": "0",
        "bankruptcy_price": None,
        "mark_price": None,
    }
    assert (submitted["order_id"], submitted["expires_at_ms"]) == (
        f"{name}-order",
        time_ms + 60_000,
    )
    assert (submitted["price"], submitted["quantity"]) == ("65185.41", "0.15")
    assert (fill["fill_id"], fill["order_id"]) == (f"{name}-fill", f"{name}-order")
    assert (fill["side"], fill["price"], fill["quantity"]) == ("buy", "64929.7", "0.15")
    assert (fill["fee"], fill["event_time_ms"]) == ("0", time_ms)
    assert (closed["reason"], closed["filled_quantity"]) == ("filled", "0.15")
    assert closed["event_time_ms"] == time_ms + 1
    assert (instrument["instrument_id"], instrument["event_id"]) == ("BTCUSDT", "bf-BTCUSDT")
    assert (instrument["tick_size"], instrument["quantity_step"]) == ("0.01", "0.01")
    assert (instrument["contract_type"], instrument["contract_size"]) == ("linear", "1")
    assert (recording.rows, recording.lines, list(recording.junk)) == (1, 1, [])


def test_sell_is_the_liquidation_of_a_long() -> None:
    recording = read(SELL)
    assert bodies(recording, topics.LIQUIDATIONS)[0]["position_side"] == "long"
    assert bodies(recording, topics.FILLS)[0]["side"] == "sell"


@pytest.mark.parametrize(
    ("symbol", "instrument_id", "currency"),
    [
        ("BTC", "BTCUSDT", "USDT"),
        ("BTCUSDT", "BTCUSDT", "USDT"),
        ("AVAXUSDC", "AVAXUSDC", "USDC"),
        ("ETHBUSD", "ETHBUSD", "BUSD"),
        ("USDC", "USDCUSDT", "USDT"),
        ("BTC_240628", "BTCUSDT_240628", "USDT"),
        ("BTCUSDT_240628", "BTCUSDT_240628", "USDT"),
    ],
)
def test_symbol_gets_back_the_usdt_that_was_cut(
    symbol: str, instrument_id: str, currency: str
) -> None:
    (instrument,) = read(changed(BUY, 0, symbol)).instruments
    assert (instrument.instrument_id, instrument.margin_currency) == (instrument_id, currency)


def test_steps_of_an_instrument_are_the_finest_seen_in_any_file() -> None:
    coarse, fine = changed(BUY, 5, "65185.0"), changed(changed(BUY, 4, "0.1500"), 9, "0.125")
    recording = read_recordings([("a.csv", [coarse]), ("b.csv", [fine])])
    (instrument,) = recording.instruments
    assert (instrument.tick_size, instrument.quantity_step) == ("0.01", "0.001")
    later = changed(changed(fine, 5, "65185"), 10, "1718902477550")
    assert read(fine, later).instruments == read(later, fine).instruments == (instrument,)
    assert read(changed(coarse, 9, "3")).instruments[0].tick_size == "1"


def test_instruments_are_defined_at_the_smallest_trade_time() -> None:
    recording = read(BUY, SELL)
    assert {i.event_time_ms for i in recording.instruments} == {1718901133106}
    assert [i.instrument_id for i in recording.instruments] == ["1000PEPEUSDT", "BTCUSDT"]


def test_scale_is_what_makes_every_row_exact() -> None:
    recording = read(BUY, SELL, changed(BUY, 0, "BTCUSDC"))
    assert recording.scales == {"USDC": 4, "USDT": 7}
    assert recording.policy == {
        "currencies": {
            "USDC": {"scale": 4, "floor": "0"},
            "USDT": {"scale": 7, "floor": "0"},
        },
        "default": {"order_pricing": "exchange"},
    }


def test_a_gap_longer_than_the_clock_may_jump_is_written_into_the_policy() -> None:
    week_ms = 7 * 24 * 3_600_000
    later = changed(BUY, 10, str(1718901133106 + week_ms + 1))
    recording = read(later, SELL)
    assert recording.policy["event_jump_ms_max"] == week_ms + 1
    book = Book(dict(recording.policy))
    assert not [e for e in effects_of(book, recording) if isinstance(e, fx.Rejected)]


@pytest.mark.parametrize(
    ("column", "cell", "why"),
    [
        (7, "NEW", "order status 'NEW' is not FILLED"),
        (9, "0.000", "filled quantity is 0"),
        (6, "0", "average price is 0"),
        (5, "1e3", "price '1e3' is no number of at most 18 decimals"),
        (5, "-1", "price '-1' is no number of at most 18 decimals"),
        (5, "", "price '' is no number of at most 18 decimals"),
        (8, "NaN", "last filled quantity 'NaN' is no number of at most 18 decimals"),
        (4, "\u0661", "quantity '\u0661' is no number of at most 18 decimals"),
        (1, "HOLD", "side 'HOLD' is neither SELL nor BUY"),
        (0, "B T C", "'B T C' is no symbol"),
        (10, "1718902477", "trade time '1718902477' is no time and no milliseconds"),
        (10, "2024-12-04 22:16:25", "trade time '2024-12-04 22:16:25' does not say its offset"),
        (10, "0001-01-01T00:00:00Z", "trade time '0001-01-01T00:00:00Z' lies before 1970"),
        (6, "0.12345678901234567", "price times quantity has 19 decimals, more than the 18"),
    ],
)
def test_wrong_row_is_junk_with_its_line_and_why(column: int, cell: str, why: str) -> None:
    recording = read(SELL, changed(BUY, column, cell), name="rec.csv")
    (remark,) = recording.junk
    assert (remark.file, remark.line) == ("rec.csv", 2)
    assert remark.text.startswith(why)
    assert (recording.rows, recording.lines) == (1, 2)
    assert len(recording.messages[topics.FILLS]) == 1


def test_junk_first_line_and_short_lines_are_counted_and_the_rest_is_read() -> None:
    recording = read("<generator object at 0x1>,175.5", "", SELL, BUY.rpartition(",")[0], "x,y")
    assert [(r.line, r.text) for r in recording.junk] == [
        (1, "2 columns where 11 or 12 are expected"),
        (5, "2 columns where 11 or 12 are expected"),
    ]
    assert (recording.lines, recording.rows) == (4, 2)


def test_broken_quotes_are_junk() -> None:
    (remark,) = read('"BTC"x,SELL').junk
    assert remark.text.startswith("no line of comma-separated values")


def test_what_was_filled_counts_where_another_quantity_was_ordered() -> None:
    recording = read(changed(BUY, 4, "0.2"))
    assert bodies(recording, topics.LIQUIDATIONS)[0]["quantity"] == "0.15"
    (note,) = recording.notes
    assert (note.line, note.text) == (
        1,
        "ordered 0.2, filled 0.15: taken as a position of what was filled",
    )


def test_header_names_the_columns_and_local_times_carry_their_offset() -> None:
    recording = read("\ufeff" + HEADER, LOCAL)
    taken_over = bodies(recording, topics.LIQUIDATIONS)[0]
    assert taken_over["event_time_ms"] == 1733330785584
    assert (recording.headers, recording.rows, recording.lines) == (1, 1, 2)


def test_local_times_without_fraction_and_over_midnight_are_read() -> None:
    times = {
        "2024-12-05 00:00:00+05:30": 1733337000000,
        "2024-03-10 02:30:00.001+05:30": 1710018000001,
        "2024-10-27T02:30:00Z": 1729996200000,
    }
    for text, time_ms in times.items():
        recording = read(HEADER, changed(LOCAL, 11, text))
        assert bodies(recording, topics.FILLS)[0]["event_time_ms"] == time_ms


def test_the_same_order_has_the_same_id_in_every_layout() -> None:
    plain = "BTC,SELL,LIMIT,IOC,0.0130,94434.910,94809.60,FILLED,0.013,0.0130,1733330785584,1232.5"
    assert bodies(read(HEADER, LOCAL), topics.FILLS) == bodies(read(plain), topics.FILLS)


@pytest.mark.parametrize("column", [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
def test_every_field_counts_in_the_id(column: int) -> None:
    other = {0: "ETH", 1: "SELL", 2: "MARKET", 3: "GTC", 10: "1718902477550"}.get(column, "7")
    before, after = read(BUY), read(changed(BUY, column, other))
    assert after.rows == 1
    assert before.messages[topics.FILLS][0].key != after.messages[topics.FILLS][0].key


def test_header_without_a_needed_column_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"b\.csv, line 1: the header names no average price"):
        read(HEADER.replace("Average Price", "Avg"), name="b.csv")


@pytest.mark.parametrize(
    "line",
    [
        "1718838893621, ETHUSDT, 1675603512, 3566.5, 8.653,1718838893469, False",
        "Datetime,Price,Quantity",
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
        "Market Sell,2024-12-08 01:03:30.639000+05:30,59.336,100012.4",
    ],
)
def test_file_of_trades_is_refused(line: str) -> None:
    with pytest.raises(SettingsError, match=r"a\.csv, line 2: this is a file of trades, not of"):
        read("junk", line)


def test_trade_behind_rows_is_junk() -> None:
    recording = read(SELL, "1718838893621,ETHUSDT,1675603512,3566.5,8.653,1718838893469,False")
    assert [r.line for r in recording.junk] == [2]


@pytest.mark.parametrize("name", TRADE_FILES)
def test_real_file_of_trades_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="this is a file of trades, not of liquidations"):
        read_real(name)


def test_same_row_twice_is_booked_once() -> None:
    recording = read(SELL, BUY, SELL)
    book = Book(dict(recording.policy))
    effects = effects_of(book, recording)
    assert len([e for e in effects if isinstance(e, fx.FillBooked)]) == 2
    assert not [e for e in effects if isinstance(e, fx.Rejected | fx.RecordParked)]
    assert recording.rows == 3


def test_orders_of_one_millisecond_are_each_filled_before_their_reports() -> None:
    recording = read(BUY, changed(BUY, 9, "0.1"), changed(BUY, 10, "1718902477550"))
    effects = effects_of(Book(dict(recording.policy)), recording)
    assert len([e for e in effects if isinstance(e, fx.LiquidationClosed)]) == 3
    assert not [e for e in effects if isinstance(e, fx.Rejected | fx.RecordParked)]


def test_order_of_files_and_rows_does_not_change_a_byte() -> None:
    same_time = changed(BUY, 9, "0.1")
    one = read_recordings([("a.csv", [SELL]), ("b.csv", [BUY, same_time])])
    other = read_recordings([("b.csv", [same_time, BUY]), ("a.csv", [SELL])])
    assert one.messages == other.messages


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_recording_is_booked_to_the_last_digit(name: str) -> None:
    recording = read_real(name)
    lines = (REAL / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines if ",FILLED," in line]
    assert recording.rows == len(rows)
    for scale in (None, 12):
        policy = json.loads(json.dumps(recording.policy))
        if scale is not None:
            for rules in policy["currencies"].values():
                rules["scale"] = scale
        book = Book(policy)
        effects = effects_of(book, recording)
        booked = [e for e in effects if isinstance(e, fx.FillBooked)]
        assert len(booked) == len(rows)
        for currency, fund in book.keeper.state.funds.items():
            expected = total([gain(row) for row in rows if currency_of(row) == currency])
            assert expected > 0
            deltas = [Decimal(e.delta) for e in booked if e.margin_currency == currency]
            assert total(deltas) == expected == fund.available
        assert not book.keeper.state.liquidations
        assert not [e for e in effects if isinstance(e, fx.Rejected | fx.RecordParked)]


@pytest.mark.parametrize("name", REAL_FILES)
def test_second_import_of_a_real_recording_only_gives_duplicates(name: str) -> None:
    recording, again = read_real(name), read_real(name)
    assert recording.messages == again.messages
    book, other = Book(dict(recording.policy)), Book(dict(recording.policy))
    effects_of(book, recording)
    effects_of(other, again)
    assert book.lines == other.lines
    funds = snapshot_bytes(State(funds=book.keeper.state.funds))
    effects = effects_of(book, again)
    assert len(effects) == sum(map(len, recording.messages.values()))
    assert {type(effect) for effect in effects} == {fx.DuplicateIgnored}
    assert snapshot_bytes(State(funds=book.keeper.state.funds)) == funds
