"""Who may do what on the cluster: for each role no more than it needs.

Read and Write imply Describe; a topic that a user may not Describe does not exist for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from insurance_fund.events import topics
from insurance_fund.streams.topic_plan import ALL_TOPICS, SHARDED, Layout

Resource = Literal["topic", "group", "transactional-id", "cluster"]

SERVICE: Final = "insurance-fund"
OPERATOR: Final = "insurance-fund-operator"
VIEWS: Final = "insurance-fund-views"


@dataclass(frozen=True, slots=True)
class Grant:
    """Operations that a user gets on resources of one kind, by their literal names."""

    role: str
    user: str
    operations: tuple[str, ...]
    resource: Resource
    names: tuple[str, ...] = ()

    def command(self, bootstrap: str) -> str:
        """Return the command that grants it."""
        operations = "".join(f" --operation {operation}" for operation in self.operations)
        names = (
            " --cluster"
            if self.resource == "cluster"
            else "".join(f" --{self.resource} {name}" for name in self.names)
        )
        return (
            f"kafka-acls.sh {bootstrap} --add --allow-principal User:{self.user}{operations}{names}"
        )


def grants(layout: Layout, service: str = SERVICE, webhooks: Iterable[str] = ()) -> list[Grant]:
    """Return the grants of all roles; `service` is the user that the fund itself runs as.

    The other users' names are proposals. Groups are only needed by those who keep their place on
    the brokers, or share work out by them: each of the `webhooks` has one.
    """

    def on(
        role: str, user: str, operations: tuple[str, ...], *of: str, resource: Resource = "topic"
    ) -> Grant:
        return Grant(role, user, operations, resource, tuple(layout.name(own) for own in of))

    read, write = ("Read",), ("Write",)
    inputs, outputs = topics.INPUT_TOPICS, topics.OUTPUT_TOPICS
    orders, triggers, letters = outputs
    ids = tuple(f"insurance-fund.{shard}" for shard in layout.shards)
    taken = {
        "exchange": ("exchange", letters),
        "matching engine": ("matching-engine", orders),
        "ADL engine": ("adl-engine", triggers),
    }
    return [
        on("service", service, read, *inputs),
        on("service", service, ("Read", "Write"), *SHARDED),
        on("service", service, write, *outputs),
        # So that a run sees a setting that endangers a guarantee; it runs without it as well.
        on("service", service, ("DescribeConfigs",), *ALL_TOPICS),
        on("service", service, write, *ids, resource="transactional-id"),
        # The second so that lag can be watched; a run does without it.
        on("service", service, read, "insurance-fund", *ids, resource="group"),
        on("exchange", "exchange", write, *inputs),
        *(
            grant
            for role, (user, topic) in taken.items()
            for grant in (
                on(role, user, read, topic),
                Grant(role, user, read, "group", (user,)),
            )
        ),
        on("read models", VIEWS, read, topics.FUND_LEDGER),
        on("read models", VIEWS, read, *_view_groups(webhooks), resource="group"),
        on("risk desk", "risk-desk", read, topics.FUND_LEDGER, *outputs),
        Grant("risk desk", "risk-desk", read, "group", ("risk-desk",)),
        on("auditor", "auditor", read, *ALL_TOPICS),
        on("operator", OPERATOR, ("Create", "Describe", "DescribeConfigs"), *ALL_TOPICS),
        on("operator", OPERATOR, ("Alter",), *SHARDED),
        Grant("operator", OPERATOR, ("DescribeConfigs",), "cluster"),
    ]


def _view_groups(webhooks: Iterable[str]) -> list[str]:
    """Return the groups of the workers that carry read models and webhooks."""
    return ["insurance-fund.projections", *(f"insurance-fund.webhook.{name}" for name in webhooks)]
