"""The paper exchange: an exchange's side of the topics, played against a market.

It takes our liquidation orders and ADL triggers, and publishes fills, reports, executions and the
takeovers of the market. It and the fund advance in one virtual time. What the fund sends at t
reaches the exchange at t + ORDER_LATENCY_MS, so all that happens up to then is known before the
fund says anything new, and they take turns: the exchange publishes all events of a window of that
length, the fund comes to its end, and the exchange takes what it sent. A window begins where
anything happens next, a deadline of the fund included. As every record is later than the end of the
window before, a fund that reads the same topics afterwards decides the same.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final, Protocol, TypeVar

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import amount_text, exact, floor_scale, number
from insurance_fund.events.fields import CloseReason
from insurance_fund.events.terms import Terms
from insurance_fund.fund.contracts import Contract, contract_of
from insurance_fund.streams.lines import READ_MAX
from insurance_fund.streams.log import LogPublisher, LogReader, NewRecord, TopicPartition
from insurance_fund.streams.paper.adl import AdlEngine, AdlMessage, AdlOutcome
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.matching import Ended, Execution, Matching
from insurance_fund.streams.paper.tape import Trade
from insurance_fund.streams.processor import Processor

# From an order or a trigger being sent until it is where it can act.
ORDER_LATENCY_MS: Final = 100
# Records of one time are taken topic by topic, fills last: a report comes behind its last fill.
REPORT_LATENCY_MS: Final = 1
FEE_DIGITS: Final = 18
NOBODY: Final = "no counterparty in profit"

SentT = TypeVar("SentT", bound=msg.Output)
_encoder = msgspec.json.Encoder()
_orders = msgspec.json.Decoder(msg.LiquidationOrder)
_triggers = msgspec.json.Decoder(AdlMessage)


class Bus(LogReader, LogPublisher, Protocol):
    """The two sides of a log that an exchange needs."""


class _Cursor:
    """Where an instrument's part of the tape was read to."""

    def __init__(self) -> None:
        self.trades: list[Trade] = []
        self.times: list[int] = []
        self.index = 0

    def add(self, trade: Trade) -> None:
        self.trades.append(trade)
        self.times.append(trade.time_ms)

    def seek(self, now_ms: int) -> None:
        # Back to what was passed by because no order wanted it: a new one may.
        self.index = bisect.bisect_left(self.times, now_ms)

    def next_wanted_ms(self, before_ms: int, wants: Callable[[Trade], bool]) -> int | None:
        while self.index < len(self.times) and self.times[self.index] < before_ms:
            if wants(self.trades[self.index]):
                return self.times[self.index]
            self.index += 1
        return None

    def take(self, now_ms: int) -> Sequence[Trade]:
        start = self.index
        self.index = bisect.bisect_right(self.times, now_ms, start)
        return self.trades[start : self.index]


