"""How a node is run by Docker, with the host's network and its data in the tests' folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kafka.jars import KAFKA_VERSION, digest

IMAGE: Final = f"apache/kafka:{KAFKA_VERSION}"
_BIN: Final = "/opt/kafka/bin"

# The shell becomes the broker; when the client goes, however it ends, its end of the pipe closes.
_START: Final = f"""
exec 3<&0
(cat <&3 >/dev/null; kill -KILL $$) &
exec {_BIN}/kafka-server-start.sh "$0"
"""


@dataclass(frozen=True, slots=True)
class DockerRuntime:
    """Runs the nodes as containers; only with a daemon on this Linux, whose loopback they use."""

    docker: str

    def server(self, properties: Path) -> list[str]:
        """Returns the command of a node: a client that stays attached to the container."""
        name = ["-i", "--init", "--name", _name(properties), "--network", "host"]
        heap = ["-e", "KAFKA_HEAP_OPTS=-Xms64m -Xmx192m", "-e", "EXTRA_ARGS="]
        return [
            *self._run(properties.parent.parent, [*name, *heap, "--entrypoint", "sh"]),
            *("-c", _START, str(properties)),
        ]

    def storage_tool(self, folder: Path, arguments: list[str]) -> list[str]:
        """Returns the command of kafka-storage.sh."""
        return [*self._run(folder, ["--entrypoint", f"{_BIN}/kafka-storage.sh"]), *arguments]

    def send(
        self, process: subprocess.Popen[bytes], properties: Path, number: signal.Signals
    ) -> None:
        """Sends a signal to all of the container; stopping is Docker's freezing."""
        verb = {signal.SIGSTOP: ["pause"], signal.SIGCONT: ["unpause"]}
        command = verb.get(number, ["kill", "--signal", number.name])
        subprocess.run(
            [self.docker, *command, _name(properties)],
            check=number != signal.SIGKILL,  # one that just died by itself is dead enough
            capture_output=True,
            timeout=30,
        )

    def _run(self, folder: Path, options: list[str]) -> list[str]:
        owner = ["--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{folder}:{folder}"]
        return [self.docker, "run", "--rm", *owner, "-e", f"LOG_DIR={folder}", *options, IMAGE]


def docker_runtime() -> DockerRuntime | str:
    """Returns Docker with Kafka's image at hand, or why there is none."""
    docker = shutil.which("docker")
    if docker is None:
        return "there is no docker command"
    if sys.platform != "linux":
        return "Docker serves here only on Linux"
    if not _succeeds([docker, "info"], timeout_s=10):
        return "Docker's daemon does not answer"
    if not _succeeds([docker, "image", "inspect", IMAGE], timeout_s=10) and not _succeeds(
        [docker, "pull", "--quiet", IMAGE], timeout_s=600
    ):
        return f"Docker could not pull {IMAGE}"
    return DockerRuntime(docker)


def _succeeds(command: list[str], timeout_s: float) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _name(properties: Path) -> str:
    return f"insurance-fund-test-{digest(str(properties))}"
