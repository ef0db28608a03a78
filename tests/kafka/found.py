"""Which Kafka the tests have here: a named cluster, else Docker's, else one by Java.

Whatever is found first serves all tests of a run; what is passed over is said with its reason.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.kafka.cluster import Cluster
from tests.kafka.docker import IMAGE, docker_runtime
from tests.kafka.jars import (
    KAFKA_VERSION,
    JarsUnavailableError,
    cache_folder,
    class_path,
    digest,
    made_once,
)
from tests.kafka.java import JavaRuntime, java_build
from tests.kafka.node import Runtime

BOOTSTRAP_VARIABLE: Final = "INSURANCE_FUND_TEST_BOOTSTRAP"

REMEDY: Final = (
    "Install Java 17 or newer and Maven (Debian, Ubuntu: apt-get install openjdk-17-jre-headless"
    f" maven), or start Docker, or name a cluster: {BOOTSTRAP_VARIABLE}=host:port"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is: the addresses of a cluster, or what runs nodes, or neither."""

    said: str
    bootstrap: str | None = None
    runtime: Runtime | None = None


@functools.cache
def found() -> Found:
    """Returns what serves the tests; may have to fetch jars or an image, which takes a while."""
    bootstrap = os.environ.get(BOOTSTRAP_VARIABLE)
    if bootstrap:
        return Found(f"the cluster at {bootstrap} ({BOOTSTRAP_VARIABLE})", bootstrap=bootstrap)
    return node_runtime()


def node_runtime() -> Found:
    """Returns what can run nodes here, whatever cluster is named; may fetch like found."""
    docker = docker_runtime()
    if not isinstance(docker, str):
        return Found(f"{IMAGE} in Docker", runtime=docker)
    java = _java_runtime()
    if not isinstance(java, str):
        return Found(f"{KAFKA_VERSION} by {java.java}; {docker}", runtime=java)
    return Found(f"{docker}; {java}")


def _java_runtime() -> JavaRuntime | str:
    java = shutil.which("java")
    build = java_build(java) if java else None
    if java is None or build is None:
        return "there is no Java 17 or newer"
    try:
        runtime = JavaRuntime(java, class_path())
    except JarsUnavailableError as why:
        return str(why)
    archive = cache_folder() / f"classes-{digest(build + runtime.classes)}.jsa"
    if not archive.exists():
        made_once(archive, lambda target: _record_classes(replace(runtime, recorded_to=target)))
    return replace(runtime, archive=archive)


def _record_classes(runtime: JavaRuntime) -> None:
    """Lets a node write down at its end which classes it loaded, which halves later starts."""
    with tempfile.TemporaryDirectory(prefix="insurance-fund-") as folder:
        asyncio.run(_run_once(Cluster(runtime, Path(folder) / "cluster")))


async def _run_once(cluster: Cluster) -> None:
    try:
        await cluster.start()
        await cluster.terminate(0)
    finally:
        cluster.stop()
