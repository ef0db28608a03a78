"""The command line: `insurance-fund`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import insurance_fund
from insurance_fund.cli import (
    audit,
    backtest,
    common,
    exchange,
    feed,
    late,
    look,
    screen,
    simulate,
    topics,
)
from insurance_fund.cli import run as service
from insurance_fund.events.errors import InsuranceFundError

app = typer.Typer(
    cls=late.LateGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The insurance fund of a perpetual-futures exchange: an append-only ledger, liquidation "
    "orders and ADL triggers out of liquidation and fill events.",
    epilog=common.EXIT_CODES,
)
app.add_typer(backtest.backtest_app, name="backtest")
app.command("publish", epilog=common.EXIT_CODES)(feed.publish)
app.add_typer(feed.import_app, name="import")
app.command("run", epilog=common.EXIT_CODES)(service.run)
app.command("exchange", epilog=common.EXIT_CODES)(exchange.exchange)
app.command("status", epilog=common.EXIT_CODES)(look.status)
app.command("explain", epilog=common.EXIT_CODES)(look.explain)
app.command("verify", epilog=common.AUDIT_EXIT_CODES)(audit.verify)
app.command("replay", epilog=common.AUDIT_EXIT_CODES)(audit.replay)
app.command("export", epilog=common.EXIT_CODES)(audit.export)
app.command("read", epilog=common.EXIT_CODES)(look.read)
app.command("simulate", epilog=common.EXIT_CODES)(simulate.simulate)
app.add_typer(topics.topics_app, name="topics")
app.add_typer(look.config_app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        screen.say(f"insurance-fund {insurance_fund.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    try:
        app()
    except InsuranceFundError as error:
        head, code = common.ending_of(error)
        screen.complain(f": {error}", head=head)
        sys.exit(code)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        screen.complain(f": {name}{error.strerror or error}", head="error")
        sys.exit(common.EXIT_COULD_NOT)