class PaperExchange:
    """Plays a market once, on a log where nothing was published yet.

    Trades of instruments that the market does not define are passed by.
    """

    def __init__(self, log: Bus, market: Market) -> None:
        self._log = log
        self._script = deque(_script(market))
        self._contracts = {i.instrument_id: _contract(i) for i in market.instruments}
        self._tape = {i.instrument_id: _Cursor() for i in market.instruments}
        for trade in market.trades:
            if trade.instrument_id in self._tape:
                self._tape[trade.instrument_id].add(trade)
        self._matching = Matching()
        self._adl = AdlEngine(market.adl_unfilled_one_in)
        # On their way, each with the time of its arrival.
        self._orders: deque[tuple[int, msg.LiquidationOrder]] = deque()
        self._triggers: deque[tuple[int, AdlMessage]] = deque()
        self._reports: deque[tuple[int, Ended]] = deque()
        self._offsets: dict[TopicPartition, int] = {}
        self._records: dict[str, list[NewRecord]] = {topic: [] for topic in topics.INPUT_TOPICS}
        self._said = 0
        self.takeovers_left = len(market.takeovers)

    async def play(
        self, processor: Processor, turn_ended: Callable[[int], None] = lambda now_ms: None
    ) -> None:
        """Take turns with a started processor until nothing is left that could happen.

        `turn_ended` is told the virtual time that both have come to.
        """
        end_ms = -1
        while True:
            deadline = processor.state.schedule.first()
            starts_ms = [] if deadline is None else [deadline[0]]
            if (next_ms := self._next_ms()) is not None:
                starts_ms.append(next_ms)
            if not starts_ms:
                return
            assert min(starts_ms) > end_ms, "what comes next is not over yet"
            end_ms = min(starts_ms) + ORDER_LATENCY_MS - 1
            while next_ms is not None and next_ms <= end_ms:
                self._let_happen(next_ms)
                next_ms = self._next_ms()
            await self._publish()
            await processor.advance(end_ms)
            await self._take_in()
            turn_ended(end_ms)

    def _next_ms(self) -> int | None:
        queues = (self._orders, self._triggers, self._reports)
        times = [queue[0][0] for queue in queues if queue]
        if self._script:
            times.append(self._script[0][1].event_time_ms)
        engines = (self._matching.next_expiry_ms(), self._adl.next_ms())
        times += [time_ms for time_ms in engines if time_ms is not None]
        if not times:
            return None
        first_ms = min(times)
        for instrument_id in self._matching.instruments():
            cursor = self._tape[instrument_id]
            wanted_ms = cursor.next_wanted_ms(first_ms, self._matching.wants)
            if wanted_ms is not None:
                first_ms = wanted_ms
        return first_ms

    def _let_happen(self, now_ms: int) -> None:
        while self._script and self._script[0][1].event_time_ms == now_ms:
            topic, message = self._script.popleft()
            self.takeovers_left -= topic == topics.LIQUIDATIONS
            self._say(topic, message)
        for ended in self._matching.expire(now_ms):
            self._report(ended, "expired", now_ms)
        self._let_arrive(now_ms)
        for instrument_id in list(self._matching.instruments()):
            for trade in self._tape[instrument_id].take(now_ms):
                for execution in self._matching.match(trade):
                    self._fill(execution, now_ms)
        while self._reports and self._reports[0][0] <= now_ms:
            self._report(self._reports.popleft()[1], "filled", now_ms)
        for outcome in self._adl.work(now_ms):
            self._deleverage(outcome, now_ms)

    def _let_arrive(self, now_ms: int) -> None:
        while self._orders and self._orders[0][0] <= now_ms:
            order = self._orders.popleft()[1]
            if order.expires_at_ms <= now_ms:
                self._report(Ended(order, Decimal(0)), "expired", now_ms)
                continue
            self._matching.add(order, self._contracts[order.instrument_id].step)
            self._tape[order.instrument_id].seek(now_ms)
        while self._triggers and self._triggers[0][0] <= now_ms:
            trigger = self._triggers.popleft()[1]
            self._adl.receive(trigger, self._contracts[trigger.instrument_id].step, now_ms)

    def _say(self, topic: str, message: msg.Message) -> None:
        key = {topics.INSTRUMENTS: "instrument_id", topics.FUND_TRANSFERS: "margin_currency"}
        name: str = getattr(message, key.get(topic, "liquidation_id"))
        value = _encoder.encode(message)
        record = NewRecord(0, name.encode(), value, timestamp_ms=message.event_time_ms)
        self._records[topic].append(record)

    def _id(self, kind: str) -> str:
        self._said += 1
        return f"{kind}-{self._said:06d}"

    @exact
    def _fill(self, execution: Execution, now_ms: int) -> None:
        order, contract = execution.order, self._contracts[execution.order.instrument_id]
        notional = contract.notional(execution.quantity, execution.price, order.position_side, 0)
        name = self._id("fill")
        self._say(
            topics.FILLS,
            msg.Fill(
                event_id=name,
                event_time_ms=now_ms,
                margin_currency=str(order.margin_currency),
                fill_id=name,
                liquidation_id=order.liquidation_id,
                order_id=order.order_id,
                instrument_id=order.instrument_id,
                side=order.order_side,
                price=amount_text(execution.price),
                quantity=amount_text(execution.quantity),
                fee=amount_text(floor_scale(contract.fee_rate * notional, FEE_DIGITS)),
            ),
        )
        if not execution.rest:
            ended = Ended(order, number(order.quantity))
            self._reports.append((now_ms + REPORT_LATENCY_MS, ended))

    @exact
    def _report(self, ended: Ended, reason: CloseReason, now_ms: int) -> None:
        order = ended.order
        self._say(
            topics.LIQUIDATIONS,
            msg.LiquidationOrderClosed(
                event_id=self._id("report"),
                event_time_ms=now_ms,
                margin_currency=str(order.margin_currency),
                liquidation_id=order.liquidation_id,
                order_id=order.order_id,
                reason=reason,
                filled_quantity=amount_text(ended.filled),
            ),
        )

    @exact
    def _deleverage(self, outcome: AdlOutcome, now_ms: int) -> None:
        trigger = outcome.trigger
        if not outcome.taken:
            self._say(
                topics.LIQUIDATIONS,
                msg.AdlUnfilled(
                    event_id=self._id("adl"),
                    event_time_ms=now_ms,
                    margin_currency=str(trigger.margin_currency),
                    liquidation_id=trigger.liquidation_id,
                    trigger_id=trigger.trigger_id,
                    quantity=amount_text(outcome.open_quantity),
                    reason=NOBODY,
                ),
            )
        for quantity in outcome.taken:
            name = self._id("adl")
            self._say(
                topics.LIQUIDATIONS,
                msg.AdlExecuted(
                    event_id=name,
                    event_time_ms=now_ms,
                    margin_currency=str(trigger.margin_currency),
                    execution_id=name,
                    liquidation_id=trigger.liquidation_id,
                    trigger_id=trigger.trigger_id,
                    trigger_revision=trigger.revision,
                    quantity=amount_text(quantity),
                    price=trigger.price,
                ),
            )

    async def _publish(self) -> None:
        for topic, records in self._records.items():
            if records:
                await self._log.publish(topic, records)
                self._records[topic] = []

    async def _take_in(self) -> None:
        orders = await self._new(topics.LIQUIDATION_ORDERS, _orders)
        self._orders += [(order.event_time_ms + ORDER_LATENCY_MS, order) for order in orders]
        triggers = await self._new(topics.ADL_TRIGGERS, _triggers)
        self._triggers += [(one.event_time_ms + ORDER_LATENCY_MS, one) for one in triggers]

    async def _new(self, topic: str, decoder: msgspec.json.Decoder[SentT]) -> list[SentT]:
        messages: list[SentT] = []
        for partition in await self._log.partitions(topic):
            where = TopicPartition(topic, partition)
            offset, end = self._offsets.get(where, 0), await self._log.end_offset(where)
            while offset < end:
                batch = await self._log.read(where, offset, READ_MAX)
                messages += [decoder.decode(record.value or b"") for record in batch.records]
                offset = batch.next_offset
            self._offsets[where] = offset
        return sorted(messages, key=lambda message: message.sequence)


def _script(market: Market) -> list[tuple[str, msg.Message]]:
    told: list[tuple[str, msg.Message]] = [(topics.INSTRUMENTS, i) for i in market.instruments]
    told += [(topics.FUND_TRANSFERS, deposit) for deposit in market.deposits]
    told += [(topics.LIQUIDATIONS, takeover) for takeover in market.takeovers]
    return sorted(told, key=lambda one: one[1].event_time_ms)


def _contract(instrument: msg.InstrumentDefined) -> Contract:
    names = Terms.__struct_fields__
    return contract_of(Terms(**{name: getattr(instrument, name) for name in names}))
