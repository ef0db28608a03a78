"""How much of everything random: `make test-full` asks for more."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("INSURANCE_FUND_TEST_EXAMPLES", "1"))

# The same lives in every run of `make test`, so that what is red was changed; new ones in
# `make test-full`.
STEADY = EXAMPLES == 1
