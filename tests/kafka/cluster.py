"""A cluster of one or more Kafka nodes on loopback, to which a test may do what it likes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from aiokafka.admin import NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError as CoordinatorNotAvailableError

from tests.kafka.jars import cache_folder, made_once
from tests.kafka.node import HOST, Node, Runtime, free_ports
from tests.kafka.ready import admin_of, is_known, until, wait_listening, wait_usable

# Kafka's defaults are for patience; these make a death known after 3 s and a group in no time.
TEST_PROPERTIES: Final = {
    "auto.create.topics.enable": "false",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.segment.delete.delay.ms": "100",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}


class NodeDiedError(Exception):
    """A node ended while the cluster was waited for; the message ends with its last words."""


class Cluster:
    """So many nodes, each broker and controller, with replication over all of them.

    Listeners beside PLAINTEXT, which is always there, are given as names with their security
    protocols. Server properties given here win over those of all tests.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        nodes: int = 1,
        *,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
        ports: Sequence[int] = (),
    ) -> None:
        self._runtime = runtime
        self.folder = folder
        self._format_arguments = list(format_arguments)
        self._protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self.replication = nodes
        self.min_isr = min(2, nodes)
        given = iter([*ports, *free_ports(nodes * (len(self._protocols) + 1))])
        self._ports = [{name: next(given) for name in self._protocols} for _ in range(nodes)]
        controllers = [next(given) for _ in range(nodes)]
        self._own_properties = dict(properties or {})
        self.nodes = [
            Node(runtime, folder / f"node-{node}", self._properties(node, controllers))
            for node in range(nodes)
        ]

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, host:port with commas between."""
        return self.bootstrap_for("PLAINTEXT")

    def bootstrap_for(self, listener: str) -> str:
        """Returns the addresses of all nodes at one of the listeners."""
        return ",".join(f"{HOST}:{ports[listener]}" for ports in self._ports)

    def bootstrap_of(self, node: int) -> str:
        """Returns the address of one node."""
        return f"{HOST}:{self._ports[node]['PLAINTEXT']}"

    async def start(self) -> None:
        """Formats the nodes, starts them and waits until they are usable."""
        self._format()
        for node in self.nodes:
            node.start()
        await self.wait_ready()

    def stop(self) -> None:
        """Kills all nodes and takes their data away; their logs stay in the folder."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            shutil.rmtree(node.data, ignore_errors=True)

    def kill(self, node: int) -> None:
        """Ends a node by SIGKILL."""
        self._node(node).kill()

    async def terminate(self, node: int) -> None:
        """Ends a node by SIGTERM and waits for its orderly end."""
        await self._node(node).terminate()

    def pause(self, node: int) -> None:
        """Stops a node by SIGSTOP; its connections stay open."""
        self._node(node).pause()

    def resume(self, node: int) -> None:
        """Lets a paused node go on."""
        self._node(node).resume()

    def restart(self, node: int) -> None:
        """Starts a node that was ended, on the same data, and does not wait for it."""
        self._node(node).start()

    @property
    def disturbed(self) -> bool:
        """Whether a node is dead or paused."""
        return any(node.paused or not node.alive for node in self.nodes)

    async def restore(self, timeout_s: float = 60) -> None:
        """Brings all nodes back and waits until the cluster is whole again."""
        for node in self.nodes:
            node.resume()
            node.start()
        await self.wait_ready(timeout_s)

    async def wait_ready(self, timeout_s: float = 60) -> None:
        """Waits until all nodes are there, replicas are in sync and a transaction can begin.

        Raises NodeDiedError if a node ends meanwhile, TimeoutError after the time given.
        """
        try:
            async with asyncio.timeout(timeout_s):
                ports = [port for of_node in self._ports for port in of_node.values()]
                await wait_listening(ports, self.check_alive)
                await wait_usable(self.bootstrap, len(self.nodes), self.check_alive)
        except TimeoutError:
            raise TimeoutError(
                f"the cluster was not usable within {timeout_s} s: {self._last_words()}"
            ) from None

    def check_alive(self) -> None:
        """Raises NodeDiedError, with the end of the logs, if a node is not there."""
        for node in self.nodes:
            if not node.alive:
                raise NodeDiedError(f"{node.folder.name} ended: {self._last_words()}")

    async def make_topic(
        self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Makes a topic with a replica at each node and waits until all living nodes know it.

        Raises RuntimeError if the cluster refuses, TimeoutError after 10 s.
        """
        async with asyncio.timeout(10), admin_of(self._living()) as admin:
            new = NewTopic(topic, partitions, self.replication, topic_configs=dict(configs or {}))
            (answer,) = (await admin.create_topics([new])).topic_errors
            if answer[1] != 0:
                raise RuntimeError(f"{topic} cannot be made: error {answer[1]}: {answer[2]}")
            await until(partial(is_known, admin, topic, partitions))

    async def leader_of(self, topic: str, partition: int = 0) -> int:
        """Returns the node that leads a partition, as far as the living nodes know.

        Waits while there is none; raises TimeoutError after 10 s. A leader that just died counts as
        leader until the controller notices.
        """
        async with asyncio.timeout(10), admin_of(self._living()) as admin:
            while True:
                (described,) = await admin.describe_topics([topic])
                leaders = {found["partition"]: found["leader"] for found in described["partitions"]}
                if leaders.get(partition, -1) >= 0:
                    return int(leaders[partition])
                await asyncio.sleep(0.02)

    async def coordinator_of(self, transactional_id: str) -> int:
        """Returns the node that coordinates the transactions of an id.

        Waits while there is none; raises TimeoutError after 10 s.
        """
        async with asyncio.timeout(10), admin_of(self._living()) as admin:
            while True:
                with contextlib.suppress(CoordinatorNotAvailableError):
                    return int(await admin.find_coordinator(transactional_id, coordinator_type=1))
                await asyncio.sleep(0.02)

    def _living(self) -> str:
        """Returns the addresses of nodes that answer; a paused one would hold a client up."""
        return ",".join(
            self.bootstrap_of(number)
            for number, node in enumerate(self.nodes)
            if node.alive and not node.paused
        )

    def _last_words(self) -> str:
        logs = [log for node in self.nodes for log in node.logs if log.exists()]
        tails = [log.read_text(errors="replace")[-1500:].strip() for log in logs]
        return f"logs in {self.folder}\n" + "\n".join(tail for tail in tails if tail)

    def _properties(self, node: int, controllers: list[int]) -> dict[str, str]:
        ports = {**self._ports[node], "CONTROLLER": controllers[node]}
        listeners = {name: f"{name}://{HOST}:{port}" for name, port in ports.items()}
        protocols = {**self._protocols, "CONTROLLER": "PLAINTEXT"}
        voters = [f"{number}@{HOST}:{port}" for number, port in enumerate(controllers)]
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": ",".join(listeners[name] for name in self._protocols),
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "default.replication.factor": str(self.replication),
            "min.insync.replicas": str(self.min_isr),
            "offsets.topic.replication.factor": str(self.replication),
            "transaction.state.log.replication.factor": str(self.replication),
            "transaction.state.log.min.isr": str(self.min_isr),
            **TEST_PROPERTIES,
            **self._own_properties,
        }

    def _node(self, number: int) -> Node:
        return self.nodes[number]

    def _format(self) -> None:
        """Gives each node formatted data; only two numbers differ from node to node."""
        plain = not self._format_arguments
        template = (cache_folder() if plain else self.folder) / "formatted"
        if not template.is_dir():
            made_once(template, self._run_storage_tool)
        cluster_id = _random_id()
        for number, node in enumerate(self.nodes):
            shutil.copytree(template, node.data)
            (node.data / "meta.properties").write_text(
                f"version=1\ncluster.id={cluster_id}\nnode.id={number}\n"
                f"directory.id={_random_id()}\n"
            )

    def _run_storage_tool(self, target: Path) -> None:
        properties = target.with_suffix(".properties")
        own = self.nodes[0].properties.read_text()
        properties.write_text(f"{own}log.dirs={target}\n")
        arguments = ["format", "-t", _random_id(), "-c", str(properties), *self._format_arguments]
        done = subprocess.run(
            self._runtime.storage_tool(target.parent, arguments),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise RuntimeError(f"kafka-storage.sh could not format: {done.stdout[-1500:]}")


def _random_id() -> str:
    """Returns a random id as Kafka writes them; a leading dash would be read as an option."""
    while True:
        found = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if not found.startswith("-"):
            return found
