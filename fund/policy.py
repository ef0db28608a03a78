"""Policy: what the operator decides, by name and with limits (docs/rules.md section 6)."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from insurance_fund.events.amounts import exact, is_multiple, number, unit
from insurance_fund.events.codec import unique_object
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import OrderPricing
from insurance_fund.events.terms import KeptPolicy, PolicyDocument

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

_AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,18})?")
# Where a message says that something is wrong: in the words of msgspec, and in ours.
_PLACE = re.compile(r"at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_OWN_PLACE = re.compile(r"policy: (\S+)")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

DurationMs = Annotated[int, Meta(ge=0, le=30 * DAY_MS)]
LifetimeMs = Annotated[int, Meta(ge=1, le=DAY_MS)]
WindowMs = Annotated[int, Meta(ge=MINUTE_MS, le=7 * DAY_MS)]
# Recordings of different years may be imported into one log.
JumpMs = Annotated[int, Meta(ge=0, le=3_660 * DAY_MS)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Attempts = Annotated[tuple[tuple[str, LifetimeMs], ...], Meta(min_length=1, max_length=16)]


class CurrencyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A margin currency: `scale` decimals, and the `floor` below which nothing is granted."""

    scale: Annotated[int, Meta(ge=0, le=18)] = 6
    floor: str = "0"


class InstrumentPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How liquidations of an instrument are priced, capped and deleveraged."""

    order_pricing: OrderPricing = "fund"
    attempts: Attempts = (("0.01", 30_000),)
    adl_fee_rate: str = "0"
    unbounded_price_factor: str = "2"
    liquidation_limit: str | None = None
    instrument_share: str = "0.3"
    instrument_window_ms: WindowMs = 8 * HOUR_MS


class InstrumentOverlay(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What one instrument does otherwise than the default."""

    order_pricing: OrderPricing | UnsetType = UNSET
    attempts: Attempts | UnsetType = UNSET
    adl_fee_rate: str | UnsetType = UNSET
    unbounded_price_factor: str | UnsetType = UNSET
    liquidation_limit: str | UnsetType | None = UNSET
    instrument_share: str | UnsetType = UNSET
    instrument_window_ms: WindowMs | UnsetType = UNSET


