"""The command `backtest`: an exchange's liquidations and tape, played under policies."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.play import NO_COMPENSATION, keep_log, money, outcomes_of, play, typed
from insurance_fund.events.amounts import number
from insurance_fund.events.errors import SettingsError
from insurance_fund.fund.policy import (
    DEFAULT_CURRENCIES,
    Policy,
    load_policy,
    parse_policy,
    policy_document,
)
from insurance_fund.projections.outcomes import FundOutcome
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.paper.market import Market, deposit
from insurance_fund.streams.sources.cells import amount_of, decimals
from insurance_fund.streams.sources.hyperliquid import HyperliquidTape, read_backtest
from insurance_fund.streams.sources.hyperliquid_legs import MARGIN_CURRENCY
from insurance_fund.streams.sqlite import SqliteLog

# A policy is raised to the decimals of the data, which are at least those.
FUND_DECIMALS: Final = DEFAULT_CURRENCIES[MARGIN_CURRENCY].scale

backtest_app = typer.Typer(no_args_is_help=True, help="Play an exchange's tape under policies.")


@backtest_app.command("hyperliquid", epilog=common.EXIT_CODES)
def backtest_hyperliquid(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder with liquidations.csv and non_mm_trades.csv of 2023."
        ),
    ],
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            help="A policy file, JSON or TOML; once for each. Without one: the default policy, and "
            "no compensation. Its decimals and event_jump_ms_max are raised to what the data needs."
        ),
    ] = None,
    fund: Annotated[
        str, typer.Option(metavar="AMOUNT", help="What the fund begins with, in USDC.")
    ] = "1000",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep one log a policy there, POLICY.db."),
    ] = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Play real liquidations of 2023 under policies, on the real tape.

    Orders are priced by the fund, filled by the tape, and deleveraged where they expire.
    """
    _check_fund(fund)
    shards = common.settings_for(None).shards
    policies = _policies(policy or ())
    logs = {} if keep is None else _new_logs(keep, policies)
    tape = read_backtest(directory)
    market = _market(tape, fund)
    games = {
        name: play(market, _fitted(rules, tape), Shard(shards[0]), name)
        for name, rules in policies.items()
    }
    for name, path in logs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_log(games[name], functools.partial(SqliteLog.open, path, create=True))
    outcomes = {name: outcomes_of(game).funds[MARGIN_CURRENCY] for name, game in games.items()}
    if output is screen.Format.JSON:
        screen.show_json(_rows(tape, outcomes, logs))
    else:
        shard = ("--shard", shards[0]) if len(shards) > 1 else ()
        further = [typed("verify", "--log", f"sqlite:{path}", *shard) for path in logs.values()]
        _print(tape, outcomes, further)


def _check_fund(fund: str) -> None:
    try:
        fits = number(amount_of(fund)) > 0 and decimals(amount_of(fund)) <= FUND_DECIMALS
    except ValueError:
        fits = False
    if not fits:
        raise SettingsError(
            f"--fund must be an amount above zero, of at most {FUND_DECIMALS} decimals, such as "
            f'"1000"; got {fund!r}'
        )


def _policies(files: Sequence[Path]) -> dict[str, Policy]:
    if not files:
        return {"default": Policy(), "no-compensation": NO_COMPENSATION}
    policies: dict[str, Policy] = {}
    for file in files:
        if file.stem in policies:
            raise SettingsError(f"two policies are called {file.stem}: rename {file}")
        policies[file.stem] = load_policy(file)
        _check(file, policies[file.stem])
    return policies


def _new_logs(directory: Path, policies: Iterable[str]) -> dict[str, Path]:
    logs = {name: directory / f"{name}.db" for name in policies}
    for path in logs.values():
        if path.exists():
            raise SettingsError(f"{path} is there already: name another folder with --keep")
    return logs


