"""A writer to be run in a process of its own: it prints the number of each committed transaction.

Transaction i appends the value i to several topics, so that a reader can tell whole from torn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
from itertools import count
from pathlib import Path
from typing import Final

from insurance_fund.events.errors import InsuranceFundError
from insurance_fund.streams.kafka import KafkaLog
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.log import LogWriter, NewRecord, Outbound, TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from insurance_fund.streams.urls import KafkaUrl, parse_log_url

# How many records a transaction appends to each partition.
RECORDS_OF: Final = {
    TopicPartition("appender-ledger", 0): 3,
    TopicPartition("appender-orders", 0): 2,
    TopicPartition("appender-triggers", 1): 1,
}
LEDGER: Final = next(iter(RECORDS_OF))


async def append_transaction(writer: LogWriter, number: int, padding: int = 0) -> None:
    """Commit one transaction; `padding` bytes are added to each value."""
    value = str(number).encode() + b" " * padding
    await writer.commit(
        LEDGER,
        [NewRecord(LEDGER.partition, None, value)] * RECORDS_OF[LEDGER],
        [
            Outbound(where.topic, NewRecord(where.partition, None, value))
            for where, records in RECORDS_OF.items()
            for _ in range(records)
            if where != LEDGER
        ],
    )


async def append(
    log: LogWriter, shard: str, first: int, transactions: int | None, padding: int
) -> None:
    """Take a shard and append; without a number of transactions, until killed."""
    await log.take(shard)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    numbers = count(first) if transactions is None else range(first, first + transactions)
    for number in numbers:
        await append_transaction(log, number, padding)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    await log.close()


async def read_file(path: Path) -> None:
    """Open a log for reading."""
    await SqliteLog.open_reader(path).close()


def _run() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("log", help="the path of a file, or kafka://HOST:PORT/PREFIX")
    arguments.add_argument("--shard", default="elsewhere")
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--transactions", type=int)
    arguments.add_argument("--padding", type=int, default=0)
    arguments.add_argument("--file-bytes-max", type=int)
    arguments.add_argument("--unprivileged", action="store_true")
    arguments.add_argument("--only-read", action="store_true")
    given = arguments.parse_args()
    if given.file_bytes_max:
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.file_bytes_max, given.file_bytes_max))
    if given.unprivileged and os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    if given.only_read:
        asyncio.run(read_file(Path(given.log)))
    else:
        asyncio.run(_append(given))


async def _append(given: argparse.Namespace) -> None:
    log: LogWriter
    if given.log.startswith("kafka:"):
        url = parse_log_url(given.log)
        assert isinstance(url, KafkaUrl)
        log = KafkaLog(KafkaAccess(url))
    else:
        log = SqliteLog.open(Path(given.log), create=True)
    await append(log, given.shard, given.first, given.transactions, given.padding)


if __name__ == "__main__":
    try:
        _run()
    except InsuranceFundError as error:
        sys.exit(f"{type(error).__name__}: {error}")
