"""State: what the ledger has come to. Only `evolve` changes it.

Amounts are exact numbers of the margin currency, quantities contracts. Balances stand here and in
the postings; each is checked against the other after every entry.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from decimal import Decimal
from typing import Final, Literal

import msgspec

from insurance_fund.events.amounts import ZERO
from insurance_fund.events.fields import Clock, PositionSide
from insurance_fund.events.ledger import GENESIS
from insurance_fund.events.terms import Caps, KeptPolicy, Terms
from insurance_fund.fund.contracts import Contract, Takeover, contract_of
from insurance_fund.fund.policy import Policy
from insurance_fund.fund.waits import Deadlines, Parked, Waiting
from insurance_fund.fund.windows import Window

# Written into snapshots; bumped by any change in the shape of State, or in what `evolve` comes to.
STATE_VERSION: Final = 2

OrderStatus = Literal["open", "overdue", "closed"]


class Fund(msgspec.Struct):
    """The fund of one margin currency. `shortfall` is at or below zero.

    `held` is the sum of all reservations, kept apart from `reserved` so that one checks the other;
    so are `transfers` (in, less out) and `deltas` against the balances.
    """

    available: Decimal = ZERO
    reserved: Decimal = ZERO
    shortfall: Decimal = ZERO
    held: Decimal = ZERO
    transfers: Decimal = ZERO
    deltas: Decimal = ZERO
    withdrawn: Decimal = ZERO
    totals: Window = msgspec.field(default_factory=lambda: Window([]))

    @property
    def total(self) -> Decimal:
        """Return T, what the fund has: available and reserved."""
        return self.available + self.reserved


class Instrument(msgspec.Struct):
    """An instrument: its terms now, and what it has cost or brought the fund so far."""

    terms: Terms
    delta: Decimal = ZERO
    reserved: Decimal = ZERO
    deltas: Window = msgspec.field(default_factory=lambda: Window([]))


class Order(msgspec.Struct):
    """A liquidation order. `reported` is the exchange's filled quantity, None before its report.

    `overdue` means dead by our deadline without a report; `held` that its reservation is kept.
    """

    order_id: str
    price: Decimal
    quantity: Decimal
    expires_at_ms: int
    attempt: int = 0
    step: int = 0
    status: OrderStatus = "open"
    held: bool = False
    seen: Decimal = ZERO
    reported: Decimal | None = None
    report: str | None = None
    reserved: Decimal = ZERO
    granted: Decimal = ZERO
    caps: Caps | None = None
    binding_cap: str | None = None

    @property
    def rest(self) -> Decimal:
        """Return what was ordered and not seen filled."""
        return self.quantity - self.seen

    @property
    def accounted(self) -> Decimal:
        """Return what counts as filled: seen or reported, whichever is more."""
        return self.seen if self.reported is None else max(self.seen, self.reported)

    @property
    def awaited(self) -> Decimal:
        """Return what was reported filled and no fill has shown."""
        return self.accounted - self.seen

    @property
    def claim(self) -> Decimal:
        """Return the quantity for which this order may hold a reservation."""
        return self.rest if self.status == "open" or self.held else self.awaited


class Trigger(msgspec.Struct):
    """The ADL trigger of a liquidation; `quantity` is executed plus still to be executed."""

    revision: int
    quantity: Decimal
    price: str
    reason: str


class Liquidation(msgspec.Struct, dict=True):
    """A position being liquidated, under the terms and the policy of its takeover.

    `closed` contracts are booked (fills and ADL), `notional` is the sum of their notionals, `pnl`,
    `fees` and `booked` are B, Phi and F of docs/rules.md section 3. `open_quantity` is what open
    orders may still fill, `accounted` the sum of what orders count as filled; `holders` names the
    orders that hold a reservation.
    """

    liquidation_id: str
    margin_currency: str
    account_id: str
    side: PositionSide
    quantity: Decimal
    entry_price: Decimal
    margin: Decimal
    mark_price: Decimal | None
    bankruptcy_price: str | None
    terms: Terms
    policy: KeptPolicy
    orders: dict[str, Order]
    keys: dict[str, str]
    closed: Decimal = ZERO
    notional: Decimal = ZERO
    pnl: Decimal = ZERO
    fees: Decimal = ZERO
    booked: Decimal = ZERO
    deleveraged: Decimal = ZERO
    accounted: Decimal = ZERO
    open_quantity: Decimal = ZERO
    reserved: Decimal = ZERO
    holders: dict[str, None] = {}
    granted: Decimal = ZERO
    draws: Decimal = ZERO
    shortfall: Decimal = ZERO
    trigger: Trigger | None = None
    newest_event_ms: int = 0

    @functools.cached_property
    def takeover(self) -> Takeover:
        """Return the fixed numbers of the position."""
        return Takeover(
            contract_of(self.terms),
            self.side,
            self.quantity,
            self.entry_price,
            self.margin,
            self.policy.scale,
        )

    @property
    def trigger_id(self) -> str:
        """Return the id of the liquidation's one trigger."""
        return f"{self.liquidation_id}:adl"

    @property
    def uncovered(self) -> Decimal:
        """Return what is left and no open order may fill."""
        return max(ZERO, self.residual - self.open_quantity)

    @property
    def contract(self) -> Contract:
        """Return the numbers of the terms."""
        return self.takeover.contract

    @property
    def residual(self) -> Decimal:
        """Return what is neither deleveraged nor filled by the best knowledge there is."""
        return self.quantity - self.deleveraged - self.accounted

    @property
    def trigger_target(self) -> Decimal:
        """Return what the trigger still asks for; ADL may have taken more than it asked."""
        if self.trigger is None:
            return ZERO
        return max(ZERO, self.trigger.quantity - self.deleveraged)

    @property
    def last_order(self) -> Order | None:
        """Return the newest order."""
        return next(reversed(self.orders.values())) if self.orders else None


