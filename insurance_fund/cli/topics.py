"""The commands `topics plan`, `topics apply` and `topics check`: a Kafka cluster's topics."""

from __future__ import annotations

import asyncio
import itertools
from typing import Annotated, Any, Final

import typer

from insurance_fund.cli import common, screen
from insurance_fund.events.errors import SettingsError
from insurance_fund.logs import kafka_access, log_url
from insurance_fund.settings import Settings
from insurance_fund.streams.topic_acls import SERVICE, grants
from insurance_fund.streams.topic_admin import Applied, apply_layout, look
from insurance_fund.streams.topic_judgement import Finding, unsafe
from insurance_fund.streams.topic_plan import (
    DAY_MS,
    FOREVER,
    Layout,
    PlannedTopic,
    alter_command,
    plan_topics,
)
from insurance_fund.streams.urls import KafkaUrl

topics_app = typer.Typer(no_args_is_help=True, help="The topics on Kafka.")

APPLY_EXIT_CODES: Final = "Exit codes: 0 done, 2 could not."
CHECK_EXIT_CODES: Final = "Exit codes: 0 nothing dangerous, 1 dangers, 2 could not check."
_STYLES: Final = {"danger": "bold red", "warning": "bold yellow"}

PartitionsOption = Annotated[
    int, typer.Option(min=1, help="Partitions of liquidations and fills; all others are given.")
]
ReplicationOption = Annotated[
    int, typer.Option(min=1, help="On how many brokers each record is; 1 for a single one.")
]
InputDaysOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Days, by the records' own times, that inputs are kept; 0 for ever, which recordings "
        "of older events need.",
    ),
]


