"""One node of a cluster: its files, its process and the signals sent to it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

HOST: Final = "127.0.0.1"

# Below the ports that systems give to clients, or one of these might take a dead node's port.
PORTS: Final = range(20_000, 30_000)

# Dies with the process that started it, however that ends; the pid is the node's own.
_DIES_WITH_PARENT: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Runtime(Protocol):
    """What runs Kafka's programs: Java of this machine or Docker."""

    def server(self, properties: Path) -> list[str]:
        """Returns the command of a node with such properties; its folder's parent is its own."""

    def storage_tool(self, folder: Path, arguments: list[str]) -> list[str]:
        """Returns the command of kafka-storage.sh, which may write in the folder."""

    def send(
        self, process: subprocess.Popen[bytes], properties: Path, number: signal.Signals
    ) -> None:
        """Sends SIGKILL, SIGTERM, SIGSTOP or SIGCONT to the node started with the properties."""


def free_ports(count: int) -> list[int]:
    """Returns so many ports of loopback on which nobody listens now."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        if port not in found and is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Returns whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Node:
    """A broker and controller in one process, in a folder of its own."""

    def __init__(self, runtime: Runtime, folder: Path, properties: Mapping[str, str]) -> None:
        self._runtime = runtime
        self.folder = folder
        self.data = folder / "data"
        self.properties = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False
        folder.mkdir(parents=True)
        lines = [f"{key}={value}\n" for key, value in properties.items()]
        self.properties.write_text(f"log.dirs={self.data}\n" + "".join(lines))

    @property
    def logs(self) -> list[Path]:
        """The files in which the node says what goes wrong."""
        return [self.properties.with_suffix(".log"), self.properties.with_suffix(".out")]

    @property
    def alive(self) -> bool:
        """Whether the process is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        if self._process is None:
            raise RuntimeError(f"{self.folder.name} was never started")
        return self._process.pid

    def start(self) -> None:
        """Starts the process and does not wait for it; the data of an earlier one are taken up."""
        if self.alive:
            return
        command = self._runtime.server(self.properties)
        guard = [sys.executable, "-I", "-S", "-c", _DIES_WITH_PARENT, str(os.getpid())]
        with self.logs[1].open("ab") as out:
            # A session of its own: Ctrl-C at a terminal ends the tests, and these end the node.
            self._process = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.paused = False

    def kill(self) -> None:
        """Ends the node by SIGKILL, paused or not, and returns when it is gone."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=30)
            if self._process.stdin is not None:
                self._process.stdin.close()
        self.paused = False

    async def terminate(self, timeout_s: float = 30) -> None:
        """Ends the node by SIGTERM, upon which it hands its partitions over, and waits for it."""
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.folder.name} did not end within {timeout_s} s")
            await asyncio.sleep(0.02)
        self.kill()

    def pause(self) -> None:
        """Stops the process by SIGSTOP; its connections stay open."""
        self._send(signal.SIGSTOP)
        self.paused = self.alive

    def resume(self) -> None:
        """Lets a paused process go on by SIGCONT."""
        if self.paused:
            self._send(signal.SIGCONT)
        self.paused = False

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self.alive:
            self._runtime.send(self._process, self.properties, number)
