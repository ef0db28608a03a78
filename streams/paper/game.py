"""A game: a fund and the paper exchange play a market on a log in memory."""

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
from insurance_fund.streams.paper.exchange import PaperExchange
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.simulator.broker import Broker, VirtualClock
from insurance_fund.streams.simulator.client import SimulatedLog

_letters = msgspec.json.Decoder(DeadLetter)


@dataclass(frozen=True, slots=True)
class Game:
    """A market that was played to its end: the topics, and the ledger as its lines."""

    broker: Broker
    shard: Shard
    lines: list[bytes]


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
    processor = Processor(log, shard, Options(clock="event", policy=policy), clock)
    exchange = PaperExchange(log, market)
    takeovers = len(market.takeovers)

    def turn_ended(now_ms: int) -> None:
        clock.now_ms = now_ms
        progress(takeovers - exchange.takeovers_left, takeovers)

    await processor.start()
    await exchange.play(processor, turn_ended)
    async for letter in partition_values(log, TopicPartition(topics.DEAD_LETTERS, 0)):
        refused = _letters.decode(letter)
        raise SettingsError(
            f"the policy does not fit this market: {refused.topic}:{refused.offset} was refused "
            f"({refused.reason}: {refused.detail})"
        )
    lines = [line async for line in partition_values(log, processor.ledger)]
    return Game(broker, shard, lines)
