"""The paper exchange: a matching engine and an ADL engine, played against a market.

It takes our liquidation orders and ADL triggers, and says fills, reports, executions and the
takeovers of the market. It knows no clock and no log: whoever plays it tells it the time, brings
what the fund has sent, and publishes what is said.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Final

from insurance_fund.events import messages as msg
from insurance_fund.events import topics
from insurance_fund.events.amounts import ZERO, number
from insurance_fund.events.fields import CloseReason
from insurance_fund.events.terms import Terms
from insurance_fund.fund.contracts import Contract, contract_of
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.paper.adl import AdlEngine, AdlMessage, AdlOutcome
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.paper.matching import Ended, Execution, Matching
from insurance_fund.streams.paper.messages import (
    Said,
    executed_of,
    fee_of,
    fill_of,
    report_of,
    script_of,
    unfilled_of,
)
from insurance_fund.streams.paper.tape import Cursor

# From an order or a trigger being sent until it is where it can act, where time is made up.
ORDER_LATENCY_MS: Final = 100
# Records of one time are taken topic by topic, fills last: a report comes behind its last fill.
REPORT_LATENCY_MS: Final = 1
# A revision of a trigger that was executed comes soon, or never.
ADL_MEMORY_MS: Final = 3_600_000


class PaperExchange:
    """Plays a market once, then perhaps further ones of the same instruments.

    A fill costs the closing fee of its instrument, a deleveraging the `adl_fee_rate` that the
    policy says for it. Trades of instruments that the market does not define are passed by. `run`
    stands in every id that it gives, so that two exchanges on one log give different ones.
    """

    def __init__(self, market: Market, policy: Policy, run: str = "") -> None:
        self._run = run
        self._contracts = {i.instrument_id: _contract(i) for i in market.instruments}
        self._adl_fee_rates = {
            name: number(policy.for_instrument(name).adl_fee_rate) for name in self._contracts
        }
        self._matching = Matching()
        self._adl = AdlEngine(market.adl_unfilled_one_in)
        # On their way, each with the time of its arrival.
        self._orders: deque[tuple[int, msg.LiquidationOrder]] = deque()
        self._triggers: deque[tuple[int, AdlMessage]] = deque()
        self._reports: deque[tuple[int, Ended]] = deque()
        self._saying: list[Said] = []
        self._named = 0
        self._take_up(market)

    def _take_up(self, market: Market) -> None:
        self._script = deque(script_of(market))
        self._tape = {name: Cursor() for name in self._contracts}
        for trade in market.trades:
            if trade.instrument_id in self._tape:
                self._tape[trade.instrument_id].add(trade)
        self.takeovers_left = len(market.takeovers)

    def go_on(self, market: Market, now_ms: int) -> None:
        """Play a further market, which begins at `now_ms` or later, when the last one is over.

        Its instruments are those of the first one, and are not said again.
        """
        assert not self._script, "the market before has said all of it"
        self._take_up(market)
        self._script = deque(one for one in self._script if one[0] == topics.LIQUIDATIONS)
        self._adl.forget(now_ms - ADL_MEMORY_MS)

    def trades(self, instrument_id: str) -> bool:
        """Tell whether an instrument is traded here."""
        return instrument_id in self._contracts

    def has_open_orders(self) -> bool:
        """Tell whether any order stands here or is on its way."""
        return bool(self._orders) or self._matching.next_expiry_ms() is not None

    def take_order(self, order: msg.LiquidationOrder, arrival_ms: int) -> None:
        """Take an order on an instrument that is traded here; it stands from its arrival on.

        No order arrives before the one taken before it.
        """
        self._orders.append((arrival_ms, order))

    def take_trigger(self, trigger: AdlMessage, arrival_ms: int) -> None:
        """Take a revision of a trigger as `take_order` takes an order."""
        self._triggers.append((arrival_ms, trigger))

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

    def advance(self, end_ms: int) -> list[Said]:
        """Let all happen that happens by `end_ms`; return what is said of it, in order."""
        next_ms = self.next_ms()
        while next_ms is not None and next_ms <= end_ms:
            self._let_happen(next_ms)
            next_ms = self.next_ms()
        said, self._saying = self._saying, []
        return said

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
        self._saying.append((topic, message))

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}-{self._run}{self._named:06d}"


def _contract(instrument: msg.InstrumentDefined) -> Contract:
    names = Terms.__struct_fields__
    return contract_of(Terms(**{name: getattr(instrument, name) for name in names}))
