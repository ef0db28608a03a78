"""Replay: decide every cause of a ledger again; the bytes must be equal."""

from __future__ import annotations

from insurance_fund.events.codec import Decoder
from insurance_fund.events.errors import InsuranceFundError
from insurance_fund.events.ledger import (
    PolicyCause,
    decode_entry,
    sha256_hex,
)
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.state import State
from insurance_fund.streams.report import Report


class Replayer:
    """Takes the lines of a ledger one by one and decides each cause again."""

    def __init__(self) -> None:
        self.report = Report()
        self.other_rules: set[int] = set()
        self._keeper = Bookkeeper("", State(), Decoder(record_bytes_max=2**40))
        self._deciding = True

    def take(self, line: bytes) -> None:
        """Decide the next entry again and compare the bytes."""
        report = self.report
        report.entries += 1
        report.head = sha256_hex(line)
        if not self._deciding:
            return
        place = report.entries - 1
        try:
            entry = decode_entry(line)
            if isinstance(entry.cause, PolicyCause) and entry.cause.rules != RULES:
                self.other_rules.add(entry.cause.rules)
            self._keeper.ledger = report.ledger = report.ledger or entry.ledger
            written = self._keeper.again(entry)
        except (InsuranceFundError, KeyError, ArithmeticError, AssertionError) as error:
            report.find(place, f"cannot be decided again: {error}")
            self._deciding = False
            return
        if written.line != line:
            report.find(place, _difference(line, written.line))
            self._deciding = False

    def finish(self) -> Report:
        """End the replay."""
        if not self._deciding:
            self.report.notes.append("entries after the first difference were not decided again")
        return self.report


def _difference(recorded: bytes, decided: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(recorded, decided, strict=False)) if a != b),
        min(len(recorded), len(decided)),
    )
    start = max(0, at - 40)
    return (
        f"decided otherwise from byte {at} on: recorded …{recorded[start : at + 40]!r}, "
        f"decided …{decided[start : at + 40]!r}"
    )
