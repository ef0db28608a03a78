"""What an audit reports: findings, each with the ledger sequence where it is, and notes."""

from __future__ import annotations

from dataclasses import dataclass, field

from insurance_fund.events.ledger import (
    GENESIS,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, and the ledger sequence where it is; None where no entry is to blame."""

    sequence: int | None
    message: str


@dataclass(slots=True)
class Report:
    """What an audit found."""

    ledger: str = ""
    entries: int = 0
    head: str = GENESIS
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, sequence: int | None, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(sequence, message))
