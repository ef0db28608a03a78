"""A trial: one random scenario without faults and with them, and what is wrong between the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from insurance_fund.streams.simulator.broker import Broker
from insurance_fund.streams.simulator.checks import calls_allowed, findings
from insurance_fund.streams.simulator.faults import Fault, Kind, random_faults
from insurance_fund.streams.simulator.play import Build, build, play
from insurance_fund.streams.simulator.run import Run
from insurance_fund.streams.simulator.scenario import Scenario, random_scenario

INPUTS: Final = 300
# Far above what any scenario takes: a bound, not a measure.
CALLS_A_RECORD: Final = 100


@dataclass(slots=True)
class Outcome:
    """What trials came to; `failures` has what is wrong, by seed, and is empty if all held.

    `faults_min` is how many faults the scenario with the fewest had, none counted that the run
    without faults had as well; `from_snapshots` how many processes began from a snapshot.
    """

    trials: int = 0
    inputs: int = 0
    calls: int = 0
    faults_min: int = 2**31
    from_snapshots: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    failures: dict[int, Sequence[str]] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Add what further trials came to."""
        self.trials += other.trials
        self.inputs += other.inputs
        self.calls += other.calls
        self.from_snapshots += other.from_snapshots
        self.faults_min = min(self.faults_min, other.faults_min)
        self.faults += other.faults
        self.endings += other.endings
        self.failures.update(other.failures)


def undisturbed(scenario: Scenario, build: Build = build) -> Run:
    """Play a scenario without faults."""
    calls_max = CALLS_A_RECORD * (scenario.inputs + len(scenario.waves))
    return play(scenario, calls_max=calls_max, build=build)


def disturbed(
    scenario: Scenario,
    faults: Sequence[Fault],
    calm: Run,
    *,
    build: Build = build,
    broker: Broker | None = None,
) -> tuple[Run, Sequence[str]]:
    """Play a scenario with faults and check it against the run without."""
    calls_max = (len(faults) + 1) * calls_allowed(calm)
    run = play(scenario, faults, calls_max=calls_max, build=build, broker=broker)
    return run, findings(scenario, run, calm)


def trial(seed: int, inputs: int = INPUTS) -> Outcome:
    """Make up a scenario and faults, and play them; the same seed gives the same."""
    scenario = random_scenario(seed, inputs)
    calm = undisturbed(scenario)
    run, found = disturbed(scenario, random_faults(seed, scenario, calm.calls), calm)
    happened = sum(run.faults[kind] for kind in Kind)
    failures = {seed: found} if found else {}
    return Outcome(
        trials=1,
        inputs=scenario.inputs,
        calls=run.calls,
        faults_min=happened,
        from_snapshots=run.from_snapshots,
        faults=run.faults,
        endings=run.endings,
        failures=failures,
    )


def trials(seeds: Iterable[int]) -> Outcome:
    """Try one seed after the other."""
    outcome = Outcome()
    for seed in seeds:
        try:
            outcome.add(trial(seed))
        except Exception as error:  # noqa: BLE001 - a finding like any other, with its seed
            outcome.add(Outcome(trials=1, failures={seed: [f"it ended with {error!r}"]}))
    return outcome