DEFAULT_CURRENCIES: Final = {
    "USDT": CurrencyPolicy(scale=6),
    "USDC": CurrencyPolicy(scale=6),
    "BTC": CurrencyPolicy(scale=8),
    "XBT": CurrencyPolicy(scale=8),
    "ETH": CurrencyPolicy(scale=8),
}


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole policy; amounts and rates are decimal strings, times milliseconds."""

    currencies: dict[str, CurrencyPolicy] = msgspec.field(
        default_factory=lambda: dict(DEFAULT_CURRENCIES)
    )
    default: InstrumentPolicy = InstrumentPolicy()
    instruments: dict[str, InstrumentOverlay] = {}
    grace_ms: DurationMs = 2_000
    reservation_hold_ms: DurationMs = 600_000
    replacement_wait_ms: DurationMs = 5_000
    first_order_wait_ms: DurationMs = MINUTE_MS
    missing_fills_alert_ms: DurationMs = MINUTE_MS
    parked_ms: DurationMs = HOUR_MS
    parked_max: Count = 10_000
    closed_max: Count = 100_000
    event_jump_ms_max: JumpMs = 7 * DAY_MS

    def for_instrument(self, instrument_id: str) -> InstrumentPolicy:
        """Return the default overlaid by what the policy says of this instrument."""
        overlay = self.instruments.get(instrument_id)
        if overlay is None:
            return self.default
        return msgspec.structs.replace(
            self.default,
            **{
                name: value
                for name in overlay.__struct_fields__
                if (value := getattr(overlay, name)) is not UNSET
            },
        )

    def kept(self, instrument_id: str, margin_currency: str) -> KeptPolicy:
        """Return what a liquidation keeps of this policy for its whole life."""
        return KeptPolicy(
            **msgspec.structs.asdict(self.for_instrument(instrument_id)),
            **msgspec.structs.asdict(self.currencies[margin_currency]),
            grace_ms=self.grace_ms,
            reservation_hold_ms=self.reservation_hold_ms,
            replacement_wait_ms=self.replacement_wait_ms,
            first_order_wait_ms=self.first_order_wait_ms,
            missing_fills_alert_ms=self.missing_fills_alert_ms,
        )

    @property
    def window_ms_max(self) -> int:
        """Return the longest window of any instrument."""
        overlays = (o.instrument_window_ms for o in self.instruments.values())
        return max(self.default.instrument_window_ms, *(w for w in overlays if w is not UNSET), 0)


@functools.lru_cache(maxsize=4096)
def concessions(kept: KeptPolicy) -> tuple[Decimal, ...]:
    """Return the price concession k of each attempt."""
    return tuple(number(concession) for concession, _ in kept.attempts)


def policy_document(policy: Policy) -> PolicyDocument:
    """Return the policy as the JSON object that the ledger keeps."""
    document: PolicyDocument = msgspec.to_builtins(policy)
    return document


@exact
def parse_policy(document: Any) -> Policy:
    """Build a policy from a JSON or TOML document; defaults fill what is left out.

    Raises SettingsError with the key that is wrong.
    """
    try:
        policy = msgspec.convert(document, Policy, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(f"policy: {error}") from error
    for currency, rules in policy.currencies.items():
        _check(_ID.fullmatch(currency) is not None, f"currencies.{currency}", "is no currency name")
        _amount(f"currencies.{currency}.floor", rules.floor)
        _check(
            is_multiple(number(rules.floor), unit(rules.scale)),
            f"currencies.{currency}.floor",
            f"must have at most {rules.scale} decimals",
        )
    _check_instrument("default", policy.default)
    for instrument_id in policy.instruments:
        path = f"instruments.{instrument_id}"
        _check(_ID.fullmatch(instrument_id) is not None, path, "is no instrument id")
        _check_instrument(path, policy.for_instrument(instrument_id))
    return policy


def load_policy(path: Path) -> Policy:
    """Read a policy file, TOML by its ending `.toml`, else JSON.

    Raises SettingsError where the file cannot be read or says something wrong. Attempts must not
    overlap: each concedes more than the one before.
    """
    try:
        content = path.read_bytes()
        is_toml = path.suffix == ".toml"
        document = tomllib.loads(content.decode()) if is_toml else _strict_json(content)
    except OSError as error:
        raise SettingsError(f"policy {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"policy {path} cannot be read: {error}") from error
    try:
        policy = parse_policy(document)
        _check_attempts("default", policy.default)
        for instrument_id in policy.instruments:
            _check_attempts(f"instruments.{instrument_id}", policy.for_instrument(instrument_id))
    except SettingsError as error:
        line = _line_of(content.decode(), str(error))
        raise SettingsError(f"{path}, line {line}: {error}") from error
    return policy


def _line_of(text: str, message: str) -> int:
    """Return the line of the file on which the key that a message is about stands.

    A key of that name which stands in front of it in the same table is taken for it.
    """
    place = _PLACE.search(message) or _OWN_PLACE.match(message)
    unknown = _UNKNOWN.search(message)
    keys = re.sub(r"\[[^\]]*\]", "", place[1]).split(".") if place else []
    at = 0
    for key in [*keys, *(unknown.groups() if unknown else ())]:
        at = max(at, text.find(key, at)) if key else at
    return text.count("\n", 0, at) + 1


def _strict_json(content: bytes) -> Any:
    return json.loads(content, object_pairs_hook=unique_object, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_instrument(path: str, rules: InstrumentPolicy) -> None:
    for index, (concession, _) in enumerate(rules.attempts):
        _rate(f"{path}.attempts[{index}]", concession)
    _rate(f"{path}.adl_fee_rate", rules.adl_fee_rate)
    _amount(f"{path}.unbounded_price_factor", rules.unbounded_price_factor)
    _check(
        number(rules.unbounded_price_factor) > 0,
        f"{path}.unbounded_price_factor",
        "must be above 0",
    )
    if rules.liquidation_limit is not None:
        _amount(f"{path}.liquidation_limit", rules.liquidation_limit)
    _amount(f"{path}.instrument_share", rules.instrument_share)
    _check(number(rules.instrument_share) <= 1, f"{path}.instrument_share", "must be at most 1")


def _check_attempts(path: str, rules: InstrumentPolicy) -> None:
    # Of files alone: what a ledger was once given is read as it stands.
    concessions = [number(concession) for concession, _ in rules.attempts]
    for index, (before, after) in enumerate(pairwise(concessions), start=1):
        _check(
            after > before,
            f"{path}.attempts[{index}]",
            f"overlaps with the attempt before: it concedes {after}, not more than {before}; let "
            "concessions rise, or give the one before the time of both",
        )


def _rate(path: str, text: str) -> None:
    _amount(path, text)
    _check(number(text) < 1, path, "must be at least 0 and below 1")


def _amount(path: str, text: str) -> None:
    _check(
        _AMOUNT.fullmatch(text) is not None,
        path,
        f'must be a decimal string of zero or more such as "0.01"; got {text!r}',
    )


def _check(holds: bool, path: str, message: str) -> None:
    if not holds:
        raise SettingsError(f"policy: {path} {message}")
