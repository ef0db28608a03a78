"""The position of a webhook: whoever has been overtaken by another worker tells nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from insurance_fund.events.errors import CorruptionError
from insurance_fund.projections.database import Database
from insurance_fund.projections.webhook import Webhook
from insurance_fund.projections.webhook_target import Target
from insurance_fund.projections.webhooks import Subscription
from tests.projections.desk import Desk, open_desk
from tests.projections.faust_site import busy_ledger
from tests.projections.ledgers import records_of
from tests.projections.test_webhooks import told_by

LINES = busy_ledger(6)
RECORDS = records_of(LINES)


def subscribed(database: Database, desk: Desk) -> Subscription:
    webhook = Webhook("desk", desk.url)
    return Subscription(database, webhook, Target(webhook), "main")


async def test_worker_that_wakes_up_late_passes_by_what_another_has_told(
    opened: Callable[[str], Database],
) -> None:
    database, halted = opened("views.db"), asyncio.Event()
    async with open_desk() as desk:
        late, other = subscribed(database, desk), subscribed(database, desk)
        await late.take(RECORDS[:8], halted)
        await other.take(RECORDS[8:20], halted)
        await late.take(RECORDS[8:24], halted)
        assert (await late.position()).sequence == 23
        # The other one's next entries do not follow what it knows, so the log is asked.
        with pytest.raises(CorruptionError, match="entry 20 is missing, 24 follows 19"):
            await other.take(RECORDS[24:], halted)
        await other.take(RECORDS[24:], halted)
    assert desk.keys() == told_by(LINES)
    assert len(desk.requests) == len(told_by(LINES))


async def test_halted_worker_leaves_the_position_in_front_of_what_it_did_not_tell(
    opened: Callable[[str], Database],
) -> None:
    database, halted = opened("views.db"), asyncio.Event()
    async with open_desk() as desk:
        worker = subscribed(database, desk)
        halted.set()
        await worker.take(RECORDS, halted)
        (first, *_) = [n for n, line in enumerate(LINES) if told_by([line])]
        assert (await worker.position()).sequence == first - 1
        assert not desk.requests
        halted.clear()
        await worker.take(RECORDS, halted)
    assert desk.keys() == told_by(LINES)
