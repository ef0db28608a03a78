"""The command `simulate`: the fault simulator, for anybody who doubts."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Annotated, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.cli.play import typed
from insurance_fund.streams.simulator.trial import Outcome, trials

SEEDS_AT_ONCE: Final = 10
FINDINGS_SHOWN: Final = 5


def simulate(
    seeds: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many scenarios.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Play random scenarios with and without faults; every byte must be the same.

    Each has some 300 records and at least 5 faults: crashes in front of, amid and after calls, lost
    replies, commits that come late, rival processes, slow and pinned partitions, clock jumps.
    """
    outcome = Outcome()
    chunks = [
        range(first, min(first + SEEDS_AT_ONCE, seed + seeds))
        for first in range(seed, seed + seeds, SEEDS_AT_ONCE)
    ]
    signal.signal(signal.SIGTERM, _interrupt)
    with screen.progress_bar("simulating", seeds) as moved:
        for done in map(trials, chunks) if len(chunks) == 1 else _spread(chunks):
            outcome.add(done)
            moved(outcome.trials, seeds)
    if output is screen.Format.JSON:
        screen.show_json(
            {
                "scenarios": outcome.trials,
                "inputs": outcome.inputs,
                "calls": outcome.calls,
                "from_snapshots": outcome.from_snapshots,
                "faults": {str(kind): times for kind, times in sorted(outcome.faults.items())},
                "endings": dict(sorted(outcome.endings.items())),
                "failures": {str(s): list(f) for s, f in sorted(outcome.failures.items())},
            }
        )
    else:
        _print(outcome)
    if outcome.failures:
        raise typer.Exit(common.EXIT_FOUND)


def _spread(chunks: Sequence[range]) -> Iterator[Outcome]:
    """Yield what comes of each chunk, as it comes, from workers on all cores."""
    # They share nothing with this process, whatever it holds open, and end with it.
    context = multiprocessing.get_context("spawn")
    ignored = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(os.cpu_count(), context, signal.signal, ignored)
    try:
        for done in as_completed([pool.submit(trials, chunk) for chunk in chunks]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print(outcome: Outcome) -> None:
    rows = [
        {"what_went_wrong": str(what), "times": f"{times:,}"}
        for what, times in sorted(outcome.faults.items(), key=lambda one: -one[1])
    ]
    screen.show_rows("Faults", rows, ("what_went_wrong",), ("times",))
    ended = sum(outcome.endings.values())
    screen.say(
        f"{screen.counted(outcome.trials, 'scenario')} with {outcome.inputs:,} records, "
        f"{outcome.calls:,} calls of the log, {ended:,} processes, {outcome.from_snapshots:,} of "
        "them from a snapshot"
    )
    for seed, findings in sorted(outcome.failures.items())[:FINDINGS_SHOWN]:
        for finding in findings[:FINDINGS_SHOWN]:
            screen.say(f": {finding}", head=f"seed {seed}", style="bold red")
        screen.say(f"again: {typed('simulate', '--seed', str(seed), '--seeds', '1')}")
    if outcome.failures:
        screen.say(f"{screen.counted(len(outcome.failures), 'scenario')} failed")
        return
    screen.say(
        ": every input is covered exactly once, no reader saw what is not in the final ledger, "
        "what was sent is what is listed, the books balance, and every byte is that of the run "
        "without faults",
        head="held",
        style="bold green",
    )
