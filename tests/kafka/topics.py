"""The topics of a test, as a plan has them."""

from __future__ import annotations

from collections.abc import Sequence

from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.topic_admin import apply_layout
from insurance_fund.streams.topic_plan import Layout
from insurance_fund.streams.urls import KafkaUrl


async def make_topics(
    bootstrap: str,
    prefix: str,
    shards: int | Sequence[str] = 1,
    partitions: int = 1,
    replication: int = 1,
) -> KafkaUrl:
    """Makes all topics of a prefix and returns the URL; they can be used at once.

    Shards are given by name or number; `partitions` are those of liquidations and fills.
    """
    names = [f"shard-{n}" for n in range(shards)] if isinstance(shards, int) else list(shards)
    url = KafkaUrl(tuple(bootstrap.split(",")), prefix)
    # Records of tests bear old times; by these a broker would delete them in its first check.
    layout = Layout(url, tuple(names), partitions, replication, input_days=0)
    await apply_layout(KafkaAccess(url), layout)
    return url
