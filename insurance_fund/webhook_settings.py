"""The settings of webhooks: the targets that hear of ADL triggers, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from insurance_fund.events.errors import SettingsError
from insurance_fund.projections.webhook import Webhook

KEYS: Final = ("url", "token_file")
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def read_webhooks(document: Any) -> dict[str, Webhook]:
    """Return the targets that the table `[webhooks]` of a settings file tells of, by name.

    Raises SettingsError with the name of what is wrong.
    """
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError('webhooks must be tables: [webhooks.desk] with url = "https://..."')
    return {name: _webhook(name, table) for name, table in document.items()}


def choose_webhook(webhooks: Mapping[str, Webhook], name: str | None) -> Webhook:
    """Return the target of this name; without one, the only one that there is.

    Raises SettingsError.
    """
    known = ", ".join(webhooks)
    if not webhooks:
        raise SettingsError(
            "no webhook in the settings: a settings file names targets, [webhooks.desk] with url = "
            '"https://..."'
        )
    if name is None:
        if len(webhooks) > 1:
            raise SettingsError(
                f"say which webhook this worker serves (INSURANCE_FUND_WEBHOOK): {known}"
            )
        return next(iter(webhooks.values()))
    if name not in webhooks:
        raise SettingsError(f"no webhook {name!r} in the settings; there are: {known}")
    return webhooks[name]


def _webhook(name: str, table: Any) -> Webhook:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"webhooks: {name!r} is no name for a target: up to 64 letters, digits, '_' and '-'"
        )
    if not isinstance(table, dict):
        raise SettingsError(
            f'webhooks.{name} must be a table: [webhooks.{name}] with url = "https://..."'
        )
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise SettingsError(
            f"webhooks.{name}: unknown setting {unknown[0]!r}; known are: {', '.join(KEYS)}"
        )
    token_file = table.get("token_file")
    if token_file is not None and (not isinstance(token_file, str) or not token_file):
        raise SettingsError(f"webhooks.{name}.token_file must be the path of a file")
    url = _checked_url(name, table.get("url"), has_token=token_file is not None)
    return Webhook(name, url, None if token_file is None else Path(token_file))


def _checked_url(name: str, given: Any, *, has_token: bool) -> str:
    """Return a URL; raise SettingsError for what cannot be posted to, or would show a secret."""
    url = given if isinstance(given, str) else ""
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        host = user = None
        parts = urlsplit("")
    is_clean = url.isprintable() and " " not in url and not parts.fragment
    if parts.scheme not in {"http", "https"} or not host or not is_clean:
        raise SettingsError(f"webhooks.{name}.url must be https://HOST/PATH or http://HOST/PATH")
    if user is not None or parts.password is not None:
        raise SettingsError(
            f"webhooks.{name}.url must not have a user or a password in it: name a file with a "
            "bearer token in token_file"
        )
    if has_token and parts.scheme == "http" and host not in LOOPBACK:
        raise SettingsError(
            f"webhooks.{name}: a token must not go in the clear beyond this machine: use https"
        )
    return url
