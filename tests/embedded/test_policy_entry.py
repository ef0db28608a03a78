"""Settings in the ledger: entry 0, what a start writes, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import insurance_fund
from insurance_fund.events import effects as fx
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import GENESIS, PolicyCause
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import DEFAULT_CURRENCIES, parse_policy
from tests.embedded.shard import (
    DUE_MS,
    ManualClock,
    Site,
    deposit,
    instrument,
    kinds,
    takeover,
)
from tests.unit.life import START_MS

USDT = {"currencies": {"USDT": {"scale": 6}}}
USDT_AND_BTC = {"currencies": {"USDT": {"scale": 6}, "BTC": {"scale": 8}}}


async def policy_causes(site: Site) -> list[PolicyCause]:
    return [e.cause for e in await site.entries() if isinstance(e.cause, PolicyCause)]


def document_of(policy: dict[str, Any]) -> Any:
    """Return the whole policy as it is read back from an entry."""
    return json.loads(msgspec.json.encode(parse_policy(policy)))


class TestEntry0:
    @pytest.mark.parametrize(
        ("mode", "now_ms"), [("wall", START_MS), ("event", 0)], ids=["wall", "event"]
    )
    async def test_it_is_the_policy_with_all_that_the_ledger_goes_on_under(
        self, site: Site, mode: Any, now_ms: int
    ) -> None:
        await site.start(clock=mode, policy={"grace_ms": 77})
        (entry,) = await site.entries()
        assert (entry.sequence, entry.previous, entry.now_ms) == (0, GENESIS, now_ms)
        assert kinds(entry) == ["shard_opened", "policy_set"]
        assert entry.cause == PolicyCause(
            policy=document_of({"grace_ms": 77}),
            routing=dict.fromkeys(DEFAULT_CURRENCIES, "main"),
            clock=mode,
            rules=RULES,
            software=insurance_fund.__version__,
        )

    async def test_it_stands_there_before_any_input_is_read(self, site: Site) -> None:
        await site.publish("fund-transfers", deposit())
        await site.start()
        assert await site.story() == ["policy"]

    async def test_wall_clock_and_default_policy_are_taken_where_nothing_is_said(
        self, site: Site
    ) -> None:
        await site.start()
        (cause,) = await policy_causes(site)
        assert (cause.clock, cause.policy) == ("wall", document_of({}))


class TestNextStart:
    @pytest.mark.parametrize("given", [{"grace_ms": 77}, None], ids=["the same", "none"])
    async def test_start_without_a_change_writes_nothing(
        self, site: Site, clock: ManualClock, given: dict[str, Any] | None
    ) -> None:
        await site.settle(policy={"grace_ms": 77})
        clock.advance(1_000)
        processor = await site.start(policy=given)
        assert await site.story() == ["policy"]
        assert processor.entries_written == 0
        assert processor.state.policy.grace_ms == 77

    async def test_changed_policy_is_one_entry_in_the_first_transaction(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.settle(policy={"grace_ms": 77})
        await site.publish("fund-transfers", deposit())
        clock.advance(1_000)
        commits: list[int] = []
        await site.settle(
            policy={"grace_ms": 78}, on_commit=lambda p: commits.append(p.entries_written)
        )
        assert await site.story() == ["policy", "policy", "fund-transfers:0:0"]
        assert commits == [1, 2]
        entry = (await site.entries())[1]
        assert (kinds(entry), entry.now_ms) == (["policy_set"], START_MS + 1_000)
        causes = await policy_causes(site)
        assert [cause.policy["grace_ms"] for cause in causes] == [77, 78]

    async def test_currency_may_be_added(self, site: Site) -> None:
        await site.settle(policy=USDT)
        await site.publish("fund-transfers", deposit(margin_currency="BTC", amount="1"))
        processor = await site.settle(policy=USDT_AND_BTC)
        assert await site.story() == ["policy", "policy", "fund-transfers:0:0"]
        assert processor.state.funds["BTC"].available == 1
        assert processor.state.routing == {"BTC": "main", "USDT": "main"}

    @pytest.mark.parametrize(
        ("policy", "currency"),
        [
            (USDT, "BTC"),
            ({"currencies": {"USDT": {"scale": 6}, "BTC": {"scale": 9}}}, "BTC"),
            ({"currencies": {"USDT": {"scale": 5}, "BTC": {"scale": 8}}}, "USDT"),
        ],
        ids=["taken out", "finer", "coarser"],
    )
    async def test_currency_is_never_taken_out_and_its_scale_never_changed(
        self, site: Site, policy: dict[str, Any], currency: str
    ) -> None:
        await site.settle(policy=USDT_AND_BTC)
        before = await site.lines()
        with pytest.raises(SettingsError, match=f"currency {currency} has scale"):
            await site.start(policy=policy)
        assert await site.lines() == before

    @pytest.mark.parametrize(("first", "other"), [("wall", "event"), ("event", "wall")])
    async def test_start_with_the_other_clock_is_refused(
        self, site: Site, first: Any, other: Any
    ) -> None:
        await site.settle(clock=first)
        before = await site.lines()
        with pytest.raises(SettingsError, match=f"runs by the {first} clock"):
            await site.start(clock=other, policy={"grace_ms": 77})
        assert await site.lines() == before

    async def test_start_without_a_clock_goes_on_by_that_of_the_ledger(self, site: Site) -> None:
        await site.settle(clock="event")
        processor = await site.start()
        assert processor.mode == "event"

    async def test_liquidation_keeps_the_policy_of_its_takeover(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover())
        await site.settle()
        await site.publish("liquidations", takeover("liq-8"))
        twice = {"default": {"attempts": [["0.01", 90_000], ["0.02", 1_000]]}, "grace_ms": 60_000}
        await site.settle(policy=twice)
        (order,) = [
            effect
            for effect in (await site.entries())[-1].effects
            if isinstance(effect, fx.OrderIssued)
        ]
        assert order.expires_at_ms == START_MS + 90_000
        clock.advance(DUE_MS - START_MS)
        await site.settle()
        last = (await site.entries())[-1]
        assert kinds(last) == ["order_closed", "adl_triggered"]

    async def test_takeover_after_a_change_has_the_new_terms_of_the_policy(
        self, site: Site
    ) -> None:
        await site.publish("instruments", instrument(), instrument(instrument_id="I2"))
        await site.publish("fund-transfers", deposit())
        await site.settle()
        await site.publish("liquidations", takeover(), takeover("liq-8", instrument_id="I2"))
        overlay = {"instruments": {"I2": {"attempts": [["0", 1_000]]}}}
        await site.settle(policy=overlay)
        expiries = [m["expires_at_ms"] for m in await site.messages("liquidation-orders")]
        assert expiries == [START_MS + 30_000, START_MS + 1_000]
