"""Values that effects copy: the terms of an instrument and the policy that a liquidation keeps."""

from __future__ import annotations

from typing import Any

import msgspec

from insurance_fund.events.fields import ContractType, Id, OrderPricing, Positive, Rate


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Terms of an instrument.

    `contract_size` is base units (linear), quote units (inverse), or margin currency per 1.0 of
    price (quanto), each per contract; `closing_fee_rate` is a fraction of notional.
    """

    instrument_id: Id
    margin_currency: Id
    contract_type: ContractType
    contract_size: Positive
    tick_size: Positive
    quantity_step: Positive
    closing_fee_rate: Rate


class KeptPolicy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Policy as of a takeover: the instrument's rules and the waits, in milliseconds.

    `attempts` is a list of (price concession, lifetime in milliseconds); `liquidation_limit` is an
    amount of the margin currency or None for no limit.
    """

    order_pricing: OrderPricing
    attempts: tuple[tuple[str, int], ...]
    adl_fee_rate: str
    unbounded_price_factor: str
    liquidation_limit: str | None
    instrument_share: str
    instrument_window_ms: int
    scale: int
    floor: str
    grace_ms: int
    reservation_hold_ms: int
    replacement_wait_ms: int
    first_order_wait_ms: int
    missing_fills_alert_ms: int


class Caps(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Caps on a compensation, in the margin currency; None where a cap does not apply."""

    price_concession: str | None
    fund: str
    per_liquidation: str | None
    per_instrument: str


class Position(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a partition was read up to, and the fingerprint of the last record consumed."""

    next_offset: int
    last_offset: int
    sha256: str
    timestamp_ms: int


PolicyDocument = dict[str, Any]
