"""An insurance fund for perpetual-futures exchanges: an event-sourced streaming consumer.

The rooms: `events` (what is said), `fund` (what is decided), `streams` (how it runs),
`projections` (what is shown); this package is the front door.
"""

from __future__ import annotations

from insurance_fund.version import VERSION as __version__

__all__ = ["__version__"]
