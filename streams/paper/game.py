"""A game: a fund and the paper exchange play a market on a log in memory.

They advance in one virtual time and take turns. What the fund sends reaches the exchange
ORDER_LATENCY_MS later, so all that happens up to then is known before the fund says anything new:
the exchange publishes all events of a window of that length, the fund comes to its end, and the
exchange takes what it sent. A window begins where anything happens next, a deadline of the fund
included. As every record is later than the end of the window before, a fund that reads the same
topics afterwards decides the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.messages import DeadLetter
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.lines import partition_values
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.paper.exchange import ORDER_LATENCY_MS, PaperExchange
from insurance_fund.streams.paper.link import Link
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker, VirtualClock
from insurance_fund.streams.simulator.client import SimulatedLog

_letters = msgspec.json.Decoder(DeadLetter)


@dataclass(frozen=True, slots=True)
class Game:
    """A market that was played to its end under a policy.

    `broker` has the topics, `lines` are those of the ledger, and `head` the hash of the last one.
    """

    broker: Broker
    shard: Shard
    policy: Policy
    lines: list[bytes]
    head: str


async def play_game(
    market: Market,
    policy: Policy,
    shard: Shard,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Game:
    """Play a market under a policy; `progress` is told (takeovers so far, takeovers in all).

    Raises SettingsError where the fund refuses what the exchange says: the policy does not fit the
    market.
    """
    clock = VirtualClock()
    broker = Broker(clock)
    log = SimulatedLog(broker)
    fund = Processor(log, shard, Options(clock="event", policy=policy), clock)
    exchange, link = PaperExchange(market, policy), await Link.of(log)
    takeovers = len(market.takeovers)

    def turn_ended(now_ms: int) -> None:
        clock.now_ms = now_ms
        progress(takeovers - exchange.takeovers_left, takeovers)

    await fund.start()
    await _take_turns(exchange, link, fund, turn_ended)
    async for letter in partition_values(log, TopicPartition(topics.DEAD_LETTERS, 0)):
        refused = _letters.decode(letter)
        raise SettingsError(
            f"the policy does not fit this market: {refused.topic}:{refused.offset} was refused "
            f"({refused.reason}: {refused.detail})"
        )
    lines = [line async for line in partition_values(log, fund.ledger)]
    return Game(broker, shard, policy, lines, fund.state.head)


async def _take_turns(
    exchange: PaperExchange, link: Link, fund: Processor, turn_ended: Callable[[int], None]
) -> None:
    """Play until nothing is left that could happen; `turn_ended` is told the time of both."""
    end_ms = -1
    while True:
        deadline, next_ms = fund.state.schedule.first(), exchange.next_ms()
        starts_ms = [] if deadline is None else [deadline[0]]
        if next_ms is not None:
            starts_ms.append(next_ms)
        if not starts_ms:
            return
        assert min(starts_ms) > end_ms, "what comes next is not over yet"
        end_ms = min(starts_ms) + ORDER_LATENCY_MS - 1
        await link.publish(exchange.advance(end_ms))
        await fund.advance(end_ms)
        sent = await link.listen()
        for order in sent.orders:
            exchange.take_order(order, order.event_time_ms + ORDER_LATENCY_MS)
        for trigger in sent.triggers:
            exchange.take_trigger(trigger, trigger.event_time_ms + ORDER_LATENCY_MS)
        turn_ended(end_ms)
