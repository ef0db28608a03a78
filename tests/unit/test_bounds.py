"""Bounds: what is remembered has limits, however many liquidations have come and gone."""

from __future__ import annotations

import json

from insurance_fund.events.ledger import PolicyCause
from insurance_fund.fund.bookkeeper import Bookkeeper
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import parse_policy, policy_document
from insurance_fund.fund.state import State, snapshot_bytes
from insurance_fund.fund.waits import HEAP_SLACK
from tests.unit.life import BTCUSDT, START_MS

LIQUIDATIONS = 100_000
CLOSED_MAX = 1_000
LOOK_EVERY = 20_000


class _Stream:
    """Feeds one fund; of each message only what differs is written anew."""

    def __init__(self) -> None:
        self.keeper = Bookkeeper("main", State())
        self.offset = 0
        policy = {"closed_max": CLOSED_MAX, "default": {"instrument_window_ms": 3_600_000}}
        cause = PolicyCause(
            policy=policy_document(parse_policy(policy)),
            routing={"USDT": "main"},
            clock="event",
            rules=RULES,
            software="test",
        )
        self.keeper.policy(cause, START_MS)

    @property
    def state(self) -> State:
        return self.keeper.state

    def send(self, topic: str, kind: str, now_ms: int, **fields: str) -> None:
        self.offset += 1
        message = {"type": kind, "event_id": "e", "event_time_ms": now_ms, **fields}
        value = json.dumps({"margin_currency": "USDT", **message}).encode()
        self.keeper.record(topic, 0, self.offset, now_ms, value, now_ms)

    def liquidation(self, number: int, now_ms: int) -> None:
        name = f"liq-{number:06d}"
        self.send(
            "liquidations",
            "position_taken_over",
            now_ms,
            liquidation_id=name,
            account_id="a",
            instrument_id="BTCUSDT",
            position_side="long",
            quantity="10",
            entry_price="50000",
            margin="500",
        )
        self.send(
            "fills",
            "fill",
            now_ms,
            fill_id="f",
            liquidation_id=name,
            order_id=f"{name}:1",
            instrument_id="BTCUSDT",
            side="sell",
            price="45100" if number % 2 else "45000",
            quantity="10",
        )
        # A deposit for each liquidation: transfers are remembered within the same limit.
        self.send(
            "fund-transfers",
            "fund_deposit",
            now_ms,
            transfer_id=f"t-{number}",
            amount="1",
            memo="",
        )


def test_state_does_not_grow_with_the_number_of_closed_liquidations() -> None:
    stream = _Stream()
    stream.send("instruments", "instrument_defined", START_MS, **BTCUSDT)
    sizes = []
    for number in range(LIQUIDATIONS):
        stream.liquidation(number, START_MS + number * 500)
        if (number + 1) % LOOK_EVERY == 0:
            state = stream.state
            assert (len(state.closed), len(state.transfers)) == (CLOSED_MAX, CLOSED_MAX)
            assert not state.liquidations
            assert not state.deadlines
            assert state.schedule.length <= HEAP_SLACK + 1
            window_minutes = state.window_ms_max // 60_000
            assert len(state.instruments["BTCUSDT"].deltas.buckets) <= window_minutes + 2
            sizes.append(len(snapshot_bytes(state)))
    # Only the balances and the clock have more digits than before.
    assert max(sizes) - min(sizes) < 2_000, sizes
