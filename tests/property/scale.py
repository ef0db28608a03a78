"""How much of everything random: `make test-full` asks for more."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("INSURANCE_FUND_TEST_EXAMPLES", "1"))
