"""What the tests of this level share: brokers started once, and names that do not collide."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import secrets
import shutil
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Helpers are not test modules by their names, yet their asserts shall explain themselves.
pytest.register_assert_rewrite(
    "tests.embedded.log_contract",
    "tests.embedded.service",
    *(
        f"{__package__}.{path.stem}"
        for path in Path(__file__).parent.glob("[!_]*.py")
        if not path.stem.startswith(("conftest", "test_"))
    ),
)

from tests.kafka.cluster import Cluster  # noqa: E402 - after the rewrite is asked for
from tests.kafka.foreign import ForeignCluster  # noqa: E402
from tests.kafka.found import BOOTSTRAP_VARIABLE, REMEDY, Found, found  # noqa: E402
from tests.kafka.node import Runtime  # noqa: E402
from tests.kafka.ready import until  # noqa: E402
from tests.kafka.security import SecureCluster  # noqa: E402

BROKERS = {"broker", "trio", "secured", "runtime"}

_untested = pytest.StashKey[str]()
_failed = pytest.StashKey[bool]()
_kept = pytest.StashKey[list[Path]]()

_counter = itertools.count(1)
_run_name = secrets.token_hex(2)


def pytest_report_collectionfinish(items: list[pytest.Item]) -> str | None:
    """Says which Kafka serves the tests, if any of them wants one."""
    wanted = any(BROKERS & set(getattr(item, "fixturenames", ())) for item in items)
    return f"Kafka: {found().said}" if wanted else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Marks the run as failed, for which the logs of its brokers are kept."""
    report = yield
    if report.failed:
        item.config.stash[_failed] = True
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Says aloud that Kafka went untested, and where the logs of failed runs are."""
    untested = config.stash.get(_untested, None)
    if untested is not None:
        terminalreporter.section("NOTHING OF KAFKA WAS TESTED", yellow=True, bold=True)
        terminalreporter.line(f"No broker: {untested}.", yellow=True)
        terminalreporter.line(f"{REMEDY}.", yellow=True)
    for folder in config.stash.get(_kept, []):
        terminalreporter.line(f"Logs of the brokers: {folder}")


@pytest.fixture(autouse=True)
def _told_in_time() -> Iterator[None]:
    """Lets asyncio tell of errors that a fenced client has left unseen while nothing else goes on.

    It formats their tracebacks with the parser, and amid an import the parser takes that amiss.
    """
    yield
    gc.collect()


@pytest.fixture
def prefix() -> str:
    """A short text that no other test's topics, groups and transactional ids begin with."""
    return f"t{next(_counter)}x{_run_name}"


@pytest.fixture
def broker(_one_node: Cluster) -> Cluster:
    """One node, shared by all tests; whole when a test begins."""
    return _whole(_one_node)


@pytest.fixture
def trio(_three_nodes: Cluster) -> Cluster:
    """Three nodes, replication 3, two of which must have a record; whole when a test begins."""
    return _whole(_three_nodes)


@pytest.fixture
async def secured(_whole_secure_node: SecureCluster) -> AsyncIterator[SecureCluster]:
    """One node with listeners for every way to sign on, and access by list alone."""
    yield _whole_secure_node
    # aiokafka does not wait for the end of a TLS connection; the loop may not close before it.
    selector: Any = vars(asyncio.get_running_loop())["_selector"]

    async def only_the_loop_itself() -> bool:
        return len(selector.get_map()) <= 1

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await until(only_the_loop_itself)


@pytest.fixture
def _whole_secure_node(_secure_node: SecureCluster) -> SecureCluster:
    _whole(_secure_node.cluster)
    return _secure_node


@pytest.fixture(scope="session")
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """What runs nodes here, for a test that starts a cluster of its own."""
    here = _found_or_skip(request)
    if here.runtime is None:
        pytest.skip(f"wants a cluster of its own, and {BOOTSTRAP_VARIABLE} names somebody else's")
    return here.runtime


@pytest.fixture(scope="session")
def _one_node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    bootstrap = _found_or_skip(request).bootstrap
    if bootstrap is None:
        runtime: Runtime = request.getfixturevalue("runtime")
        folder = tmp_path_factory.mktemp("kafka-one")
        yield from _started(request.config, Cluster(runtime, folder / "cluster"))
    else:
        foreign = ForeignCluster(bootstrap)
        _run(foreign.wait_ready())
        yield foreign


@pytest.fixture(scope="session")
def _three_nodes(
    request: pytest.FixtureRequest, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("kafka-three")
    yield from _started(request.config, Cluster(runtime, folder / "cluster", 3))


@pytest.fixture(scope="session")
def _secure_node(
    request: pytest.FixtureRequest, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureCluster]:
    secure = SecureCluster(runtime, tmp_path_factory.mktemp("kafka-secure") / "cluster")
    for _ in _started(request.config, secure.cluster):
        yield secure


def _found_or_skip(request: pytest.FixtureRequest) -> Found:
    here = found()
    if here.runtime is None and here.bootstrap is None:
        request.config.stash[_untested] = here.said
        pytest.skip(f"no Kafka broker: {here.said}")
    return here


def _started(config: pytest.Config, cluster: Cluster) -> Iterator[Cluster]:
    try:
        _run(cluster.start())
        yield cluster
    except BaseException:
        config.stash[_failed] = True
        raise
    finally:
        cluster.stop()
        if config.stash.get(_failed, False):
            config.stash.setdefault(_kept, []).append(cluster.folder)
        else:
            shutil.rmtree(cluster.folder, ignore_errors=True)


def _whole(cluster: Cluster) -> Cluster:
    """Mends what an earlier test broke."""
    if cluster.disturbed:
        _run(cluster.restore())
    return cluster


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    # A loop of its own that never becomes the thread's: pytest-asyncio keeps its loop there.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(coroutine)
