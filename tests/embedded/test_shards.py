"""Shards side by side on one file: each currency in one ledger, everything else in the first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.ledger import Entry, PolicyCause
from insurance_fund.streams.inputs import Shard
from tests.embedded.shard import (
    GARBAGE,
    HANG_S,
    HOUR_MS,
    ORDINARY,
    ManualClock,
    NoWallClock,
    Site,
    deposit,
    fill,
    instrument,
    kinds,
    takeover,
)
from tests.unit.life import START_MS, XBTUSD

ASSIGNED = {"USDT": "usd", "USDC": "usd", "XBT": "coins", "BTC": "coins"}
USD, COINS = Shard("usd", 0, ASSIGNED), Shard("coins", 1, ASSIGNED)
XBT_TAKEOVER: dict[str, Any] = {
    "instrument_id": "XBTUSD",
    "margin_currency": "XBT",
    "margin": "0.0001",
}


async def settle_both(site: Site, **options: Any) -> None:
    """Run both shards side by side until nothing is left to do."""
    async with asyncio.timeout(HANG_S):
        processors = [await site.start(shard, **options) for shard in (USD, COINS)]
        await asyncio.gather(*(processor.run() for processor in processors))


async def publish_both(site: Site) -> None:
    """Publish a liquidation of each shard, record by record in turn."""
    terms: dict[str, Any] = XBTUSD
    await site.publish("instruments", instrument(), instrument(**terms))
    btc = deposit("d2", margin_currency="XBT", amount="10")
    await site.publish("fund-transfers", deposit(), btc)
    await site.publish("liquidations", takeover(), takeover("liq-8", **XBT_TAKEOVER))
    xbt = fill("f0", order="liq-8:1", instrument_id="XBTUSD", margin_currency="XBT")
    await site.publish("fills", fill("f0"), xbt, ORDINARY)


def currencies(entries: list[Entry]) -> set[str]:
    """Return the currencies that money was posted in."""
    return {account.split(":")[1] for entry in entries for account in entry.postings}


class TestSideBySide:
    async def test_each_currency_stands_in_its_own_ledger_only(self, site: Site) -> None:
        await publish_both(site)
        await settle_both(site)
        usd, coins = await site.entries(0), await site.entries(1)
        topics = ("instruments", "fund-transfers", "liquidations", "fills")
        assert await site.story(0) == ["policy", *(f"{topic}:0:0" for topic in topics)]
        assert await site.story(1) == ["policy", *(f"{topic}:0:1" for topic in topics)]
        assert (currencies(usd), currencies(coins)) == ({"USDT"}, {"XBT"})
        assert {entry.ledger for entry in usd} == {"usd"}
        assert {entry.ledger for entry in coins} == {"coins"}
        assert [kinds(entry)[0] for entry in coins][-1] == "fill_booked"

    async def test_entries_of_both_ledgers_count_from_zero_and_are_chained_apart(
        self, site: Site
    ) -> None:
        await publish_both(site)
        await settle_both(site, batch_max=1)
        for ledger in (0, 1):
            assert [entry.sequence for entry in await site.entries(ledger)] == [0, 1, 2, 3, 4]

    async def test_messages_name_the_ledger_that_they_came_from(self, site: Site) -> None:
        await publish_both(site)
        await settle_both(site)
        orders = await site.messages("liquidation-orders")
        assert {m["liquidation_id"]: m["ledger"] for m in orders} == {
            "liq-7": "usd",
            "liq-8": "coins",
        }

    async def test_each_reads_on_where_its_own_ledger_ends(self, site: Site) -> None:
        await publish_both(site)
        await site.settle(USD)
        await settle_both(site)
        lines = [await site.lines(ledger) for ledger in (0, 1)]
        await settle_both(site)
        assert [await site.lines(ledger) for ledger in (0, 1)] == lines
        assert [len(found) for found in lines] == [5, 5]

    async def test_deadline_waits_for_a_backlog_that_is_all_of_the_other_shard(
        self, site: Site, clock: ManualClock
    ) -> None:
        await publish_both(site)
        await settle_both(site)
        clock.advance(HOUR_MS)
        xbt = [fill(f"f{n}", order="liq-8:1", margin_currency="XBT") for n in range(6)]
        await site.publish("fills", *xbt, fill("f1", quantity="99"))
        await site.settle(USD, batch_max=2)
        # The first look at it is an hour after the last entry, so positions are written down.
        assert (await site.story(0))[5:] == ["checkpoint", "fills:0:9"]

    async def test_shards_do_not_fence_each_other(self, site: Site) -> None:
        usd = await site.start(USD)
        coins = await site.start(COINS)
        await publish_both(site)
        await coins.run()
        await usd.run()
        assert [len(await site.lines(ledger)) for ledger in (0, 1)] == [5, 5]


class TestNobodysRecords:
    async def test_what_cannot_be_decoded_or_is_null_is_rejected_by_the_first_alone(
        self, site: Site
    ) -> None:
        for topic in ("instruments", "fund-transfers", "liquidations"):
            await site.publish(topic, None, GARBAGE)
        await site.publish("fills", None, GARBAGE)
        await settle_both(site)
        topics = ("instruments", "fund-transfers", "liquidations")
        both = [f"{topic}:0:{offset}" for topic in topics for offset in (0, 1)]
        # A null of fills is skipped like any value without the bytes of the filter.
        assert await site.story(0) == ["policy", *both, "fills:0:1"]
        assert await site.story(1) == ["policy"]
        assert len(await site.messages("dead-letters")) == 7

    async def test_record_that_is_no_message_is_the_firsts_even_if_its_currency_can_be_read(
        self, site: Site
    ) -> None:
        await site.publish("fund-transfers", deposit(amount="-1", margin_currency="XBT"))
        await settle_both(site)
        assert [kinds(entry) for entry in (await site.entries(0))[1:]] == [["rejected"]]
        assert await site.story(1) == ["policy"]

    @pytest.mark.parametrize("currency", ["DOGE", "ETH"], ids=["of no policy", "of the policy"])
    async def test_currency_that_is_assigned_to_none_is_rejected_by_the_first_alone(
        self, site: Site, currency: str
    ) -> None:
        # ETH is among the default currencies of the policy; no shard has it.
        await site.publish("fund-transfers", deposit(margin_currency=currency))
        await settle_both(site)
        assert [kinds(entry) for entry in (await site.entries(0))[1:]] == [["rejected"]]
        assert await site.story(1) == ["policy"]

    async def test_record_without_a_time_takes_that_of_another_shards_record_before_it(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "event.db", NoWallClock())
        times = (START_MS + 1, START_MS + 5)
        await site.publish("fund-transfers", *[deposit(f"d{t}", t) for t in times])
        xbt = deposit("x", START_MS + 3, margin_currency="XBT", amount="10")
        await site.publish("fund-transfers", xbt, GARBAGE, partition=1)
        await site.settle(USD, clock="event")
        told = [f"fund-transfers:{where}" for where in ("0:0", "1:1", "0:1")]
        assert (await site.story(0))[1:] == told
        await site.close()


class TestRouting:
    async def test_entry_0_records_which_shard_has_which_currency(self, site: Site) -> None:
        await settle_both(site)
        for ledger in (0, 1):
            (entry,) = await site.entries(ledger)
            assert isinstance(entry.cause, PolicyCause)
            assert entry.cause.routing == ASSIGNED

    @pytest.mark.parametrize(
        "assigned",
        [
            {**ASSIGNED, "XBT": "usd"},
            {name: shard for name, shard in ASSIGNED.items() if name != "XBT"},
        ],
        ids=["to another", "to none"],
    )
    async def test_currency_never_leaves_the_ledger_that_has_it(
        self, site: Site, assigned: Mapping[str, str]
    ) -> None:
        await settle_both(site)
        before = await site.lines(1)
        with pytest.raises(SettingsError, match="XBT belongs to ledger coins"):
            await site.start(Shard("coins", 1, assigned))
        assert await site.lines(1) == before

    @pytest.mark.parametrize("assigned", [{**ASSIGNED, "XBT": "usd"}, None], ids=["one", "all"])
    async def test_ledger_cannot_gain_what_another_one_has_booked(
        self, site: Site, assigned: Mapping[str, str] | None
    ) -> None:
        await publish_both(site)
        await settle_both(site)
        before = await site.lines(0)
        with pytest.raises(SettingsError, match="belongs to ledger coins, which has its fund"):
            await site.start(Shard("usd", 0, assigned))
        assert await site.lines(0) == before

    async def test_new_ledger_cannot_begin_with_what_another_one_has(self, site: Site) -> None:
        await site.settle(Shard("usd"))
        with pytest.raises(SettingsError, match="BTC belongs to ledger usd"):
            await site.start(COINS)
        assert await site.lines(1) == []

    async def test_single_shard_cannot_give_a_currency_to_a_second_one(self, site: Site) -> None:
        await site.settle(Shard("usd"))
        with pytest.raises(SettingsError, match="a currency never leaves its ledger"):
            await site.start(USD)

    async def test_currency_that_was_assigned_to_none_may_be_given_to_a_shard(
        self, site: Site
    ) -> None:
        await settle_both(site)
        more = {**ASSIGNED, "ETH": "coins"}
        await site.publish("fund-transfers", deposit(margin_currency="ETH"))
        processor = await site.settle(Shard("coins", 1, more))
        assert await site.story(1) == ["policy", "policy", "fund-transfers:0:0"]
        assert processor.state.funds["ETH"].available == 100_000
        changed = [e for e in (await site.entries(1))[1].effects if isinstance(e, fx.PolicySet)]
        assert changed[0].routing == dict(sorted(more.items()))
