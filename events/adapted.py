"""What an adapter made of a record that came in the exchange's own form."""

from __future__ import annotations

from typing import NamedTuple


class Adapted(NamedTuple):
    """What an adapter, named as in the settings, made of a record that is for the fund.

    `message` is one JSON object in one line, a message of ours or meant to be; where the adapter
    failed it is None, and `error` says why.
    """

    adapter: str
    message: bytes | None
    error: str | None = None
