"""What `demo` and `backtest` share: playing a market, keeping the log, telling the outcomes."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from decimal import Decimal
from pathlib import Path

import msgspec

from insurance_fund.cli import screen
from insurance_fund.events.ledger import decode_entry
from insurance_fund.fund.policy import Policy
from insurance_fund.projections.outcomes import Outcomes
from insurance_fund.streams.copying import copy_log
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.paper.game import Game, play_game
from insurance_fund.streams.paper.market import Market
from insurance_fund.streams.sqlite import SqliteLog


def without_compensation(policy: Policy) -> Policy:
    """Return a policy that sends every order at the bankruptcy price, for as long as before."""
    lifetime_ms = sum(lifetime for _, lifetime in policy.default.attempts)
    rules = msgspec.structs.replace(policy.default, attempts=(("0", lifetime_ms),))
    return msgspec.structs.replace(policy, default=rules)


def play(market: Market, policy: Policy, shard: Shard, what: str) -> Game:
    """Play a market under a policy, showing how far it has come."""
    with screen.progress_bar(what, len(market.takeovers)) as moved:
        return asyncio.run(play_game(market, policy, shard, moved))


def keep_log(game: Game, path: Path) -> None:
    """Write the topics of a game into a new log."""
    asyncio.run(_keep(game, path))


async def _keep(game: Game, path: Path) -> None:
    log = SqliteLog.open(path, create=True)
    try:
        await copy_log(game.broker, log, game.shard)
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
    command = "insurance-fund" if shutil.which("insurance-fund") else sys.argv[0]
    return shlex.join((command, *words))


def money(amount: Decimal) -> str:
    """Write an amount for a person to compare: thousands apart, two decimals."""
    return f"{amount:,.2f}"
