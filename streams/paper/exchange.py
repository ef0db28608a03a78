"""The paper exchange: an exchange's side of the topics, played against a market.

It takes our liquidation orders and ADL triggers, and publishes fills, reports, executions and the
takeovers of the market. What the fund sends at t reaches it at t + ORDER_LATENCY_MS.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Final, Protocol, TypeVar

import msgspec

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.events.fields import CloseReason
from insurance_fund.events.terms import Terms
from insurance_fund.fund.contracts import Contract, contract_of
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.lines import READ_MAX
from insurance_fund.streams.log import LogPublisher, LogReader, NewRecord, TopicPartition
from insurance_fund.streams.paper.adl import AdlEngine, AdlMessage, AdlOutcome
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.matching import Ended, Execution, Matching
from insurance_fund.streams.paper.messages import (
    executed_of,
    fee_of,
    fill_of,
    record_of,
    report_of,
    script_of,
    unfilled_of,
)
from insurance_fund.streams.paper.tape import Cursor

# From an order or a trigger being sent until it is where it can act.
ORDER_LATENCY_MS: Final = 100
# Records of one time are taken topic by topic, fills last: a report comes behind its last fill.
REPORT_LATENCY_MS: Final = 1

SentT = TypeVar("SentT", bound=msg.Output)
_orders = msgspec.json.Decoder(msg.LiquidationOrder)
_triggers = msgspec.json.Decoder(AdlMessage)


class Bus(LogReader, LogPublisher, Protocol):
    """The two sides of a log that an exchange needs."""


class PaperExchange:
    """Plays a market once, on a log where nothing was published yet.

    A fill costs the closing fee of its instrument, a deleveraging the `adl_fee_rate` that the
    policy says for it. Trades of instruments that the market does not define are passed by.
    """

    def __init__(self, log: Bus, market: Market, policy: Policy) -> None:
        self._log = log
        self._script = deque(script_of(market))
        self._contracts = {i.instrument_id: _contract(i) for i in market.instruments}
        self._adl_fee_rates = {
            name: number(policy.for_instrument(name).adl_fee_rate) for name in self._contracts
        }
        self._tape = {name: Cursor() for name in self._contracts}
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

    def next_ms(self) -> int | None:
        """Return when something happens next, None where nothing does unless the fund speaks."""
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

    async def advance(self, end_ms: int) -> None:
        """Let all happen that happens by `end_ms`, and publish it."""
        next_ms = self.next_ms()
        while next_ms is not None and next_ms <= end_ms:
            self._let_happen(next_ms)
            next_ms = self.next_ms()
        for topic, records in self._records.items():
            if records:
                await self._log.publish(topic, records)
                self._records[topic] = []

    async def listen(self) -> None:
        """Take what the fund has sent since the last time; it is on its way from now on."""
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
                self._report(Ended(order, ZERO), "expired", now_ms)
                continue
            self._matching.add(order, self._contracts[order.instrument_id].step)
            self._tape[order.instrument_id].seek(now_ms)
        while self._triggers and self._triggers[0][0] <= now_ms:
            trigger = self._triggers.popleft()[1]
            self._adl.receive(trigger, self._contracts[trigger.instrument_id].step, now_ms)

    def _fill(self, execution: Execution, now_ms: int) -> None:
        order, quantity, price = execution.order, execution.quantity, execution.price
        contract = self._contracts[order.instrument_id]
        fee = fee_of(contract.fee_rate, contract, quantity, price, order.position_side)
        self._say(topics.FILLS, fill_of(self._name("fill"), execution, fee, now_ms))
        if not execution.rest:
            ended = Ended(order, number(order.quantity))
            self._reports.append((now_ms + REPORT_LATENCY_MS, ended))

    def _report(self, ended: Ended, reason: CloseReason, now_ms: int) -> None:
        self._say(topics.LIQUIDATIONS, report_of(self._name("report"), ended, reason, now_ms))

    def _deleverage(self, outcome: AdlOutcome, now_ms: int) -> None:
        trigger = outcome.trigger
        if not outcome.taken:
            self._say(topics.LIQUIDATIONS, unfilled_of(self._name("adl"), outcome, now_ms))
        for quantity in outcome.taken:
            fee = self._adl_fee(trigger, quantity)
            executed = executed_of(self._name("adl"), trigger, quantity, fee, now_ms)
            self._say(topics.LIQUIDATIONS, executed)

    def _adl_fee(self, trigger: AdlMessage, quantity: Decimal) -> Decimal:
        name, price = trigger.instrument_id, number(trigger.price)
        rate, contract = self._adl_fee_rates[name], self._contracts[name]
        return fee_of(rate, contract, quantity, price, trigger.position_side)

    def _say(self, topic: str, message: msg.Message) -> None:
        self._records[topic].append(record_of(topic, message))

    def _name(self, kind: str) -> str:
        self._said += 1
        return f"{kind}-{self._said:06d}"


def _contract(instrument: msg.InstrumentDefined) -> Contract:
    names = Terms.__struct_fields__
    return contract_of(Terms(**{name: getattr(instrument, name) for name in names}))
