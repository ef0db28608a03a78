"""Asks a cluster for its topics, and makes those that are missing.

What is there already is left as it is: the client's `alter_configs` would put every setting that it
is not given back to its default, so it is never called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidPartitionsError, KafkaError, TopicAlreadyExistsError, for_code

from insurance_fund.events import topics
from insurance_fund.events.errors import LogUnavailableError
from insurance_fund.streams import kafka_causes, kafka_trouble
from insurance_fund.streams.kafka_access import DEADLINE_S, KafkaAccess
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.topic_judgement import (
    BROKER_SETTINGS,
    DescribedTopic,
    Finding,
    dangers_first,
    judge_broker,
    judge_topics,
    unchecked,
    unsafe,
)
from insurance_fund.streams.topic_plan import (
    SHARDED,
    Difference,
    Layout,
    PlannedTopic,
    differences,
    plan_topics,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ALREADY_THERE: Final = TopicAlreadyExistsError.errno
# What brokers refuse, by the name that the client has for it, and what to do.
_REFUSALS: Final = {
    "TopicAuthorizationFailedError": "this user may not do that",
    "ClusterAuthorizationFailedError": "this user may not do that",
    "InvalidReplicationFactorError": "there are not enough brokers: give a lower --replication",
    "InvalidConfigurationError": "the brokers do not know or take a setting",
    "PolicyViolationError": "the cluster's own policy for topics does not allow it",
}


@dataclass(slots=True)
class Applied:
    """What was done, and what is otherwise than planned and was left so.

    `grown` says how many partitions a topic had and has; `unchecked` are topics whose settings this
    user may not see.
    """

    created: list[str] = field(default_factory=list)
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    differing: list[Difference] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


async def apply_layout(access: KafkaAccess, layout: Layout) -> Applied:
    """Make what is missing, and return when it can be used.

    Topics are made, and partitions are added to the ledger's and the snapshots' for new shards;
    settings of what is there are left alone, and so is what the exchange calls by a name of its
    own. Raises LogUnavailableError for what is refused.
    """
    done = Applied()
    planned = [topic for topic in plan_topics(layout) if topic.topic not in layout.renamed]
    async with _asking(access) as cluster:
        there = await cluster.topics()
        missing = [topic for topic in planned if topic.name not in there]
        done.created = await cluster.create(missing)
        for topic in planned:
            found = there.get(topic.name)
            if found and topic.topic in SHARDED and len(found) < topic.partitions:
                await cluster.grow(topic)
                done.grown[topic.name] = (len(found), topic.partitions)
        await cluster.wait_for(planned, new={*done.created, *done.grown})
        old = [topic for topic in planned if topic.name in there]
        settings = await cluster.topic_settings(topic.name for topic in old)
        for topic in old:
            known = settings[topic.name]
            if known is None:
                done.unchecked.append(topic.name)
            else:
                done.differing += differences(topic, known)
    absent = {own: name for own, name in layout.renamed.items() if name not in there}
    if absent:
        told = ", ".join(f"{name} (inputs.{own})" for own, name in absent.items())
        raise LogUnavailableError(
            f"{access}: not there, or hidden from this user: {told}: these are the exchange's own "
            "topics, correct the names in the settings or make them; all others are there now"
        )
    return done


async def look(access: KafkaAccess, layout: Layout, *, brokers: bool = True) -> list[Finding]:
    """Return what endangers a guarantee, the dangers first.

    Without `brokers` only the topics are looked at, which asks for fewer rights.
    """
    planned = plan_topics(layout)
    async with _asking(access) as cluster:
        there = await cluster.topics()
        settings = await cluster.topic_settings(
            topic.name for topic in planned if topic.name in there
        )
        described = {
            name: DescribedTopic(
                len(partitions),
                min((len(partition["replicas"]) for partition in partitions), default=0),
                settings.get(name),
            )
            for name, partitions in there.items()
        }
        found = judge_topics(planned, described)
        if brokers:
            for broker, known in (await cluster.broker_settings()).items():
                name = f"broker {broker}"
                found += [unchecked(name)] if known is None else judge_broker(name, known)
        ledgers = len(there.get(layout.name(topics.FUND_LEDGER), []))
    found += await _cut_ledgers(access, layout, ledgers)
    return dangers_first(found)


async def dangers(access: KafkaAccess, layout: Layout, *, warn: bool = True) -> list[Finding]:
    """Return what no shard may be run with; what is worth a warning is told in the log.

    Looks at the topics alone: dangerous settings of the brokers show when a shard is taken. What
    this user may not see is warned of and does not stand in the way.
    """
    found = await look(access, layout, brokers=False)
    for one in found:
        if one.severity == "warning" and warn:
            _log.warning("%s", one.told)
    return unsafe(found)


async def _cut_ledgers(access: KafkaAccess, layout: Layout, partitions: int) -> list[Finding]:
    """Return which ledgers have lost their first entries."""
    found: list[Finding] = []
    reader = KafkaReader(access)
    try:
        for partition, shard in enumerate(layout.shards[:partitions]):
            where = TopicPartition(topics.FUND_LEDGER, partition)
            first = await reader.first_offset(where)
            if first:
                text = (
                    f"the first entries of ledger {shard} were deleted: bring them back from an "
                    "export; until then only a snapshot can start it and nothing verifies it"
                )
                name = f"{layout.name(where.topic)}:{partition}"
                found.append(Finding("danger", name, "first offset", str(first), text))
    finally:
        await reader.close()
    return found


@asynccontextmanager
async def _asking(access: KafkaAccess) -> AsyncIterator[_Cluster]:
    kafka_causes.listen()
    admin = AIOKafkaAdminClient(**access.options())
    try:
        async with kafka_trouble.answered(access, "connecting"):
            await admin.start()
        yield _Cluster(access, admin)
    finally:
        await kafka_trouble.let_go(admin.close())


class _Cluster:
    """The brokers, asked with patience; every item of an answer is looked at."""

    def __init__(self, access: KafkaAccess, admin: AIOKafkaAdminClient) -> None:
        self._access = access
        self._admin = admin

    async def topics(self) -> dict[str, list[dict[str, Any]]]:
        """Return the partitions of all topics that this user may see.

        Asking for all of them makes none, which asking for one by its name can do.
        """
        found = await self._ask("asking for the topics", self._admin.describe_topics)
        return {topic["topic"]: topic["partitions"] for topic in found if not topic["error_code"]}

    async def create(self, missing: Sequence[PlannedTopic]) -> list[str]:
        """Make topics; one that somebody else made meanwhile is theirs."""
        created: list[str] = []

        async def once() -> None:
            left = [topic for topic in missing if topic.name not in created]
            answer = await self._admin.create_topics([_new_topic(topic) for topic in left])
            _see([item for item in answer.topic_errors if item[1] != _ALREADY_THERE])
            created.extend(item[0] for item in answer.topic_errors)

        if missing:
            await self._ask("creating topics", once)
        return created

    async def grow(self, topic: PlannedTopic) -> None:
        """Add partitions up to the planned number."""

        async def once() -> None:
            wanted = {topic.name: NewPartitions(topic.partitions)}
            try:
                await self._admin.create_partitions(wanted)
            except InvalidPartitionsError:
                pass  # somebody has added them meanwhile; else the wait tells
            except KafkaError as error:
                if error.retriable:
                    raise
                raise _refused(f"adding partitions to {topic.name}", type(error), "") from error

        await self._ask(f"adding partitions to {topic.name}", once)

    async def wait_for(self, planned: Sequence[PlannedTopic], new: set[str]) -> None:
        """Wait until topics can be used; of the new ones enough replicas must be in sync to write.

        Any broker may answer, and one may know later than others: as many good answers are wanted
        in a row as there are brokers.
        """
        cluster = await self._ask("asking for the brokers", self._admin.describe_cluster)
        good, waiting = 0, [topic.name for topic in planned]
        try:
            async with asyncio.timeout(DEADLINE_S):
                while good < len(cluster["brokers"]):
                    there = await self.topics()
                    waiting = [
                        topic.name
                        for topic in planned
                        if not _is_ready(topic, there.get(topic.name, []), topic.name in new)
                    ]
                    good = 0 if waiting else good + 1
                    if waiting:
                        await asyncio.sleep(kafka_trouble.RETRY_S)
        except TimeoutError as error:
            raise LogUnavailableError(
                f"{self._access}: after {DEADLINE_S:g} s these cannot be used yet: "
                f"{', '.join(waiting)}: do all partitions have a leader and replicas enough, "
                "and may this user see them (ACL Describe)?"
            ) from error

    async def topic_settings(self, names: Iterable[str]) -> dict[str, Mapping[str, str] | None]:
        """Return the settings of topics, None for what this user may not see."""
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        return await self._ask("asking for the topics' settings", lambda: self._settings(wanted))

    async def broker_settings(self) -> dict[str, Mapping[str, str] | None]:
        """Return some settings of all brokers by their ids, None for what may not be seen."""
        keys = dict.fromkeys(BROKER_SETTINGS)

        async def once() -> dict[str, Mapping[str, str] | None]:
            # Who is there is asked again each time: one that has died is listed for a while.
            brokers = (await self._admin.describe_cluster())["brokers"]
            wanted = [
                ConfigResource(ConfigResourceType.BROKER, str(broker["node_id"]), keys)
                for broker in brokers
            ]
            return await self._settings(wanted)

        return await self._ask("asking for the brokers' settings", once)

    async def _settings(self, wanted: list[ConfigResource]) -> dict[str, Mapping[str, str] | None]:
        found: dict[str, Mapping[str, str] | None] = {}
        for answer in await self._admin.describe_configs(wanted) if wanted else ():
            for code, message, _, name, entries in answer.resources:
                if _is_forbidden(code):
                    found[name] = None
                    continue
                _see([(name, code, message)])
                found[name] = {entry[0]: entry[1] or "" for entry in entries}
        return found

    async def _ask(self, doing: str, call: Callable[[], Awaitable[_T]]) -> _T:
        async with kafka_trouble.answered(self._access, doing):
            return await kafka_trouble.patiently(call)


def _new_topic(topic: PlannedTopic) -> NewTopic:
    return NewTopic(
        topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.settings)
    )


def _is_ready(topic: PlannedTopic, partitions: Sequence[dict[str, Any]], is_new: bool) -> bool:
    least = topic.partitions if is_new else 1
    in_sync = int(topic.settings["min.insync.replicas"]) if is_new else 1
    return len(partitions) >= least and all(
        partition["leader"] >= 0 and len(partition["isr"]) >= in_sync for partition in partitions
    )


def _is_forbidden(code: int) -> bool:
    return bool(code) and "AuthorizationFailed" in for_code(code).__name__


def _see(items: Iterable[Sequence[Any]]) -> None:
    """See that no item of an answer, (name, code, message), was refused.

    Raises the client's error for one to be asked again, LogUnavailableError for all others.
    """
    failed = [(name, for_code(code), message) for name, code, message in items if code]
    final = [_told(*item) for item in failed if not item[1].retriable]
    if final:
        raise LogUnavailableError("; ".join(final))
    for name, error, message in failed:
        raise error(f"{name}: {message}")


def _told(what: str, error: type[KafkaError], message: str | None) -> str:
    name = error.__name__
    reason = _REFUSALS.get(name, "the brokers refuse it")
    acls = "; `insurance-fund topics plan` prints the ACLs for each role"
    told = f"{what}: {reason} ({name}{': ' if message else ''}{message or ''})"
    return told + (acls if "Authorization" in name else "")


def _refused(what: str, error: type[KafkaError], message: str) -> LogUnavailableError:
    return LogUnavailableError(_told(what, error, message))
