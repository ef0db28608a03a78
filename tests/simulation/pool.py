"""Work for all cores: simulations share nothing, so each worker plays its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, TypeVar

from insurance_fund.streams.simulator.faults import Fault
from insurance_fund.streams.simulator.scenario import random_scenario
from insurance_fund.streams.simulator.trial import disturbed, undisturbed

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 25

# Two lists of faults, and what was found wrong with them.
Failure = tuple[Sequence[Fault], Sequence[str]]


def spread(work: Callable[[Sequence[T]], R], items: Iterable[T]) -> Iterator[R]:
    """Yield what comes of each portion of the items, on all cores."""
    listed = list(items)
    portions = [listed[at : at + AT_ONCE] for at in range(0, len(listed), AT_ONCE)]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, portions)


class Crashes:
    """Plays one scenario again and again, each time with other faults."""

    def __init__(self, seed: int, inputs: int) -> None:
        self.seed = seed
        self.inputs = inputs

    def __call__(self, plans: Sequence[Sequence[Fault]]) -> tuple[int, list[Failure]]:
        """Return how many faults came about, and the plans that failed."""
        scenario = random_scenario(self.seed, self.inputs)
        calm = undisturbed(scenario)
        came, failures = 0, []
        for plan in plans:
            run, found = disturbed(scenario, plan, calm)
            came += sum(run.faults[fault.kind] for fault in plan)
            if found:
                failures.append((plan, found))
        return came, failures
