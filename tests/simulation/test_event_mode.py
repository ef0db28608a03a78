"""Event mode on a log that does not show everything at once."""

from __future__ import annotations

import json

import pytest

from insurance_fund.events import topics
from insurance_fund.events.ledger import InputCause, decode_entry
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.processor import PINNED_WARN_MS, Options, Processor
from insurance_fund.streams.simulator.broker import Broker, Transaction
from insurance_fund.streams.simulator.client import SimulatedLog
from insurance_fund.streams.simulator.run import LEDGER, SHARD

T = 1_767_312_000_000


def deposit(number: int, time_ms: int) -> bytes:
    fields = {
        "type": "fund_deposit",
        "event_id": f"e{number}",
        "event_time_ms": time_ms,
        "margin_currency": "USDT",
        "transfer_id": f"t{number}",
        "amount": "1",
        "memo": "m",
    }
    return json.dumps(fields).encode()


class Releasing(SimulatedLog):
    """Commits a transaction of somebody else's when it is waited for the third time."""

    waits = 0
    other: Transaction

    async def wait(self, timeout_s: float) -> None:
        self.waits += 1
        self.broker.clock.now_ms += PINNED_WARN_MS
        if self.waits == 3:
            self.other.commit()
        await super().wait(timeout_s)


@pytest.mark.parametrize("holes", [False, True])
async def test_record_that_is_not_committed_yet_is_waited_for_and_after_a_while_told_of(
    holes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(holes=holes)
    log = Releasing(broker)
    await log.publish(topics.FUND_TRANSFERS, [NewRecord(0, None, deposit(2, T + 2))])
    log.other = broker.transaction()
    log.other.append(topics.FUND_TRANSFERS, [NewRecord(1, None, deposit(1, T + 1))])
    options = Options(clock="event", policy=Policy(), until_idle=True)
    processor = Processor(log, SHARD, options, broker.clock)
    await processor.start()
    await processor.run()
    entries = [decode_entry(one.record.value or b"") for one in broker.appended_to(LEDGER)]
    causes = [entry.cause for entry in entries[1:]]
    assert [c.partition for c in causes if isinstance(c, InputCause)] == [1, 0]
    assert log.waits == 3
    # At once nothing is said, and then again after each while.
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert first.startswith("fund-transfers:1 from offset 0 on: records are there that nobody may")
