"""The tape: what was traded on a market, as a source adapter read it or a synthetic one made it."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Trade(NamedTuple):
    """One trade at `time_ms`: `quantity` contracts of the instrument at `price`, both positive."""

    time_ms: int
    instrument_id: str
    price: Decimal
    quantity: Decimal
