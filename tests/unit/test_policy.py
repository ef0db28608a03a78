"""Policy files: defaults, limits, and errors that name the key (docs/rules.md section 6)."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events.errors import SettingsError
from insurance_fund.fund.policy import Policy, load_policy, parse_policy, policy_document

DEFAULTS = {
    "currencies": {
        "USDT": {"scale": 6, "floor": "0"},
        "USDC": {"scale": 6, "floor": "0"},
        "BTC": {"scale": 8, "floor": "0"},
        "XBT": {"scale": 8, "floor": "0"},
        "ETH": {"scale": 8, "floor": "0"},
    },
    "default": {
        "order_pricing": "fund",
        "attempts": [["0.01", 30_000]],
        "adl_fee_rate": "0",
        "unbounded_price_factor": "2",
        "liquidation_limit": None,
        "instrument_share": "0.3",
        "instrument_window_ms": 28_800_000,
    },
    "instruments": {},
    "grace_ms": 2_000,
    "reservation_hold_ms": 600_000,
    "replacement_wait_ms": 5_000,
    "first_order_wait_ms": 60_000,
    "missing_fills_alert_ms": 60_000,
    "parked_ms": 3_600_000,
    "parked_max": 10_000,
    "closed_max": 100_000,
    "event_jump_ms_max": 604_800_000,
}


def plain(document: Any) -> Any:
    """Return a document with lists in place of tuples."""
    if isinstance(document, dict):
        return {key: plain(value) for key, value in document.items()}
    return [plain(v) for v in document] if isinstance(document, list | tuple) else document


def test_defaults_are_those_of_the_contract_and_are_recorded_whole() -> None:
    assert plain(policy_document(Policy())) == DEFAULTS
    assert parse_policy(policy_document(Policy())) == Policy()


def test_instrument_overlays_the_default_key_by_key() -> None:
    policy = parse_policy(
        {
            "default": {"instrument_share": "0.5", "liquidation_limit": "100"},
            "instruments": {"ETHUSD": {"attempts": [["0", 5000]], "liquidation_limit": None}},
        }
    )
    kept = policy.for_instrument("ETHUSD")
    assert kept.attempts == (("0", 5000),)
    assert (kept.instrument_share, kept.liquidation_limit) == ("0.5", None)
    assert policy.for_instrument("BTCUSDT").liquidation_limit == "100"


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"grace": 1}, "grace"),
        ({"default": {"shares": "1"}}, "shares"),
        ({"instruments": {"A": {"scale": 1}}}, "scale"),
        ({"grace_ms": -1}, "grace_ms"),
        ({"grace_ms": "2000"}, "grace_ms"),
        ({"parked_max": 0}, "parked_max"),
        ({"default": {"attempts": []}}, "attempts"),
        ({"default": {"attempts": [["1", 1000]]}}, "default.attempts[0]"),
        ({"default": {"attempts": [["0.01", 0]]}}, "attempts"),
        ({"default": {"attempts": [[0.01, 1000]]}}, "attempts"),
        ({"default": {"instrument_share": "1.1"}}, "default.instrument_share"),
        ({"default": {"adl_fee_rate": "1"}}, "default.adl_fee_rate"),
        ({"default": {"unbounded_price_factor": "0"}}, "default.unbounded_price_factor"),
        ({"default": {"liquidation_limit": "-1"}}, "default.liquidation_limit"),
        ({"default": {"order_pricing": "venue"}}, "order_pricing"),
        ({"instruments": {"A": {"adl_fee_rate": "x"}}}, "instruments.A.adl_fee_rate"),
        ({"instruments": {"A:B": {}}}, "instruments.A:B"),
        ({"currencies": {"USDT": {"scale": 19}}}, "scale"),
        ({"currencies": {"USDT": {"scale": 2, "floor": "0.001"}}}, "currencies.USDT.floor"),
        ({"currencies": {"US DT": {}}}, "currencies.US DT"),
        ([], "object"),
    ],
)
def test_wrong_policy_is_refused_by_the_key_that_is_wrong(document: Any, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_policy(document)
    assert named in str(refused.value)


def test_large_floor_of_a_fine_currency_is_read_exactly() -> None:
    document = {"currencies": {"ETH": {"scale": 18, "floor": "10000000000.000000000000000001"}}}
    floor = parse_policy(document).currencies["ETH"].floor
    assert floor == "10000000000.000000000000000001"


def test_policy_is_read_from_toml_and_json_alike(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "policy.toml", tmp_path / "policy.json"
    toml.write_text('grace_ms = 1000\n[default]\nattempts = [["0", 5000], ["0.01", 25000]]\n')
    as_json.write_text(
        '{"grace_ms": 1000, "default": {"attempts": [["0", 5000], ["0.01", 25000]]}}'
    )
    assert load_policy(toml) == load_policy(as_json)


@pytest.mark.parametrize(
    "content", ["{", "grace_ms = 1", '{"grace": 1}', '{"grace_ms": 1, "grace_ms": 2}']
)
def test_policy_file_that_cannot_be_used_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"policy\.json"):
        load_policy(path)


@pytest.mark.parametrize("second", ["0.01", "0.005", "0"])
def test_policy_file_whose_attempts_overlap_is_refused(tmp_path: Path, second: str) -> None:
    path = tmp_path / "policy.json"
    attempts = f'[["0", 1], ["0.01", 5], ["{second}", 5]]'
    path.write_text(f'{{"instruments": {{"A": {{"attempts": {attempts}}}}}}}')
    with pytest.raises(SettingsError, match=r"policy: instruments\.A\.attempts\[2\] overlaps"):
        load_policy(path)


@pytest.mark.parametrize(
    ("name", "lines", "line"),
    [
        ("p.json", ['{"grace_ms": 1,', '"default": {', '"liquidation_limit": "-1"}}'], 3),
        ("p.json", ['{"default": {},', '"instruments": {"A": {},', '"B": {"shares": "1"}}}'], 3),
        ("p.json", ['{"default": {"instrument_share": "1"},', '"grace_ms": -1}'], 2),
        ("p.toml", ["grace_ms = 1", "[currencies.USDT]", "scale = 2", 'floor = "0.001"'], 4),
        ("p.toml", ["[instruments.ETH]", 'attempts = [["0.02", 1], ["0.01", 1]]'], 2),
    ],
)
def test_line_of_the_key_that_is_wrong_is_named(
    tmp_path: Path, name: str, lines: list[str], line: int
) -> None:
    path = tmp_path / name
    path.write_text("\n".join(lines))
    with pytest.raises(SettingsError, match=rf"{name}, line {line}: policy: "):
        load_policy(path)


def test_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.json"):
        load_policy(tmp_path / "nowhere.json")


def test_page_on_the_policy_names_every_key_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    shown = dict(
        re.findall(r"^\| `(?:currencies\.<ccy>\.)?(\w+)` \| `(.+?)` \|", page, re.MULTILINE)
    )
    expected = {
        **{k: v for k, v in DEFAULTS.items() if not isinstance(v, dict)},
        **DEFAULTS["default"],  # type: ignore[dict-item]
        **DEFAULTS["currencies"]["USDT"],  # type: ignore[index]
    }
    assert {key: json.loads(default) for key, default in shown.items()} == expected


def test_example_of_the_page_on_the_policy_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    policy = parse_policy(tomllib.loads(example))
    assert policy.for_instrument("BTCUSDT").liquidation_limit == "250000"
