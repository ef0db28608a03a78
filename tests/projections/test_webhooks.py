"""Webhooks on a real broker and over real HTTP: what is sent, how often, and from where on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.projections.projector import Position
from insurance_fund.projections.rebuild import rebuild
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.urls import KafkaUrl
from tests.kafka.cluster import Cluster
from tests.kafka.topics import make_topics
from tests.projections.desk import DROPPED, OK, Answer, Request, open_desk
from tests.projections.faust_site import (
    DATABASE,
    WEBHOOKS,
    busy_ledger,
    open_site,
    open_writer,
    until,
)

LINES = busy_ledger(20)


def told_by(lines: Sequence[bytes]) -> list[str]:
    """Return the keys of what entries tell, from what they list as sent to `adl-triggers`."""
    revisions = {"adl_triggered": 1, "adl_reduced": 2}
    return [
        f"{effect.trigger_id}:{revisions[kind]}"  # type: ignore[union-attr]
        for line in lines
        for effect in decode_entry(line).effects
        if (kind := str(effect.__struct_config__.tag)) in revisions
    ]


async def test_new_target_is_told_from_the_end_on_what_stands_on_the_topic(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with (
        open_desk() as desk,
        open_site(tmp_path, url) as site,
        open_writer(site) as writer,
        open_writer(site, "other") as other,
    ):
        (tmp_path / "token").write_text("secret\n")
        site.set_webhooks({"desk": desk.url}, token_file="token")  # noqa: S106 - it is the path
        await writer.commit(LINES[:33])
        # What is open at the end, and marks of transactions, are not the last entry.
        await other.begin([b"open"] * 3)
        worker = await site.serve(WEBHOOKS)
        assert await site.positions("webhook:desk") == {
            "main": Position(32, sha256_hex(LINES[32]), 33, decode_entry(LINES[32]).now_ms)
        }
        await other.give_up()
        await writer.commit(LINES[33:63])
        await site.until(62, name="webhook:desk")
        assert await worker.end(signal.SIGTERM) == 0
        await writer.commit(LINES[63:83])
        await site.serve(WEBHOOKS)
        await site.until(82, name="webhook:desk")
    assert desk.keys() == told_by(LINES[33:83])
    assert len(set(desk.keys())) == len(desk.requests) == 20
    listed = [
        emitted.sha256
        for line in LINES[33:83]
        for emitted in decode_entry(line).emitted
        if emitted.topic == "adl-triggers"
    ]
    assert [sha256_hex(one.body) for one in desk.requests] == listed
    for one in desk.requests:
        assert one.path == "/adl"
        assert one.headers["content-type"] == "application/json"
        assert one.headers["authorization"] == "Bearer secret"
        assert one.key == f"{one.message['trigger_id']}:{one.message['revision']}"


async def test_only_an_answer_2xx_moves_the_position(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    answers = iter([500, DROPPED, 400, 302, 429, 204])
    url = await make_topics(broker.bootstrap, prefix, ("main",))

    def answer(request: Request) -> Answer:
        return next(answers, OK), 0

    async with (
        open_desk(answer) as desk,
        open_site(tmp_path, url) as site,
        open_writer(site) as writer,
    ):
        site.set_webhooks({"desk": desk.url})
        await writer.commit(LINES[:3])
        worker = await site.serve(WEBHOOKS)
        await writer.commit(LINES[3:11])
        await until(lambda: len(desk.requests) == 5)
        # The last entry in front of the trigger.
        assert (await site.positions("webhook:desk"))["main"].sequence == 4
        await site.until(10, name="webhook:desk")
    first, *rest = told_by(LINES[3:11])
    assert [one.key for one in desk.requests] == [first] * 6 + rest
    assert desk.keys() == [first, *rest]
    assert {one.path for one in desk.requests} == {"/adl"}
    for level, told in (
        ("WARNING", f"webhook desk: 127.0.0.1 does not take {first} (time 1): it answers 500"),
        ("WARNING", "(time 2): Server disconnected without sending a response"),
        ("ERROR", "(time 3): it answers 400"),
        ("ERROR", "(time 4): it answers 302"),
        ("WARNING", "(time 5): it answers 429"),
    ):
        assert [line for line in worker.lines if told in line and f"[{level}]" in line], told
    assert "/adl" not in worker.told


async def test_target_that_is_down_holds_up_no_other_and_is_told_all_once_it_is_back(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with (
        open_desk() as desk,
        open_desk() as broken,
        open_site(tmp_path, url) as site,
        open_writer(site) as writer,
    ):
        site.set_webhooks({"desk": desk.url, "broken": broken.url})
        await broken.close()
        for name in ("desk", "broken"):
            await site.serve(WEBHOOKS, WEBHOOK=name)
        await writer.commit(LINES[:40])
        await site.until(39, name="webhook:desk")
        assert desk.keys() == told_by(LINES[:40])
        assert (await site.positions("webhook:broken"))["main"].sequence < 10
        # Who waits for a target to come back still ends at once.
        (waiting,) = [one for one in site.workers if one.process.returncode is None][1:]
        await waiting.said("does not take")
        async with asyncio.timeout(8):
            assert await waiting.end(signal.SIGTERM) == 0
        await broken.open()
        await site.serve(WEBHOOKS, WEBHOOK="broken")
        await site.until(39, name="webhook:broken")
        assert broken.keys() == told_by(LINES[:40])


async def test_rebuild_sends_nothing_again(broker: Cluster, prefix: str, tmp_path: Path) -> None:
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with (
        open_desk() as desk,
        open_site(tmp_path, url) as site,
        open_writer(site) as writer,
    ):
        site.set_webhooks({"desk": desk.url})
        worker = await site.serve(WEBHOOKS)
        await writer.commit(LINES[:40])
        await site.until(39, name="webhook:desk")
        assert await worker.end(signal.SIGTERM) == 0
        log = KafkaReader(site.access)
        where = {"main": TopicPartition("fund-ledger", 0)}
        await rebuild(f"sqlite:{tmp_path / DATABASE}", log, where)
        await log.close()
        assert (await site.positions())["main"].sequence == 39
        await site.serve(WEBHOOKS)
        await writer.commit(LINES[40:60])
        await site.until(59, name="webhook:desk")
    assert [one.key for one in desk.requests] == told_by(LINES[:60])


async def test_ledger_that_is_new_to_a_known_target_is_told_from_its_first_entry(
    broker: Cluster, prefix: str, tmp_path: Path
) -> None:
    second = busy_ledger(3, "second")
    url = await make_topics(broker.bootstrap, prefix, ("main",))
    async with (
        open_desk() as desk,
        open_site(tmp_path, url) as site,
        open_writer(site) as writer,
    ):
        site.set_webhooks({"desk": desk.url})
        await writer.commit(LINES[:10])
        worker = await site.serve(WEBHOOKS)
        await worker.end(signal.SIGTERM)
        await make_topics(broker.bootstrap, prefix, ("main", "second"))
        async with open_writer(site, "second") as other:
            await other.commit(second, 1)
        site.shards = ("main", "second")
        site.set_webhooks({"desk": desk.url})
        await site.serve(WEBHOOKS)
        await site.until(len(second) - 1, "second", "webhook:desk")
    assert desk.keys() == told_by(second)


async def test_worker_that_is_not_told_which_target_says_what_there_is(tmp_path: Path) -> None:
    async with open_site(tmp_path, KafkaUrl(("127.0.0.1:1",), "none")) as site:
        for targets, name, told in (
            ({}, None, "no webhook in the settings"),
            ({"a": "http://h/1", "b": "http://h/2"}, None, "INSURANCE_FUND_WEBHOOK): a, b"),
            ({"a": "http://h/1"}, "c", "no webhook 'c' in the settings; there are: a"),
        ):
            site.set_webhooks(targets)
            worker = await site.start(WEBHOOKS, **({} if name is None else {"WEBHOOK": name}))
            assert await worker.ended() == 2
            assert [line for line in worker.lines if line.startswith("error: ") and told in line]
