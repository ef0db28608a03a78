"""The clusters do what the other tests rely on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.kafka.cluster import Cluster, NodeDiedError
from tests.kafka.found import BOOTSTRAP_VARIABLE
from tests.kafka.node import Runtime
from tests.kafka.ready import admin_of, until
from tests.kafka.rounds import ROUNDS_VARIABLE, rounds

ROOT = Path(__file__).parents[2]


async def _write(cluster: Cluster, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, value)


async def _read(cluster: Cluster, topic: str) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        found: list[bytes] = []
        while len(found) < end:
            batches = await consumer.getmany(timeout_ms=1000)
            found.extend(record.value for batch in batches.values() for record in batch)
    return found


async def test_written_record_is_read_back(broker: Cluster, prefix: str) -> None:
    await broker.make_topic(prefix)
    await _write(broker, prefix, b"one")
    assert await _read(broker, prefix) == [b"one"]


async def test_record_outlives_a_killed_node(broker: Cluster, prefix: str) -> None:
    await broker.make_topic(prefix)
    await _write(broker, prefix, b"one")
    broker.kill(0)
    assert broker.disturbed
    broker.restart(0)
    await broker.wait_ready()
    assert await _read(broker, prefix) == [b"one"]


async def test_transactional_id_has_a_coordinator(broker: Cluster, prefix: str) -> None:
    assert await broker.coordinator_of(prefix) == 0


async def test_paused_leader_takes_records_again_when_resumed(broker: Cluster, prefix: str) -> None:
    await broker.make_topic(prefix)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        await producer.send_and_wait(prefix, b"one")
        broker.pause(0)
        late = await producer.send(prefix, b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(late), timeout=1)
        broker.resume(0)
        await late
    assert await _read(broker, prefix) == [b"one", b"two"]


async def test_three_nodes_take_records_while_the_leader_is_dead(
    trio: Cluster, prefix: str
) -> None:
    await trio.make_topic(prefix)
    leader = await trio.leader_of(prefix)
    trio.kill(leader)
    await _write(trio, prefix, b"one")
    assert await _read(trio, prefix) == [b"one"]
    assert await trio.leader_of(prefix) != leader


async def test_what_a_test_broke_is_whole_for_the_next(trio: Cluster) -> None:
    assert not trio.disturbed
    async with admin_of(trio.bootstrap) as admin:
        topics = await admin.describe_topics()
    assert {len(found["isr"]) for topic in topics for found in topic["partitions"]} == {3}


async def test_node_told_to_end_leaves_its_partitions_to_the_others(
    trio: Cluster, prefix: str
) -> None:
    await trio.make_topic(prefix)
    leader = await trio.leader_of(prefix)
    await trio.terminate(leader)

    async def another_leads() -> bool:
        return await trio.leader_of(prefix) != leader

    async with asyncio.timeout(2):  # less than the session of a node that says nothing
        await until(another_leads)


async def test_start_with_nonsense_fails_at_once_with_the_log(
    runtime: Runtime, tmp_path: Path
) -> None:
    cluster = Cluster(runtime, tmp_path / "cluster", properties={"num.io.threads": "none"})
    try:
        with pytest.raises((NodeDiedError, RuntimeError), match=r"num\.io\.threads"):
            await cluster.start()
    finally:
        cluster.stop()


def test_node_dies_with_the_process_that_started_it(runtime: Runtime, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.kafka.cluster import Cluster\n"
        "from tests.kafka.found import node_runtime\n"
        "cluster = Cluster(node_runtime().runtime, Path(sys.argv[1]))\n"
        "asyncio.run(cluster.start())\n"
        "print(cluster.nodes[0].pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cluster")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        node = int(owner.stdout.readline())
        os.kill(node, 0)
        owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=10)
    deadline = time.monotonic() + 10
    while _exists(node):
        assert time.monotonic() < deadline, f"process {node} outlived its owner"
        time.sleep(0.02)


def _exists(pid: int) -> bool:
    """Returns whether a process runs; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_run_without_any_broker_says_so_aloud(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name != BOOTSTRAP_VARIABLE}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            f"{__file__}::{test_written_record_is_read_back.__name__}",
        ],
        cwd=ROOT,
        env={**bare, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    assert "NOTHING OF KAFKA WAS TESTED" in done.stdout
    assert "apt-get install openjdk-17-jre-headless maven" in done.stdout


@pytest.mark.parametrize(("asked", "got"), [("", 3), ("full", 30), ("7", 7)])
def test_rounds_are_few_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, got: int
) -> None:
    monkeypatch.setenv(ROUNDS_VARIABLE, asked)
    assert rounds(3, 30) == got


def test_rounds_that_are_no_number_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROUNDS_VARIABLE, "many")
    with pytest.raises(ValueError, match='"many": give "full" or a number'):
        rounds(3, 30)
