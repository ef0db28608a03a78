"""Log URLs: where the settings say that the log is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from insurance_fund.events.errors import SettingsError

DEFAULT_LOG_URL: Final = "sqlite:insurance-fund.db"
_FORMS: Final = "sqlite:PATH (for example sqlite:insurance-fund.db or sqlite:/var/lib/fund/log.db)"


_PASSWORD: Final = re.compile(r"(://[^:/@]*:).*@")
_SECRET: Final = re.compile(r"([?&](?:password|secret|token)=)[^&]*", re.IGNORECASE)


def mask_password(text: str) -> str:
    """Return a text for showing: the password of a URL in it is masked."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def parse_log_url(url: str) -> Path:
    """Return the path of the SQLite file that a log URL names, relative or absolute.

    Raises SettingsError for any other form. `sqlite://` is refused: other programs read what
    follows it in more than one way.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "kafka":
        raise SettingsError("Kafka comes with a later release: use sqlite:PATH")
    if scheme != "sqlite" or not rest.strip() or rest.startswith(("//", ":memory:")):
        raise SettingsError(f"{mask_password(url)!r} is no log URL: write {_FORMS}")
    return Path(rest)
