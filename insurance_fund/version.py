"""The version of the software, as the ledger's policy entries record it."""

from typing import Final

VERSION: Final = "0.1.0"
