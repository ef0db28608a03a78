"""What `demo` and `backtest` share: playing a market, keeping the log, telling the outcomes."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

from insurance_fund.cli import screen
from insurance_fund.events import topics
from insurance_fund.events.ledger import decode_entry
from insurance_fund.fund.policy import InstrumentPolicy, Policy
from insurance_fund.logs import Log
from insurance_fund.projections.outcomes import Outcomes
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.paper.game import Game, play_game
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.processor import Options, Processor

# Every order at the bankruptcy price, for as long as one of the default policy lives.
NO_COMPENSATION: Final = Policy(default=InstrumentPolicy(attempts=(("0", 30_000),)))
# A currency of at most so many decimals is counted in cents, a finer one is a coin.
_MONEY_SCALE: Final = 6
_CENTS: Final = 2
_COIN_DECIMALS: Final = 8


def play(market: Market, policy: Policy, shard: Shard, what: str) -> Game:
    """Play a market under a policy, showing how far it has come."""
    with screen.progress_bar(what, len(market.takeovers)) as moved:
        return asyncio.run(play_game(market, policy, shard, moved))


def keep_log(game: Game, opened: Callable[[], Log]) -> None:
    """Publish the inputs of a game in a new log, and let a fund of its own decide them there."""
    with screen.progress_bar("writing the log", len(game.lines)) as moved:
        asyncio.run(_keep(game, opened, moved))


async def _keep(game: Game, opened: Callable[[], Log], moved: Callable[[int], None]) -> None:
    log = opened()
    try:
        for topic in topics.INPUT_TOPICS:
            records = [one.record for one in game.broker.appended_to(TopicPartition(topic, 0))]
            await log.publish(
                topic,
                [NewRecord(0, r.key, r.value, timestamp_ms=r.timestamp_ms) for r in records],
            )
        fund = Processor(
            log,
            game.shard,
            Options(clock="event", policy=game.policy, until_idle=True),
            SystemClock(),
            lambda fund: moved(fund.entries_written),
        )
        await fund.start()
        await fund.run()
        assert fund.state.head == game.head, "the same records make the same ledger"
    finally:
        await log.close()


def outcomes_of(game: Game) -> Outcomes:
    """Fold the ledger of a game."""
    outcomes = Outcomes()
    for line in game.lines:
        outcomes.apply(decode_entry(line))
    return outcomes


def typed(*words: str) -> str:
    """Return a command as a person can type it here, wherever it is installed."""
    command: tuple[str, ...] = (sys.argv[0],)
    if shutil.which("insurance-fund"):
        command = ("insurance-fund",)
    elif Path(sys.argv[0]).name == "__main__.py":
        command = (sys.executable, "-m", "insurance_fund")
    return shlex.join((*command, *words))


def money(amount: Decimal, scale: int) -> str:
    """Write an amount for a person to compare, thousands apart.

    Of a currency with up to 6 decimals (`scale`) two are shown, of a finer one up to 8: a hundredth
    of a coin is worth too much to be rounded away.
    """
    decimals = min(scale, _CENTS if scale <= _MONEY_SCALE else _COIN_DECIMALS)
    return f"{amount:,.{decimals}f}"
