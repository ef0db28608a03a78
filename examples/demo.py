"""The demo: a hand-made day of liquidations through publish, run, status, explain and verify.

Run it with `make demo`. It works in a fresh folder of its own and leaves the log there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SCENARIO = Path(__file__).parent / "scenario"
TOPICS = ("instruments", "fund-transfers", "liquidations", "fills")
TOLD = ("L02-compensated", "L05-late-fill", "L10-whale")
COMMAND = Path(sys.executable).with_name("insurance-fund")


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def call(folder: Path, *arguments: str) -> None:
    print(f"$ insurance-fund {shlex.join(arguments)}", flush=True)
    environment = {**os.environ, "INSURANCE_FUND_LOG": f"sqlite:{folder / 'demo.db'}"}
    subprocess.run([COMMAND, *arguments], check=True, cwd=folder, env=environment)  # noqa: S603


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="insurance-fund-demo-"))
    for source in SCENARIO.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())

    say("What an exchange puts on its bus: 12 liquidations on 3 instruments of one XBT fund")
    for topic in TOPICS:
        call(folder, "publish", topic, f"{topic}.ndjson")

    say("The fund reads it all, by the times of the events")
    call(folder, "run", "--clock", "event", "--until-idle", "--policy", "policy.json")

    say("What a risk desk sees")
    call(folder, "status")

    for liquidation_id in TOLD:
        say(f"Why did {liquidation_id} end as it did?")
        call(folder, "explain", liquidation_id)

    say("What an auditor does: verify the chain and the money, then decide everything again")
    call(folder, "export", "ledger.ndjson")
    call(folder, "verify")
    call(folder, "verify", "--ledger", "ledger.ndjson")
    call(folder, "replay", "--ledger", "ledger.ndjson")

    print(f"\nThe log stays in {folder}. Ask it more, from there, for example:")
    print("  insurance-fund --help")
    print(f"  insurance-fund explain L11-below-limit --log sqlite:{folder / 'demo.db'}")


if __name__ == "__main__":
    main()
