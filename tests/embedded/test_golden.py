"""A golden ledger: whoever changes what `decide` answers has to give the rules a new number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from insurance_fund.fund.decide import RULES
from tests.embedded.command import run_command

SCENARIO = Path(__file__).parents[2] / "examples" / "scenario"
TOPICS = ("instruments", "fund-transfers", "liquidations", "fills")

# The effects of the scenario in examples/, by the number of the rules that decided them. A number
# that a release has gone out with never changes; new rules get a new line.
GOLDEN = {1: "05d78d49be2f0aa2614af19683a87a842ad8f96d653f69075180dcffc3e720a5"}


def test_effects_of_the_scenario_are_those_of_these_rules(tmp_path: Path) -> None:
    for topic in TOPICS:
        run_command(tmp_path, "publish", topic, SCENARIO / f"{topic}.ndjson")
    policy = SCENARIO / "policy.json"
    run_command(tmp_path, "run", "--clock", "event", "--until-idle", "--policy", policy)
    run_command(tmp_path, "export", "ledger.ndjson")
    digest = hashlib.sha256()
    for line in (tmp_path / "ledger.ndjson").read_bytes().splitlines()[1:]:
        entry = json.loads(line)
        told = {"effects": entry["effects"], "emitted": [e["id"] for e in entry["emitted"]]}
        digest.update(json.dumps(told, sort_keys=True).encode())
    assert digest.hexdigest() == GOLDEN[RULES], (
        "decide answers otherwise than these rules did: bump RULES in fund/decide.py and add a line"
    )