@topics_app.command("plan", epilog=common.EXIT_CODES)
def plan(
    partitions: PartitionsOption = 1,
    replication: ReplicationOption = 3,
    input_days: InputDaysOption = 7,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Print all topics as they are to be, and the ACLs of each role. Asks no broker."""
    settings = common.settings_for(log)
    layout = _layout(settings, partitions, replication, input_days)
    tools = _bootstrap(settings, layout.url)
    planned = plan_topics(layout)
    granted = grants(layout, settings.text("kafka_username") or SERVICE, settings.webhooks)
    if output is screen.Format.JSON:
        acls = [
            {
                "role": grant.role,
                "user": grant.user,
                "operations": grant.operations,
                "resource": grant.resource,
                "names": grant.names,
                "command": grant.command(tools),
            }
            for grant in granted
        ]
        screen.show_json({"topics": [_topic_row(topic) for topic in planned], "acls": acls})
        return
    columns = ("topic", "cleanup", "kept")
    rows = [_shown(topic) for topic in planned]
    screen.show_rows("Topics", rows, columns, ("partitions", "replicas", "in_sync", "bytes_max"))
    screen.say("Every setting, for programs: --format json.")
    for role, of_role in itertools.groupby(granted, lambda grant: grant.role):
        screen.say("")
        screen.say("", head=f"# {role}")
        for grant in of_role:
            screen.say(grant.command(tools))


@topics_app.command("apply", epilog=APPLY_EXIT_CODES)
def apply(
    partitions: PartitionsOption = 1,
    replication: ReplicationOption = 3,
    input_days: InputDaysOption = 7,
    log: common.LogOption = None,
    output: common.FormatOption = screen.Format.TABLE,
) -> None:
    """Make the topics that are missing, and partitions for new shards; change nothing else."""
    settings = common.settings_for(log)
    layout = _layout(settings, partitions, replication, input_days)
    done = asyncio.run(apply_layout(kafka_access(settings, layout.url), layout))
    tools = _bootstrap(settings, layout.url)
    if output is screen.Format.JSON:
        screen.show_json(_applied_rows(done, tools))
        return
    _print_applied(done, tools)


@topics_app.command("check", epilog=CHECK_EXIT_CODES)
def check(log: common.LogOption = None, output: common.FormatOption = screen.Format.TABLE) -> None:
    """Name each setting of the live cluster that endangers a guarantee."""
    settings = common.settings_for(log)
    layout = _layout(settings)
    found = asyncio.run(look(kafka_access(settings, layout.url), layout))
    tools = _bootstrap(settings, layout.url)
    if output is screen.Format.JSON:
        screen.show_json([_finding_row(one, tools) for one in found])
    else:
        for one in found:
            _print_finding(one, tools)
        dangers = len(unsafe(found))
        screen.say(
            f"{screen.counted(dangers, 'danger')}, "
            f"{screen.counted(len(found) - dangers, 'warning')}"
        )
    if unsafe(found):
        raise typer.Exit(common.EXIT_FOUND)


def _layout(
    settings: Settings, partitions: int = 1, replication: int = 3, input_days: int = 7
) -> Layout:
    url = log_url(settings)
    if not isinstance(url, KafkaUrl):
        raise SettingsError(
            f"{settings.text('log')}: a file makes its topics by itself; this is for a log on "
            "Kafka: --log kafka://HOST:PORT"
        )
    return Layout(url, settings.shards, partitions, replication, input_days, settings.bus_topics)


def _bootstrap(settings: Settings, url: KafkaUrl) -> str:
    """Return how Kafka's own tools are told where the cluster is, and who asks."""
    options = f"--bootstrap-server {','.join(url.brokers)}"
    if settings.text("kafka_security") not in (None, "plaintext"):
        options += " --command-config admin.properties"
    return options


def _topic_row(topic: PlannedTopic) -> dict[str, Any]:
    return {
        "topic": topic.topic,
        "name": topic.name,
        "partitions": topic.partitions,
        "replication": topic.replication,
        "settings": topic.settings,
    }


def _shown(topic: PlannedTopic) -> dict[str, Any]:
    kept = topic.settings.get("retention.ms")
    return {
        "topic": topic.name,
        "cleanup": topic.settings["cleanup.policy"],
        "kept": _kept(kept),
        "partitions": topic.partitions,
        "replicas": topic.replication,
        "in_sync": topic.settings["min.insync.replicas"],
        "bytes_max": topic.settings["max.message.bytes"],
    }


def _kept(retention_ms: str | None) -> str:
    if retention_ms is None:
        return "newest of each key"
    return "for ever" if retention_ms == FOREVER else f"{int(retention_ms) // DAY_MS} days"


def _finding_row(found: Finding, tools: str) -> dict[str, Any]:
    return {
        "severity": found.severity,
        "where": found.where,
        "setting": found.setting,
        "value": found.value,
        "text": found.text,
        "command": _command(found, tools),
    }


def _command(found: Finding, tools: str) -> str | None:
    if found.planned is None:
        return None
    return alter_command(tools, found.where, {found.setting: found.planned})


def _print_finding(found: Finding, tools: str) -> None:
    screen.say(
        f" {found.told}",
        head=found.severity,
        style=_STYLES[found.severity],
    )
    command = _command(found, tools)
    if command is not None:
        screen.say(f"  {command}")


def _changes(done: Applied) -> dict[str, dict[str, tuple[str, str]]]:
    by_topic: dict[str, dict[str, tuple[str, str]]] = {}
    for one in done.differing:
        by_topic.setdefault(one.name, {})[one.setting] = (one.value, one.planned)
    return by_topic


def _applied_rows(done: Applied, tools: str) -> dict[str, Any]:
    return {
        "created": done.created,
        "grown": {name: {"from": old, "to": new} for name, (old, new) in done.grown.items()},
        "differing": [
            {
                "name": name,
                "settings": {s: {"is": v, "planned": p} for s, (v, p) in settings.items()},
                "command": alter_command(tools, name, {s: p for s, (_, p) in settings.items()}),
            }
            for name, settings in _changes(done).items()
        ],
        "unchecked": done.unchecked,
    }


def _print_applied(done: Applied, tools: str) -> None:
    for name in done.created:
        screen.say(f" {name}", head="made")
    for name, (old, new) in done.grown.items():
        screen.say(f" {name}: from {old} to {screen.counted(new, 'partition')}", head="grown")
    for name, settings in _changes(done).items():
        told = ", ".join(f"{s} = {v} (planned {p})" for s, (v, p) in settings.items())
        screen.say(f" {name}: {told}; left as it is", head="differs", style="bold yellow")
        command = alter_command(tools, name, {s: p for s, (_, p) in settings.items()})
        screen.say(f"  {command}")
    for name in done.unchecked:
        screen.say(
            f" {name}: this user may not see its settings (ACL DescribeConfigs)",
            head="not compared",
            style="bold yellow",
        )
    screen.say(
        f"{screen.counted(len(done.created), 'topic')} made, {len(done.grown)} grown, "
        f"{len(_changes(done))} otherwise than planned"
    )
