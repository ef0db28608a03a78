"""What `replay --policy` shows: the differences that another policy makes, and the caveat."""

from __future__ import annotations

from typing import Any, Final

from insurance_fund.cli import screen
from insurance_fund.streams.tally import FIGURES, Row, differing_liquidations, sums_by_currency
from insurance_fund.streams.whatif import WhatIf

_SIDES: Final = ("recorded", "what_if", "difference")
_COLUMNS: Final = ("delta", "granted", "deleveraged", "deleveraged_notional")


def show(what_if: WhatIf, output: screen.Format) -> None:
    """Print the differences per liquidation and the sums per margin currency."""
    recorded = what_if.recorded
    liquidations = differing_liquidations(recorded.tally, what_if.tally)
    currencies = sums_by_currency(recorded.tally, what_if.tally)
    if output is screen.Format.JSON:
        screen.show_json(
            {
                "ledger": recorded.state.ledger,
                "entries": recorded.state.sequence,
                "head": recorded.state.head,
                "liquidations_in_all": len(recorded.tally.liquidations),
                "liquidations": liquidations,
                "currencies": currencies,
                "notes": what_if.notes,
            }
        )
        return
    entries = screen.counted(recorded.state.sequence, "entry", "entries")
    screen.say(f"ledger {recorded.state.ledger}: {entries} decided under another policy")
    in_all = screen.counted(len(recorded.tally.liquidations), "liquidation")
    screen.show_rows(
        f"Differences, recorded -> what-if, {len(liquidations)} of {in_all}",
        [_in_one_line(row) for row in liquidations],
        ("liquidation_id", "instrument_id", "outcome"),
        _COLUMNS,
    )
    for row in currencies:
        figures = [{"figure": name.replace("_", " "), **row[name]} for name in FIGURES]
        screen.show_rows(f"Sums in {row['margin_currency']}", figures, ("figure",), _SIDES)
    for note in what_if.notes:
        screen.say(f"note: {note}")


def _in_one_line(row: Row) -> dict[str, Any]:
    return row | {name: _change(row[name]) for name in ("outcome", *_COLUMNS)}


def _change(pair: dict[str, str]) -> str:
    recorded, what_if = pair["recorded"], pair["what_if"]
    if recorded == what_if:
        return recorded
    difference = pair.get("difference", "")
    sign = "" if difference.startswith("-") else "+"
    return f"{recorded} -> {what_if}" + (f" ({sign}{difference})" if difference else "")