def _rows(
    tape: HyperliquidTape, outcomes: Mapping[str, FundOutcome], logs: Mapping[str, Path]
) -> dict[str, Any]:
    return {
        "liquidations": tape.liquidations,
        "takeovers": len(tape.takeovers),
        "trades": len(tape.trades),
        "rows": tape.rows,
        "two_sided": tape.two_sided,
        "notes": [note._asdict() for note in (*tape.notes, *tape.untraded)],
        "margin_currency": MARGIN_CURRENCY,
        "policies": [
            {
                "policy": name,
                "log": f"sqlite:{logs[name]}" if name in logs else None,
                "worst_instrument": outcome.worst_instrument,
                **outcome.rows(),
            }
            for name, outcome in outcomes.items()
        ],
    }


def _print(
    tape: HyperliquidTape, outcomes: Mapping[str, FundOutcome], further: Iterable[str]
) -> None:
    for note in (*tape.notes, *tape.untraded):
        screen.complain(f" {note.file}, line {note.line}: {note.text}", head="note", style="bold")
    screen.say(
        f"{tape.liquidations} liquidations, taken over as {len(tape.takeovers)} positions on "
        f"{len(tape.instruments)} instruments; {len(tape.trades):,} trades in {tape.rows:,} rows "
        f"({tape.two_sided:,} stand there from both sides and count once)"
    )
    screen.show_rows(
        f"Policies side by side ({MARGIN_CURRENCY})",
        [_figures(name, outcome) for name, outcome in outcomes.items()],
        ("policy",),
        _FIGURES,
    )
    for line in further:
        screen.say(line)


_FIGURES: Final = (
    "better",
    "compensated",
    "ADL",
    "ADL_notional",
    "gains",
    "draws",
    "fund_lowest",
    "fund_after",
    "worst_instrument",
)


def _figures(name: str, outcome: FundOutcome) -> dict[str, Any]:
    def shown(amount: Decimal) -> str:
        return money(amount, outcome.scale)

    worst = outcome.worst_instrument
    return {
        "policy": name,
        "better": outcome.ended["better_than_bankruptcy"].liquidations,
        "compensated": outcome.ended["compensated"].liquidations,
        "ADL": outcome.deleveraged.liquidations,
        "ADL_notional": shown(outcome.deleveraged.notional),
        "gains": shown(outcome.gains),
        "draws": shown(outcome.draws),
        "fund_lowest": shown(outcome.lowest),
        "fund_after": shown(outcome.after),
        "worst_instrument": worst and f"{worst} {shown(outcome.by_instrument[worst])}",
    }


def _check(file: Path, policy: Policy) -> None:
    rules = {"default": policy.default}
    for name in policy.instruments:
        rules[f"instruments.{name}"] = policy.for_instrument(name)
    for path, one in rules.items():
        if one.order_pricing != "fund":
            raise SettingsError(
                f'{file}: policy: {path}.order_pricing must be "fund": the exchange of a backtest '
                "sends no orders of its own"
            )
    if MARGIN_CURRENCY not in policy.currencies:
        raise SettingsError(
            f"{file}: policy: currencies names no {MARGIN_CURRENCY}, which the data is in"
        )


def _fitted(policy: Policy, tape: HyperliquidTape) -> Policy:
    """Raise what a policy says of its log, not of compensation, to what the data needs."""
    own = policy.currencies[MARGIN_CURRENCY]
    currency = msgspec.structs.replace(own, scale=max(own.scale, tape.scale))
    fitted = msgspec.structs.replace(
        policy,
        currencies={**policy.currencies, MARGIN_CURRENCY: currency},
        event_jump_ms_max=max(policy.event_jump_ms_max, tape.event_jump_ms),
    )
    # Data may lie further apart than any policy allows.
    return parse_policy(policy_document(fitted))


def _market(tape: HyperliquidTape, fund: str) -> Market:
    start_ms = tape.instruments[0].event_time_ms
    return Market(
        instruments=tape.instruments,
        deposits=[deposit(MARGIN_CURRENCY, fund, start_ms)],
        takeovers=tape.takeovers,
        trades=tape.trades,
    )
