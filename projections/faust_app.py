"""A Faust app that follows ledgers: committed records alone, from positions that are kept in SQL.

Four things of faust-streaming 0.15 are otherwise here, each in the consumer's thread: it reads what
is committed (Faust reads aborted and open transactions too, unless it writes some itself), measures
ends by the last stable offset, goes to the stored positions at each assignment, and ends when the
group refuses it (Faust never asks, and would wait for ever). Faust's own group offsets stick in
front of transaction markers, and moving them is no part of a SQL transaction: none are committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import faust
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from insurance_fund.projections.faust_ledgers import Ledgers
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import Record

# In one SQL transaction, and so long a batch is gathered.
ENTRIES_MAX: Final = 1_000
GATHER_S: Final = 0.05
# So many heartbeats in a session. A request may not end before a session does.
HEARTBEATS: Final = 5
REQUEST_S: Final = 10.0
WATCH_S: Final = 1.0
# aiokafka lets a member that does not fetch for so long leave the group for good: one that has no
# partitions, waiting to take over, fetches nothing. Who hangs ends by deadlines of its own.
POLL_INTERVAL_S: Final = 10 * 365 * 86_400.0


class LedgerApp(faust.App):
    """Hands what comes of the ledgers' topic to the ledgers, and keeps them out of rebalances."""

    def __init__(self, name: str, ledgers: Ledgers, session_s: float) -> None:
        """`name` is what the worker's consumer group is called, without the log's prefix.

        A dead worker's ledgers go to another after `session_s`.
        """
        self.ledgers = ledgers
        # Between an assignment and the begin of the next rebalance.
        self.settled = False
        access = ledgers.access
        super().__init__(
            access.url.name(name),
            autodiscover=False,
            broker=[f"kafka://{broker}" for broker in access.url.brokers],
            broker_client_id="insurance-fund",
            broker_credentials=_credentials(access),
            broker_heartbeat_interval=session_s / HEARTBEATS,
            broker_max_poll_interval=POLL_INTERVAL_S,
            broker_request_timeout=max(REQUEST_S, session_s),
            broker_session_timeout=session_s,
            consumer_auto_offset_reset="earliest",
            processing_guarantee="at_least_once",
            store="memory://",
            table_standby_replicas=0,
            topic_allow_declare=False,
            topic_disable_leader=True,
        )
        # The command line turns it on again where only the setting says otherwise.
        self.boot_strategy.enable_web = False
        self.on_partitions_revoked.connect(self._on_revoked)
        self.on_rebalance_complete.connect(self._on_rebalanced)
        self.agent(
            self.topic(ledgers.topic, value_serializer="raw", internal=False, acks=False),
            name="ledger",
            concurrency=1,
        )(self._take)

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def on_rebalance_start(self) -> None:
        """Note that ledgers may go to another worker."""
        self.settled = False
        super().on_rebalance_start()

    async def on_first_start(self) -> None:
        """Make no folders, as Faust does for its tables: there are none of these."""

    async def on_start(self) -> None:
        """See that the ledgers can be followed, before the group is joined."""
        await super().on_start()
        await self.ledgers.open()
        self.add_future(self._watch_group())

    async def on_stop(self) -> None:
        """Let what was begun end, then leave the group."""
        await self.ledgers.halt()
        await super().on_stop()

    async def _on_revoked(self, *_: Any, **_named: Any) -> None:
        # The group waits for this: who carries a ledger on begins when this one has stopped.
        await self.ledgers.halt()

    async def _on_rebalanced(self, *_: Any, **_named: Any) -> None:
        # Here, and not where Faust seeks: that it would break off after a request's time. Where the
        # next rebalance has begun already, this comes too late.
        if self.settled:
            await self.ledgers.carry(tp.partition for tp in self.consumer.assignment())

    async def _watch_group(self) -> None:
        thread = cast("_ConsumerThread", cast("_Consumer", self.consumer)._thread)  # noqa: SLF001
        while not self.should_stop:
            await self.ledgers.ask("joining the group of the workers", thread.check_group)
            await self.sleep(WATCH_S)

    async def _take(self, stream: Any) -> None:
        async for events in stream.take_events(ENTRIES_MAX, within=GATHER_S):
            taken: dict[int, list[Record]] = {}
            for event in events:
                message = event.message
                record = Record(
                    message.offset, round(message.timestamp * 1000), message.key, message.value
                )
                taken.setdefault(message.partition, []).append(record)
            for partition, records in taken.items():
                await self.ledgers.take(partition, records)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        assert consumer._isolation_level == "read_uncommitted"  # noqa: SLF001 - no option of Faust's
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer

    async def check_group(self) -> None:
        """Raise what the client has to say about the group, which it says to who asks alone."""
        if self._consumer is not None and self._consumer._coordinator is not None:  # noqa: SLF001
            await self.call_thread(self._consumer._coordinator.check_errors)  # noqa: SLF001

    def highwater(self, tp: TP) -> int:
        """Return the end of a partition for those who read what is committed."""
        end: int = self._ensure_consumer().last_stable_offset(tp)
        return end

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the positions that are stored in SQL."""
        app = cast("LedgerApp", self.app)
        offsets = await app.ledgers.offsets([tp.partition for tp in self.assignment()])
        found: Mapping[TP, int] = await self.call_thread(self._seek_to, offsets)
        return found

    async def _seek_to(self, offsets: Mapping[int, int]) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        # In its own thread the assignment stays as it is meanwhile.
        found = {tp: offsets[tp.partition] for tp in self.assignment() if tp.partition in offsets}
        for tp, offset in found.items():
            consumer.seek(tp, offset)
        return found


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take up what was assigned."""
        cast("LedgerApp", self.app).settled = True
        await super().on_partitions_assigned(assigned, generation_id)


class _Transport(driver.Transport):
    Consumer = _Consumer


def _credentials(access: KafkaAccess) -> Any:
    """Return in Faust's form who we are to the brokers; None for a plaintext connection."""
    options = access.options()
    context = options.get("ssl_context")
    if "sasl_oauth_token_provider" in options:
        return OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=context)
    if "sasl_mechanism" in options:
        return SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)
