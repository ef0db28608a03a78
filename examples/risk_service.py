"""A risk desk's service: prints ADL triggers and the balances of the fund as they change.

    python risk_service.py localhost:9092 [--prefix NAME] [--state FILE]

It needs aiokafka alone. What it knows stands in one file, replaced after each batch, so it may be
killed at any time. It prints before it keeps: after a kill a line may come twice, none is left out.
"""

import argparse
import asyncio
import json
import os
import sys
from decimal import Context, Decimal, Inexact, setcontext
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError

# 20 digits before the point and 18 behind it: more than the 28 that decimals round to.
setcontext(Context(prec=60, traps=[Inexact]))


def take_trigger(state, trigger):
    """Print a trigger; the highest revision of a trigger_id counts, its `quantity` is in all."""
    name, revision = trigger["trigger_id"], trigger["revision"]
    if revision > state["revisions"].get(name, 0):
        state["revisions"][name] = revision
        what = f"{trigger['order_side']} {trigger['quantity']} {trigger['instrument_id']}"
        print(f"{trigger['type']} {name} revision {revision}: {what} at {trigger['price']}")


def take_entry(state, entry):
    """Add an entry's postings to the balances of the fund; a ledger begins with sequence 0."""
    ledger, sequence, balances = entry["ledger"], entry["sequence"], state["balances"]
    expected = state["entries"].get(ledger, 0)
    if sequence > expected:
        sys.exit(f"ledger {ledger}: entry {sequence} came where {expected} was due: some are gone")
    if sequence == expected:
        state["entries"][ledger] = expected + 1
        for account, amount in entry["postings"].items():
            if account.startswith("fund:"):  # fund:<margin currency>:available, or :reserved
                balances[account] = f"{Decimal(balances.get(account, '0')) + Decimal(amount):f}"
                print(f"{ledger} {sequence}: {account} {balances[account]}")


def keep(state, file):
    """Replace the file: whenever the process is killed, it is the old one or the new one."""
    with file.with_suffix(".new").open("w") as new:
        json.dump(state, new)
        new.flush()
        os.fsync(new.fileno())
    Path(new.name).replace(file)


async def follow(bootstrap, prefix, file):
    """Follow both topics for ever, from where the file says that the last run came to."""
    state = {"positions": {}, "entries": {}, "balances": {}, "revisions": {}}
    if file.exists():
        state = json.loads(file.read_text())
    take = {f"{prefix}adl-triggers": take_trigger, f"{prefix}fund-ledger": take_entry}
    # No group: where to read on stands beside what was made of it. Should a topic get another
    # partition, aiokafka reads all of them again from the start, and what is known is passed over.
    async with AIOKafkaConsumer(
        *take,
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        request_timeout_ms=5_000,  # a broker that hangs is left after so long
    ) as consumer:
        for where in consumer.assignment():
            consumer.seek(where, state["positions"].get(f"{where.topic}:{where.partition}", 0))
        while True:
            for where, records in (await consumer.getmany(timeout_ms=1_000)).items():
                for record in records:
                    take[where.topic](state, json.loads(record.value))
                state["positions"][f"{where.topic}:{where.partition}"] = records[-1].offset + 1
                sys.stdout.flush()
                keep(state, file)


if __name__ == "__main__":
    told = argparse.ArgumentParser(description="Print ADL triggers and the balances of the fund.")
    told.add_argument("bootstrap", help="where Kafka is: host:port[,host:port]")
    told.add_argument("--prefix", default="", help="what stands before the topics, with a dot")
    told.add_argument("--state", type=Path, default=Path("risk_service.json"), help="its memory")
    given = told.parse_args()
    prefix = f"{given.prefix}." if given.prefix else ""
    try:
        asyncio.run(follow(given.bootstrap, prefix, given.state))
    except UnknownTopicOrPartitionError:
        sys.exit(f"{given.bootstrap} has no {prefix}adl-triggers or no {prefix}fund-ledger")
    except KafkaConnectionError as error:
        sys.exit(f"no Kafka at {given.bootstrap}: {error}")
    except KeyboardInterrupt:
        pass  # what was printed is kept
