"""Subscribers: who takes a ledger's entries in a worker, and knows how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from insurance_fund.projections.projector import Position, Projector
from insurance_fund.streams.log import Record


class Subscriber(Protocol):
    """Takes the entries of one ledger in order; its position is kept outside of the process."""

    @property
    def ledger(self) -> str:
        """The ledger's name."""
        ...

    async def position(self) -> Position:
        """Return how far it has come, as the database has it."""
        ...

    async def take(self, records: Sequence[Record], halted: asyncio.Event) -> None:
        """Take records, passing by what was taken before; once `halted`, leave the rest.

        Raises CorruptionError for one that does not follow what was taken.
        """
        ...


class ReadModels:
    """Takes entries into the read models, in a thread: the worker's loop goes on meanwhile."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    @property
    def ledger(self) -> str:
        """The ledger's name."""
        return self._projector.ledger

    async def position(self) -> Position:
        """Return how far the read models have come, as the database has it."""
        return await asyncio.to_thread(self._projector.position)

    async def take(self, records: Sequence[Record], halted: asyncio.Event) -> None:
        """Apply records in one transaction.

        Raises CorruptionError for one that does not follow, ReadModelsError.
        """
        await asyncio.to_thread(self._projector.apply, records)
