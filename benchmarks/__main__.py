"""Print the speeds of the fund on this machine: medians of 5 runs, each in a process of its own."""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.cases import CASES, make_ledger

LEDGER_READERS = ("recovery", "recovery_from_snapshot", "verify", "replay", "read_models")


def _peak_mib() -> float:
    # The high-water mark of this program alone; getrusage counts what the parent had at the fork.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _in_a_process(name: str, entries: int, ledger: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks", "--one", name, "--ledger", str(ledger)]
    command += ["--entries", str(entries)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, peak = done.stdout.split()
    return float(rate), float(peak)


def _table(names: list[str], rounds: int, scale: float, folder: Path) -> None:
    print(f"medians of {rounds}; {_machine()}")
    print(f"{'case':36} {'entries':>10} {'aim /s':>10} {'per second':>11} {'us':>6} {'MiB':>6}")
    ledger = folder / "ledger.db"
    for name in names:
        case = CASES[name]
        entries = int(case.entries * scale)
        if case.needs is not None and not case.needs.exists():
            print(f"{case.label:36} skipped: {case.needs} is not on this machine")
            continue
        if name in LEDGER_READERS and not ledger.exists():
            _in_a_process("make_ledger", int(CASES["recovery"].entries * scale), ledger)
        runs = [_in_a_process(name, entries, ledger) for _ in range(rounds)]
        rate = statistics.median(rate for rate, _ in runs)
        peak = statistics.median(peak for _, peak in runs)
        aim = f"{case.aim:,}" if case.aim else "-"
        print(
            f"{case.label:36} {entries:>10,} {aim:>10} {rate:>11,.0f} "
            f"{1e6 / rate:>6.1f} "
            f"{peak:>6,.0f}",
            flush=True,
        )


def _profile(folder: Path) -> None:
    profile = cProfile.Profile()
    profile.enable()
    CASES["fold"].run(14_000, folder / "ledger.db")
    profile.disable()
    rooms: Counter[str] = Counter()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, function), (_, _, own, _, callers) in stats.items():
        if Path(file).exists():
            rooms[Path(file).stem] += own
            continue
        for (caller, _, _), (_, _, share, _) in callers.items():
            rooms[Path(caller).stem if Path(caller).exists() else function] += share
    total = sum(rooms.values())
    print("where the time of (a) goes, by module, with what it calls in C")
    for room, seconds in rooms.most_common(16):
        print(f"{room:20} {100 * seconds / total:>5.1f} %")


def main() -> None:
    """Run all cases, or some, or one of them in this process."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", choices=CASES, nargs="*", help="run these cases only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the entries")
    parser.add_argument("--profile", action="store_true", help="show where the time of (a) goes")
    parser.add_argument("--one", choices=[*CASES, "make_ledger"], help=argparse.SUPPRESS)
    parser.add_argument("--entries", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ledger", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = make_ledger if arguments.one == "make_ledger" else CASES[arguments.one].run
        print(run(arguments.entries, arguments.ledger), _peak_mib())
        return
    with tempfile.TemporaryDirectory() as name:
        if arguments.profile:
            _profile(Path(name))
        else:
            _table(arguments.only or list(CASES), arguments.rounds, arguments.scale, Path(name))


if __name__ == "__main__":
    main()
