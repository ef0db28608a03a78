"""`replay --policy`: the differences that another policy makes, and the caveat."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from insurance_fund.cli import common, screen
from insurance_fund.events.errors import CorruptionError, SettingsError
from insurance_fund.fund.policy import load_policy
from insurance_fund.projections.differences import (
    FIGURES,
    Row,
    Side,
    differing_liquidations,
    sums_by_currency,
)
from insurance_fund.settings import Settings
from insurance_fund.streams.recorded import Recorded
from insurance_fund.streams.whatif import WhatIf

_SIDES: Final = ("recorded", "what_if", "difference")
_COLUMNS: Final = ("delta", "granted", "deleveraged_notional", "asked_notional")


def show_what_if(
    settings: Settings, shard: str | None, ledger: Path | None, policy: Path, output: screen.Format
) -> None:
    """Decide a ledger under another policy; print the differences and the sums by currency.

    Raises SettingsError where the ledger does not verify or the policy cannot be used.
    """
    before, after = Side(), Side()
    what_if = asyncio.run(_what_if(settings, shard, ledger, policy, (before, after)))
    recorded = what_if.recorded
    liquidations = differing_liquidations(before, after)
    currencies = sums_by_currency(before, after)
    if output is screen.Format.JSON:
        screen.show_json(
            {
                "ledger": recorded.state.ledger,
                "entries": recorded.state.sequence,
                "head": recorded.state.head,
                "liquidations_in_all": len(before.liquidations),
                "liquidations": liquidations,
                "currencies": currencies,
                "notes": what_if.notes,
            }
        )
        return
    entries = screen.counted(recorded.state.sequence, "entry", "entries")
    screen.say(f"ledger {recorded.state.ledger}: {entries} decided under another policy")
    in_all = screen.counted(len(before.liquidations), "liquidation")
    told = [row for row in liquidations if _differs_in_the_end(row)]
    screen.show_rows(
        f"Differences, recorded -> what-if, {len(told)} of {in_all}",
        [_in_one_line(row) for row in told],
        ("liquidation_id", "instrument_id", "outcome"),
        _COLUMNS,
    )
    if len(told) < len(liquidations):
        others = screen.counted(len(liquidations) - len(told), "liquidation")
        screen.say(f"{others} differ in what was granted alone (--format json has all)")
    for row in currencies:
        figures = [{"figure": name.replace("_", " "), **row[name]} for name in FIGURES]
        screen.show_rows(f"Sums in {row['margin_currency']}", figures, ("figure",), _SIDES)
    for note in what_if.notes:
        screen.say(f"note: {note}")


async def _what_if(
    settings: Settings,
    shard: str | None,
    ledger: Path | None,
    policy: Path,
    sides: tuple[Side, Side],
) -> WhatIf:
    before, after = sides
    other, recorded = load_policy(policy), Recorded(before.apply)
    try:
        await common.take_lines(settings, shard, ledger, recorded.take)
    except CorruptionError as error:
        raise SettingsError(
            f"{error}; what-if needs a ledger that verifies: see `insurance-fund verify`"
        ) from error
    what_if = WhatIf(recorded, other, after.apply)
    await common.take_lines(settings, shard, ledger, what_if.take)
    what_if.finish()
    before.ask(recorded.state)
    after.ask(what_if.state)
    return what_if


def _differs_in_the_end(row: Row) -> bool:
    figures = (row[name] for name in ("outcome", *_COLUMNS) if name != "granted")
    return any(pair["recorded"] != pair["what_if"] for pair in figures)


def _in_one_line(row: Row) -> dict[str, Any]:
    return row | {name: _change(row[name]) for name in ("outcome", *_COLUMNS)}


def _change(pair: dict[str, str]) -> str:
    recorded, what_if = pair["recorded"], pair["what_if"]
    if recorded == what_if:
        return recorded
    difference = pair.get("difference", "")
    sign = "" if difference.startswith("-") else "+"
    return f"{recorded} -> {what_if}" + (f" ({sign}{difference})" if difference else "")
