"""Worked examples of insurance-fund arithmetic by others, run through our own functions.

The file is `shared/vectors/insurance-fund-vectors.json` beside the repository, or the one that
INSURANCE_FUND_VECTORS names. `pytest -rP -k listed` prints what of it is not run, and why.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

import pytest

from tests.unit.vector_cases import NotRunnableError, Vector, agree
from tests.unit.vector_kinds import RUN, run

PATH = Path(
    os.environ.get("INSURANCE_FUND_VECTORS")
    or Path(__file__).parents[3] / "shared" / "vectors" / "insurance-fund-vectors.json"
)

# Kinds that are another system's job than an insurance fund's.
NOT_OURS: Final = {
    "adl_loss_allocation": "how winners share a loss: the ADL engine's",
    "adl_ranking": "whom to deleverage first: the ADL engine's",
    "adl_trigger_gate": "whether equity and market status allow ADL: the risk engine's; our "
    "trigger follows from an order that ended unfilled",
    "disposal_chunk": "taking a position into the market piece by piece: here one order for all "
    "that is left (the exchange may price and split orders itself)",
    "insurance_fee_amount": "a fee on every liquidation: the exchange's; here the fund gets the "
    "whole surplus",
    "insurance_fee_rate": "a fee on every liquidation: the exchange's; here the fund gets the "
    "whole surplus",
    "liquidation_fee_time_ramp": "a concession that grows by time: here by attempts, which the "
    "policy lists",
    "liquidation_limit_price_spread_model": "a price between mark and bankruptcy price by a spread "
    "model: the exchange's (`order_pricing = exchange`)",
    "loss_socialisation_per_contract": "spreading a loss over open interest: never done here, "
    "what is unfilled goes to ADL",
    "loss_socialisation_pro_rata": "spreading a loss over winners: never done here, what is "
    "unfilled goes to ADL",
    "loss_waterfall": "fee pools, tokens and socialisation after the fund; the fund's own part is "
    "held by fund_partial_cover",
    "partial_liquidation_size": "how much of a position to liquidate: the risk engine's, before "
    "the takeover",
}

# Expected fields that a kind of ours carries along but that are not the fund's to say.
NOT_OURS_FIELDS: Final = {
    "fills": "the ADL engine's choice, taken as its executions",
    "liquidation_price": "the risk engine's",
    "liquidated_after": "the ADL engine's account, its part that stays open is compared",
    "long_account_cash": "the counterparty's account",
    "maintenance_margin": "the risk engine's",
    "match": "the ADL engine's choice",
    "offsetting_after": "the counterparty's account",
    "offsetting_cash_after": "the counterparty's account",
    "short_account_cash": "the counterparty's account",
}


def read() -> list[Vector]:
    if not PATH.exists():
        return []
    return [
        Vector(v["id"], v["kind"], v["inputs"], v["expected"])
        for v in json.loads(PATH.read_text(encoding="utf-8"))
    ]


VECTORS: Final = read()
OURS: Final = [vector for vector in VECTORS if vector.kind not in NOT_OURS]

needs_the_file = pytest.mark.skipif(
    not VECTORS, reason=f"{PATH} is not on this machine; INSURANCE_FUND_VECTORS can name another"
)


def what_is_left(vector: Vector) -> list[str]:
    return [
        f"{name} not compared: {NOT_OURS_FIELDS.get(name, 'no rule of ours says it')}"
        for name in vector.not_compared
    ]


@needs_the_file
@pytest.mark.parametrize("vector", OURS, ids=[vector.name for vector in OURS])
def test_vector_comes_out_as_its_source_says(
    vector: Vector, record_property: Callable[[str, object], None]
) -> None:
    if vector.kind not in RUN:
        pytest.fail(
            f"kind {vector.kind!r} is neither run nor listed: write a function of that name in "
            "tests/unit/vector_kinds.py and add it to RUN there, or give in NOT_OURS of "
            "tests/unit/test_vectors.py the reason why it is not this system's job"
        )
    try:
        run(vector)
    except NotRunnableError as reason:
        pytest.skip(f"{vector.name} ({vector.kind}): {reason}")
    for remark in vector.notes + what_is_left(vector):
        record_property("remark", remark)
        print(f"{vector.name}: {remark}")
    assert vector.compared, f"no expected field is known to {vector.kind}: {vector.not_compared}"


@needs_the_file
def test_kinds_that_are_not_our_job_are_listed(
    record_property: Callable[[str, object], None],
) -> None:
    counts = Counter(vector.kind for vector in VECTORS)
    for kind in sorted(counts):
        if kind in NOT_OURS:
            line = f"{kind} ({counts[kind]}): {NOT_OURS[kind]}"
            record_property("not_ours", line)
            print(line)
    unknown = sorted(set(counts) - set(RUN) - set(NOT_OURS))
    assert not unknown, f"neither run (RUN in vector_kinds.py) nor listed (NOT_OURS): {unknown}"


def test_a_kind_is_either_run_or_listed() -> None:
    assert not set(RUN) & set(NOT_OURS)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (Decimal("0.5"), "0.5", True),
        (Decimal("0.500001"), "0.5", False),
        (Fraction(2, 3), "0.666667", True),
        (Fraction(2, 3), "0.666666", False),
        (Fraction(2, 3), "0.6666666667", True),
        (Fraction(2, 3), "0.67", False),
        (Decimal("-1E-18"), "0.0000000000", True),
        (Decimal("-1"), "1", False),
        (None, None, True),
        (Decimal(1), None, False),
        ([Decimal(1)], ["1", "1"], False),
        ("draw", "draw", True),
    ],
)
def test_answers_are_the_same_to_the_last_digit_that_a_source_wrote(
    ours: object, theirs: object, same: bool
) -> None:
    assert agree(ours, theirs) is same
