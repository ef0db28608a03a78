"""Exceptions of the insurance fund, by who must act.

InsuranceFundError
 +-- SettingsError        a person: settings, policy, files or arguments are wrong (exit 2)
 +-- InputError           nobody: a record is poison; it is rejected and the stream goes on
 +-- CorruptionError      a person: a ledger or a log is not what it should be (halt, exit 1)
 |    +-- InvariantError  the money does not add up (halt before anything is written, exit 1)
 +-- ClockError           a person: the clock jumped, or is behind the ledger (halt, exit 1)
 +-- FencedError          nobody: a newer writer took the shard (exit 75)
 +-- CommitUnknownError   a restart: whether a commit happened is not known (exit 1)
 +-- LogUnavailableError  a person: the log cannot be reached, opened or written (exit 2)
 +-- ReadModelsError      a person: the read models cannot be used as they are (exit 2)
"""

from __future__ import annotations


class InsuranceFundError(Exception):
    """Root of everything this project raises on purpose."""


class SettingsError(InsuranceFundError):
    """Settings, a policy, a file or an argument cannot be used as given."""


class InputError(InsuranceFundError):
    """A record breaks a rule of the contract; `reason` is stable, `detail` is for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CorruptionError(InsuranceFundError):
    """A ledger or log is damaged; `sequence` names the ledger entry where that is known."""

    def __init__(self, message: str, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence


class InvariantError(CorruptionError):
    """An invariant of the books does not hold; nothing of it was written."""


class ClockError(InsuranceFundError):
    """The wall clock cannot be trusted for the ledger's time."""


class FencedError(InsuranceFundError):
    """A newer writer has taken this shard; this process must end."""


class CommitUnknownError(InsuranceFundError):
    """A commit ended without a clear answer; only a restart can read what is true."""


class LogUnavailableError(InsuranceFundError):
    """The log is missing, locked, full, unreadable or not ours."""


class ReadModelsError(InsuranceFundError):
    """The database of the read models is missing, damaged, half built or not to be reached."""
