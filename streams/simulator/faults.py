"""Faults: what can go wrong with a call of the log port, and with the process that makes it."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from insurance_fund.streams.simulator.scenario import Scenario

# A delayed commit comes after so many further calls at the latest: behind a restart, or amid one.
DELAY_MAX: Final = 60
FAULTS: Final = (8, 14)
# Of the scenarios without snapshots, which do not look at old entries again.
DAMAGED_ONE_IN: Final = 5


class Kind(enum.StrEnum):
    """What goes wrong."""

    CRASH_BEFORE = "crash before the call"
    CRASH_AMID = "crash amid the call"
    CRASH_AFTER = "crash after the call"
    NO_ANSWER = "no answer, nothing done"
    LOST_REPLY = "done, reply lost"
    DELAYED = "no answer, done later"
    RIVAL = "a second process starts"
    CLOCK_JUMP = "the clock jumps"
    STALE_END = "stale end offset"
    SLOW = "slow partition"
    TWICE = "a record delivered twice"
    LEDGER_DAMAGED = "an entry of the ledger is lost or altered"


# To which calls a fault can happen, where not to all: it happens to the next that fits.
_WRITES: Final = frozenset({"commit", "take", "publish"})
_FITS: Final[dict[Kind, frozenset[str]]] = {
    Kind.CRASH_AMID: frozenset({"commit"}),
    Kind.LOST_REPLY: _WRITES,
    Kind.DELAYED: _WRITES,
    Kind.STALE_END: frozenset({"end_offset"}),
    Kind.SLOW: frozenset({"read"}),
    Kind.TWICE: frozenset({"read"}),
    Kind.CLOCK_JUMP: frozenset({"wait"}),
}
_COMMIT_FAULTS: Final = frozenset({Kind.LOST_REPLY, Kind.DELAYED, Kind.CRASH_AMID})

# Answers that say less, or more, than there is.
LIES: Final = frozenset({Kind.STALE_END, Kind.SLOW, Kind.TWICE})

_ANYWHERE: Final = frozenset(Kind) - {
    Kind.SLOW,
    Kind.STALE_END,
    Kind.CLOCK_JUMP,
    Kind.LEDGER_DAMAGED,
}


class Fault(NamedTuple):
    """A fault at the first call from number `call` on that it can happen to.

    `delay` is how many calls later a delayed effect comes about.
    """

    call: int
    kind: Kind
    delay: int = 0

    def fits(self, name: str) -> bool:
        """Tell whether this fault can happen to a call."""
        fitting = _FITS.get(self.kind)
        return fitting is None or name in fitting


class Crash(BaseException):
    """The process is gone at this point: nothing in it may catch this."""


def random_faults(seed: int, scenario: Scenario, calls: int) -> list[Fault]:
    """Choose faults for a run that makes about `calls` calls; the same seed gives the same."""
    rng = random.Random(seed)  # noqa: S311 - to be made again, not secret
    kinds: Sequence[Kind] = sorted(_ANYWHERE | {_sometimes(scenario)})
    weights = [3 if kind in _COMMIT_FAULTS else 1 for kind in kinds]
    number = rng.randint(*FAULTS)
    faults = sorted(
        Fault(rng.randrange(calls * 9 // 10), kind, rng.randint(1, DELAY_MAX))
        for kind in rng.choices(kinds, weights, k=number)
    )
    if not scenario.snapshot_entries and rng.randrange(DAMAGED_ONE_IN) == 0:
        # Behind all others, because nothing goes on after it.
        faults.append(Fault(faults[-1].call + 1, Kind.LEDGER_DAMAGED, rng.randint(1, DELAY_MAX)))
    return faults


def _sometimes(scenario: Scenario) -> Kind:
    # By the wall clock the order in which records are taken is that of the reading, and what comes
    # late stands elsewhere in the ledger: there partitions are slow and ends stale by the scenario,
    # so that both runs are told the same. By the times of events a partition that is slow or pinned
    # is known by its end, so that must not be stale as well.
    if scenario.clock == "wall":
        return Kind.CLOCK_JUMP
    pinned = any(wave.pinned for wave in scenario.waves)
    return Kind.SLOW if pinned else Kind.STALE_END
