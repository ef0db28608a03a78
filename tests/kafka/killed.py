"""The command line with a fault in its Kafka log: at a named point the process gets a signal.

`python -m tests.kafka.killed SIGNAL POINT PASSES COMMAND...` sends the signal to itself when the
point is passed for that time: SIGKILL ends it there, SIGSTOP makes it stand still there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from insurance_fund import cli, logs
from insurance_fund.events import topics
from insurance_fund.streams import kafka
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.log import NewRecord

# How many passes a point may have before the fault, at the most: so many come under load.
# Behind a call of the port, and inside of a commit; where outputs or entries are written, the other
# ones of the transaction have not left us.
POINTS: Final = {
    "take": 1,
    "partitions": 60,
    "first_offset": 8,
    "end_offset": 8,
    "read": 200,
    "wait": 20,
    "commit": 20,
    "publish": 3,
    "begun": 20,
    "queued": 40,
    "outputs written": 10,
    "entries written": 20,
    "batch answered": 40,
    "all answered": 20,
    "commit asked": 20,
    "commit answered": 20,
}
# So long after a commit was asked for: it has left us, and is perhaps done.
ASKED_S: Final = 0.001


class Fault:
    """A signal to this process at the given pass of a point."""

    def __init__(self, sent: signal.Signals, point: str, passes: int) -> None:
        self._sent = sent
        self._point = point
        self._left = Counter({point: passes})

    def is_next(self, point: str) -> bool:
        """Tell whether the fault comes when a point is passed now."""
        return point == self._point and self._left[point] == 1

    def passed(self, point: str) -> None:
        """Note that a point is passed."""
        self._left[point] -= 1
        if point == self._point and self._left[point] == 0:
            os.kill(os.getpid(), self._sent)


def log_with(fault: Fault) -> type[KafkaLog]:
    """Return a Kafka log that tells a fault of every call that was answered."""

    def told(name: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(KafkaLog, name)

        async def call(self: KafkaLog, *arguments: Any) -> Any:
            answer = await real(self, *arguments)
            fault.passed(name)
            return answer

        return call

    calls = ("take", "partitions", "first_offset", "end_offset", "read", "wait", "commit")

    class FaultyLog(KafkaLog):
        async def publish(self, topic: str, records: Sequence[NewRecord]) -> None:
            await super().publish(topic, records)
            fault.passed("publish")

    for name in calls:
        setattr(FaultyLog, name, told(name))
    return FaultyLog


def producer_with(fault: Fault) -> type[AIOKafkaProducer]:
    """Return a producer that tells a fault of what happens inside of a commit."""

    class FaultyProducer(AIOKafkaProducer):  # type: ignore[misc]
        outputs = False

        async def begin_transaction(self) -> None:
            await super().begin_transaction()
            self.outputs = False
            fault.passed("begun")

        async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
            entries = topic.endswith(topics.FUND_LEDGER)
            held = "outputs written" if entries else "entries written"
            self.outputs = self.outputs or topic.endswith(topics.OUTPUT_TOPICS)
            if self.outputs and fault.is_next(held):
                await asyncio.Event().wait()
            answer = await super().send_batch(batch, topic, partition=partition)
            answer.add_done_callback(lambda _: fault.passed("batch answered"))
            fault.passed("queued")
            written = "entries written" if entries else "outputs written"
            if self.outputs and fault.is_next(written):
                await asyncio.wait([answer])
            if self.outputs:
                fault.passed(written)
            return answer

        async def commit_transaction(self) -> None:
            fault.passed("all answered")
            asyncio.get_running_loop().call_later(ASKED_S, fault.passed, "commit asked")
            await super().commit_transaction()
            fault.passed("commit answered")

    return FaultyProducer


def main() -> None:
    """Put the fault in, then be the command line."""
    name, point, passes, *command = sys.argv[1:]
    if point not in POINTS:
        raise SystemExit(f"no point {point!r}; there are: {', '.join(POINTS)}")
    fault = Fault(signal.Signals[name], point, int(passes))
    vars(logs)["KafkaLog"] = log_with(fault)
    vars(kafka)["AIOKafkaProducer"] = producer_with(fault)
    sys.argv = ["insurance-fund", *command]
    cli.main()


if __name__ == "__main__":
    main()
