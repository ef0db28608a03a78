"""What goes out: the messages that the entries list, with CloudEvents headers."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import UTC, datetime

import pytest

from insurance_fund.events import topics
from insurance_fund.events.fields import TIME_MS_MAX
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.processor import Processor
from tests.embedded.shard import (
    GARBAGE,
    HOUR_MS,
    ManualClock,
    Site,
    fills,
    report,
    takeover,
)
from tests.unit.life import START_MS

TWICE = {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}}


async def run_a_life(site: Site, clock: ManualClock) -> None:
    """Let two orders end, one after another, and come what was filled of the second."""
    await site.open_fund(takeover(), GARBAGE, report("liq-7:1", "expired", "0"))
    await site.settle(policy=TWICE)
    clock.advance(HOUR_MS)
    await site.settle()
    await site.publish("fills", *fills(0, 2, order="liq-7:2"))
    await site.publish("liquidations", report("liq-7:2", "expired", "2"))
    await site.settle()


def headers_of(site: Site, topic: str, partition: int = 0) -> list[dict[str, str]]:
    """Return the headers of each message of a partition of an output topic."""
    rows = site.sql_on(TopicPartition(topic, partition), "SELECT headers FROM records")
    # SQLite keeps them as JSON, and bytes in JSON as base64.
    return [
        {name: base64.b64decode(value).decode() for name, value in json.loads(headers)}
        for (headers,) in rows
    ]


class TestEmitted:
    async def test_entries_list_exactly_what_stands_on_the_output_topics(
        self, site: Site, clock: ManualClock
    ) -> None:
        await run_a_life(site, clock)
        listed = [emitted for entry in await site.entries() for emitted in entry.emitted]
        for topic in topics.OUTPUT_TOPICS:
            records = await site.records(TopicPartition(topic, 0))
            hashes = [sha256_hex(record.value or b"") for record in records]
            assert hashes == [emitted.sha256 for emitted in listed if emitted.topic == topic]
            assert hashes

    async def test_ids_of_orders_triggers_and_dead_letters_say_what_they_are_about(
        self, site: Site, clock: ManualClock
    ) -> None:
        await run_a_life(site, clock)
        entries = await site.entries()
        assert [(e.id, e.topic) for entry in entries for e in entry.emitted] == [
            ("liq-7:1", "liquidation-orders"),
            ("liquidations:0:1", "dead-letters"),
            ("liq-7:2", "liquidation-orders"),
            *[("liq-7:adl", "adl-triggers")] * 2,
        ]
        orders = await site.messages("liquidation-orders")
        assert [(m["order_id"], m["attempt"]) for m in orders] == [("liq-7:1", 1), ("liq-7:2", 2)]
        triggers = await site.messages("adl-triggers")
        assert [(m["trigger_id"], m["revision"], m["quantity"]) for m in triggers] == [
            ("liq-7:adl", 1, "100"),
            ("liq-7:adl", 2, "98"),
        ]

    async def test_messages_name_the_entry_that_they_went_out_with(
        self, site: Site, clock: ManualClock
    ) -> None:
        await run_a_life(site, clock)
        entries, found = await site.entries(), []
        for topic in topics.OUTPUT_TOPICS:
            for message in await site.messages(topic):
                entry = entries[message["sequence"]]
                assert message["ledger"] == "main"
                assert message["event_time_ms"] == entry.now_ms
                found += [(message["event_id"], emitted.topic) for emitted in entry.emitted]
        assert len(found) == len({name for name, _ in found}) == 5

    async def test_messages_of_a_run_that_was_stopped_in_between_are_the_same(
        self, site: Site, clock: ManualClock
    ) -> None:
        await site.open_fund(takeover(), GARBAGE, report("liq-7:1", "expired", "0"))
        other = site.copy()
        await site.settle(policy=TWICE)
        for _ in range(6):
            await other.settle(policy=TWICE, batch_max=1, on_commit=Processor.stop)
        for topic in ("liquidation-orders", "dead-letters"):
            assert await other.messages(topic) == await site.messages(topic)
        assert await other.lines() == await site.lines()

    async def test_messages_of_a_liquidation_go_to_one_partition_by_its_id(
        self, site: Site
    ) -> None:
        await site.publish("liquidation-orders", None, partition=2)
        await site.publish("liquidation-orders", None, partition=0)
        await site.publish("liquidation-orders", None, partition=1)
        names = [f"liq-{number}" for number in range(8)]
        await site.open_fund(*[takeover(name) for name in names])
        await site.publish("liquidations", *[report(f"{n}:1", "rejected", "0") for n in names])
        await site.settle(policy=TWICE)
        where = {}
        for partition in range(3):
            records = (await site.records(TopicPartition("liquidation-orders", partition)))[1:]
            where[partition] = [(record.key or b"").decode() for record in records]
        assert {name: partition for partition, found in where.items() for name in found} == {
            name: zlib.crc32(name.encode()) % 3 for name in names
        }
        assert all(found.count(name) == 2 for found in where.values() for name in found)


class TestHeaders:
    @pytest.mark.parametrize("topic", topics.OUTPUT_TOPICS)
    async def test_messages_carry_the_binary_headers_of_cloudevents(
        self, site: Site, clock: ManualClock, topic: str
    ) -> None:
        await run_a_life(site, clock)
        messages = await site.messages(topic)
        for message, headers in zip(messages, headers_of(site, topic), strict=True):
            time = headers.pop("ce_time")
            assert headers == {
                "content-type": "application/json",
                "ce_specversion": "1.0",
                "ce_id": message["event_id"],
                "ce_source": "/insurance-fund/main",
                "ce_type": f"insurance_fund.{message['type']}",
            }
            moment = datetime.fromisoformat(time)
            assert moment == datetime.fromtimestamp(message["event_time_ms"] / 1000, UTC)
        assert messages

    async def test_entries_carry_the_ledger_as_their_key(
        self, site: Site, clock: ManualClock
    ) -> None:
        await run_a_life(site, clock)
        records = await site.records(TopicPartition(topics.FUND_LEDGER, 0))
        assert {record.key for record in records} == {b"main"}

    @pytest.mark.parametrize("time_ms", [TIME_MS_MAX - 31_999, TIME_MS_MAX])
    async def test_deadlines_after_the_last_year_of_the_calendar_are_taken_all_the_same(
        self, site: Site, time_ms: int
    ) -> None:
        await site.open_fund(takeover(time_ms=time_ms), time_ms=time_ms)
        await site.settle(clock="event")
        assert (await site.story())[4:] == ["order:liq-7/liq-7:1", "hold:liq-7/liq-7:1"]
        (trigger,) = await site.messages("adl-triggers")
        assert trigger["event_time_ms"] == time_ms + 32_000
        (headers,) = headers_of(site, "adl-triggers")
        assert headers["ce_time"].startswith("9999-12-31T23:59:59.")
        assert (await site.settle()).entries_written == 0

    @pytest.mark.parametrize("time_ms", [START_MS, START_MS + 1, START_MS + 999, 1, 0, TIME_MS_MAX])
    async def test_time_is_that_of_the_message_to_the_millisecond(
        self, site: Site, time_ms: int
    ) -> None:
        await site.open_fund(takeover(time_ms=time_ms), time_ms=time_ms)
        await site.settle(clock="event")
        (headers,) = headers_of(site, "liquidation-orders")
        seconds, milliseconds = divmod(time_ms, 1000)
        moment = datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
        assert headers["ce_time"] == f"{moment}.{milliseconds:03d}+00:00"