# There are many of them, and in none a cycle that the collector would have to look for.
class ClosedLiquidation(msgspec.Struct, gc=False):
    """What is remembered of a closed liquidation, to know duplicates and late comers."""

    keys: dict[str, str]
    seen: dict[str, Decimal]
    deleveraged: bool
    newest_event_ms: int


class SeenTransfer(msgspec.Struct):
    """A transfer that was booked."""

    content: str
    event_time_ms: int


class State(msgspec.Struct, dict=True):
    """Everything that the entries so far have come to.

    `sequence` is that of the next entry, `head` the SHA-256 of the last one's bytes.
    """

    sequence: int = 0
    head: str = GENESIS
    now_ms: int = 0
    ledger: str = ""
    clock: Clock | None = None
    policy: Policy = Policy()
    routing: dict[str, str] = {}
    rules: int = 0
    software: str = ""
    window_ms_max: int = 0
    newest_event_ms: int | None = None
    funds: dict[str, Fund] = {}
    instruments: dict[str, Instrument] = {}
    liquidations: dict[str, Liquidation] = {}
    # Rings, which lose their oldest: a plain dict would be searched from its beginning each time.
    closed: dict[str, ClosedLiquidation] = msgspec.field(default_factory=OrderedDict)
    closed_forgotten_ms: int = -1
    executions: dict[str, str] = {}
    transfers: dict[str, SeenTransfer] = msgspec.field(default_factory=OrderedDict)
    transfers_forgotten_ms: int = -1
    parked: dict[str, Parked] = msgspec.field(default_factory=OrderedDict)
    parked_keys: dict[str, str] = {}
    deadlines: dict[str, int] = {}

    @functools.cached_property
    def schedule(self) -> Deadlines:
        """Return the deadlines in the order in which they fall due; derived, never stored."""
        return Deadlines(self.deadlines)

    @functools.cached_property
    def waiting(self) -> Waiting:
        """Return the parked records by what they wait for; derived, never stored."""
        return Waiting(self.parked.values())


_encoder = msgspec.json.Encoder(order="deterministic")


def snapshot_bytes(state: State) -> bytes:
    """Return the state as bytes; equal states give equal bytes."""
    return _encoder.encode(state)
