"""What the Kafka cases run, each in a process of its own: it prints one line of JSON at its end."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition

from benchmarks.cases import FILLS, LEDGER
from insurance_fund.events import topics
from insurance_fund.events.ledger import sha256_hex
from insurance_fund.fund.policy import Policy
from insurance_fund.streams.clocks import SystemClock
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.kafka import BATCH_BYTES, KafkaLog
from insurance_fund.streams.kafka_access import TRANSACTION_MS, KafkaAccess
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import NewRecord, TopicPartition
from insurance_fund.streams.processor import Options, Processor
from insurance_fund.streams.recovery import recover
from insurance_fund.streams.urls import KafkaUrl, parse_log_url

TRANSACTION_RECORDS: Final = 5_000
PASSED: Final = "passed"
TICK_S: Final = 0.005


def opened(url: str) -> KafkaLog:
    """Open a Kafka log."""
    parsed = parse_log_url(url)
    assert isinstance(parsed, KafkaUrl)
    return KafkaLog(KafkaAccess(parsed))


async def process(url: str, shards: list[str], shard: str, snapshot_entries: int) -> Any:
    """Run a shard over what stands on its inputs, until its last entry can be read."""
    log, reader = opened(url), opened(url)
    assigned = None if len(shards) == 1 else dict(zip(("USDT", "USDC"), shards, strict=True))
    options = Options(
        clock="wall", policy=Policy(), until_idle=True, snapshot_entries=snapshot_entries
    )
    processor = Processor(
        log, Shard(shard, shards.index(shard), assigned), options, SystemClock(), snapshots=log
    )
    started = time.perf_counter()
    await processor.start()
    await processor.run()
    await _visible(reader, processor.ledger, processor.state.head)
    seconds = time.perf_counter() - started
    await log.close()
    await reader.close()
    skipped = processor.inputs.skipped_total
    return {"entries": processor.entries_written, "skipped": skipped, "seconds": seconds}


async def _visible(reader: KafkaLog, where: TopicPartition, head: str) -> None:
    while True:
        end = await reader.end_offset(where)
        async for record in partition_records(reader, where, max(0, end - 10)):
            if sha256_hex(record.value or b"") == head:
                return


async def pass_through(url: str, lines: int) -> Any:
    """Copy: read the same inputs, write the same entries, with nothing in between."""
    log = opened(url)
    options = log.access.options()
    name = log.access.url.name
    entries: list[bytes] = []
    async for record in partition_records(log, LEDGER, 0):
        entries.append(record.value or b"")
    assert len(entries) >= lines
    await log.close()
    consumer = AIOKafkaConsumer(
        **options,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    producer = AIOKafkaProducer(
        **options,
        transactional_id=name("copy"),
        transaction_timeout_ms=TRANSACTION_MS,
        max_batch_size=BATCH_BYTES,
        max_request_size=2 * BATCH_BYTES,
    )
    await consumer.start()
    await producer.start()
    places = [KafkaPartition(name(topic), 0) for topic in topics.INPUT_TOPICS]
    consumer.assign(places)
    for place in places:
        consumer.seek(place, 0)
    total = sum((await consumer.end_offsets(places)).values())
    started, read = time.perf_counter(), 0
    while read < total:
        got = await consumer.getmany(timeout_ms=1_000, max_records=TRANSACTION_RECORDS)
        count = sum(map(len, got.values()))
        await producer.begin_transaction()
        answers = []
        batch = producer.create_batch()
        for line in entries[read : read + count]:
            if batch.append(timestamp=None, key=b"main", value=line, headers=[]) is None:
                answers.append(await producer.send_batch(batch, name(PASSED), partition=0))
                batch = producer.create_batch()
                batch.append(timestamp=None, key=b"main", value=line, headers=[])
        answers.append(await producer.send_batch(batch, name(PASSED), partition=0))
        await asyncio.gather(*answers)
        await producer.commit_transaction()
        read += count
    seconds = time.perf_counter() - started
    await consumer.stop()
    await producer.stop()
    return {"entries": read, "seconds": seconds}


async def recovery(url: str, *, snapshots: bool) -> Any:
    """Recover the ledger."""
    log = opened(url) if snapshots else _without_snapshots(url)
    started = time.perf_counter()
    recovered = await recover(log, LEDGER, "main")
    seconds = time.perf_counter() - started
    await log.close()
    return {"entries": recovered.state.sequence, "seconds": seconds}


def _without_snapshots(url: str) -> KafkaLog:
    class WithoutSnapshots(KafkaLog):
        async def partitions(self, topic: str) -> Any:
            return [] if topic == topics.FUND_SNAPSHOTS else await super().partitions(topic)

    return WithoutSnapshots(opened(url).access)


async def feed(url: str, rate: int, seconds: float) -> Any:
    """Publish fills of one order at a steady rate; each carries the time of its append."""
    log = opened(url)
    number, started = 0, time.perf_counter()
    late = 0.0
    while (now := time.perf_counter() - started) < seconds:
        due = int(now * rate)
        if due > number:
            stamp = time.monotonic_ns()
            await log.publish(FILLS.topic, [_fill(n, stamp) for n in range(number, due)])
            number = due
        late = max(late, time.perf_counter() - started - now)
        await asyncio.sleep(max(0.0, TICK_S - (time.perf_counter() - started - now)))
    await log.close()
    return {"fills": number, "longest_append_ms": 1000 * late}


def _fill(number: int, stamp: int) -> NewRecord:
    value = (
        f'{{"type":"fill","event_id":"{stamp}","event_time_ms":{time.time_ns() // 1_000_000},'
        f'"margin_currency":"USDT","fill_id":"f-{number}","liquidation_id":"large",'
        '"order_id":"large:1","instrument_id":"LASTING","side":"sell","price":"50000",'
        '"quantity":"1","fee":"0"}'
    )
    return NewRecord(0, b"large", value.encode())


async def follow(
    log: KafkaLog, where: TopicPartition, offset: int
) -> AsyncIterator[tuple[bytes, int]]:
    """Yield what stands in a partition from an offset on and comes to it, with the time then."""
    while True:
        batch = await log.read(where, offset, 10_000)
        now_ns = time.monotonic_ns()
        for record in batch.records:
            yield record.value or b"", now_ns
        offset = batch.next_offset
        if not batch.records:
            await log.wait(1.0)


def main() -> None:
    """Play one role."""
    parser = argparse.ArgumentParser(prog="benchmarks.kafka_roles", description=__doc__)
    parser.add_argument("role", choices=["process", "pass_through", "recovery", "feed"])
    parser.add_argument("url")
    parser.add_argument("--shards", default="main")
    parser.add_argument("--shard", default="main")
    parser.add_argument("--snapshot-entries", type=int, default=0)
    parser.add_argument("--no-snapshots", action="store_true")
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    given = parser.parse_args()
    roles = {
        "process": lambda: process(
            given.url, given.shards.split(","), given.shard, given.snapshot_entries
        ),
        "pass_through": lambda: pass_through(given.url, given.lines),
        "recovery": lambda: recovery(given.url, snapshots=not given.no_snapshots),
        "feed": lambda: feed(given.url, given.rate, given.seconds),
    }
    print(json.dumps(asyncio.run(roles[given.role]())))


if __name__ == "__main__":
    main()
