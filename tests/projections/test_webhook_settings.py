"""Targets in the settings: what is taken, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.webhook import Webhook
from insurance_fund.settings import load_settings
from insurance_fund.webhook_settings import choose_webhook, read_webhooks

DESK = {"url": "https://desk.example/adl?team=risk"}


def test_targets_are_read_from_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "insurance-fund.toml"
    file.write_text(
        '[webhooks.desk]\nurl = "https://desk.example/adl"\ntoken_file = "token"\n'
        '[webhooks.pager]\nurl = "http://127.0.0.1:9/x"\n'
    )
    settings = load_settings({}, {"INSURANCE_FUND_CONFIG": str(file)})
    assert settings.webhooks == {
        "desk": Webhook("desk", "https://desk.example/adl", Path("token")),
        "pager": Webhook("pager", "http://127.0.0.1:9/x"),
    }
    assert "desk.example" not in repr(settings.webhooks)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("x", "webhooks must be tables"),
        ({"de sk": DESK}, "'de sk' is no name for a target"),
        ({"desk": "https://desk.example"}, "webhooks.desk must be a table"),
        ({"desk": {}}, "webhooks.desk.url must be https://HOST/PATH"),
        ({"desk": {"url": 5}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "ftp://desk.example"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "desk.example/adl"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "https://desk.example:port/"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "https://desk.example/a b"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "https://desk.example/\n"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "https://[::1/"}}, "webhooks.desk.url must be"),
        ({"desk": {"url": "https://u:secret@desk.example"}}, "must not have a user or a password"),
        ({"desk": {**DESK, "token": "x"}}, "unknown setting 'token'; known are: url, token_file"),
        ({"desk": {**DESK, "token_file": 5}}, "webhooks.desk.token_file must be the path"),
        (
            {"desk": {"url": "http://desk.example", "token_file": "t"}},
            "a token must not go in the clear beyond this machine",
        ),
    ],
)
def test_what_is_wrong_with_a_target_is_told_by_name(table: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_webhooks(table)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_token_may_go_in_the_clear_on_this_machine() -> None:
    for host in ("127.0.0.1:8", "localhost", "[::1]:8"):
        read_webhooks({"desk": {"url": f"http://{host}/", "token_file": "t"}})


def test_the_only_target_needs_no_name() -> None:
    desk = read_webhooks({"desk": DESK})
    assert choose_webhook(desk, None) == desk["desk"]
    two = read_webhooks({"desk": DESK, "pager": DESK})
    assert choose_webhook(two, "pager").name == "pager"
    for targets, name, told in (
        ({}, None, "no webhook in the settings"),
        (two, None, "INSURANCE_FUND_WEBHOOK): desk, pager"),
        (two, "risk", "no webhook 'risk' in the settings; there are: desk, pager"),
    ):
        with pytest.raises(SettingsError) as caught:
            choose_webhook(targets, name)
        assert told in str(caught.value)
