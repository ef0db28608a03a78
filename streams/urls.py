"""Log URLs: where the settings say that the log is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from insurance_fund.events.errors import SettingsError

DEFAULT_LOG_URL: Final = "sqlite:insurance-fund.db"
_FORMS: Final = "sqlite:PATH (for example sqlite:insurance-fund.db or sqlite:/var/lib/fund/log.db)"


def parse_log_url(url: str) -> Path:
    """Return the path of the SQLite file that a log URL names, relative or absolute.

    Raises SettingsError for any other form. `sqlite://` is refused: other programs read what
    follows it in more than one way.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "kafka":
        raise SettingsError("Kafka comes with a later release: use sqlite:PATH")
    if scheme != "sqlite" or not rest.strip() or rest.startswith(("//", ":memory:")):
        raise SettingsError(f"{url!r} is no log URL: write {_FORMS}")
    return Path(rest)
