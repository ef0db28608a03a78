"""Opening: what a start asks of a ledger, against what the ledger has."""

from __future__ import annotations

from collections.abc import Mapping

import insurance_fund
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import Clock
from insurance_fund.events.ledger import PolicyCause, decode_entry
from insurance_fund.fund.decide import RULES
from insurance_fund.fund.policy import Policy, policy_document
from insurance_fund.fund.state import State
from insurance_fund.streams.inputs import Shard
from insurance_fund.streams.lines import partition_records
from insurance_fund.streams.log import LogReader, TopicPartition
from insurance_fund.streams.recovery import recover


def clock_mode(state: State, shard: Shard, wanted: Clock | None) -> Clock:
    """Return the clock of a ledger, that which is wanted where it has none yet.

    Raises SettingsError where another one is wanted.
    """
    recorded = state.clock
    if recorded is not None and wanted is not None and recorded != wanted:
        raise SettingsError(
            f"ledger {shard.name} runs by the {recorded} clock since its first entry; "
            f"start it with --clock {recorded}, or use a new log"
        )
    return recorded or wanted or "wall"


def policy_cause(
    state: State, shard: Shard, wanted: Policy | None, clock: Clock
) -> PolicyCause | None:
    """Return the cause of the policy entry that a start writes, None where nothing is new.

    Without a policy that is wanted the ledger keeps the one it has. Raises SettingsError for a
    currency that would leave the ledger or change its scale.
    """
    if wanted is None:
        wanted = state.policy
    routing = shard.routing(wanted)
    if state.clock is not None:
        _check_currencies(state.policy, wanted)
        _check_routing(shard.name, state.routing, routing)
    document = policy_document(wanted)
    newest = (policy_document(state.policy), state.routing, state.rules, state.software)
    software = insurance_fund.__version__
    if newest == (document, routing, RULES, software):
        return None
    return PolicyCause(
        policy=document, routing=routing, clock=clock, rules=RULES, software=software
    )


async def refuse_taken(
    log: LogReader,
    ledger: TopicPartition,
    name: str,
    old: Mapping[str, str],
    new: Mapping[str, str],
) -> None:
    """Raise SettingsError where a ledger would gain a currency that is another one's.

    `old` and `new` are its routings. The other ledgers are only read when it gains any: they alone
    know what is theirs, and what they have booked would be booked again.
    """
    gained = {c for c, of in new.items() if of == name} - {c for c, of in old.items() if of == name}
    if not gained:
        return
    for partition in await log.partitions(ledger.topic):
        where = TopicPartition(ledger.topic, partition)
        first = None if where == ledger else await _first_value(log, where)
        if first is None:
            continue
        other = decode_entry(first).ledger
        routing = (await recover(log, where, other)).state.routing
        for currency in sorted(gained):
            if routing.get(currency) == other:
                raise SettingsError(
                    f"shards: currency {currency} belongs to ledger {other}, which has its fund; "
                    f"ledger {name} cannot have it too: a currency never leaves its ledger"
                )


async def _first_value(log: LogReader, where: TopicPartition) -> bytes | None:
    async for record in partition_records(log, where, await log.first_offset(where), 1):
        return record.value
    return None


def _check_currencies(old: Policy, new: Policy) -> None:
    for currency, rules in old.currencies.items():
        kept = new.currencies.get(currency)
        if kept is None or kept.scale != rules.scale:
            raise SettingsError(
                f"policy: currency {currency} has scale {rules.scale} in this ledger; "
                "a currency is never taken out of a ledger and its scale never changes"
            )


def _check_routing(name: str, old: dict[str, str], new: dict[str, str]) -> None:
    for currency, shard in old.items():
        if shard == name and new.get(currency) != name:
            raise SettingsError(
                f"shards: currency {currency} belongs to ledger {name}, which has its fund; "
                "a currency never leaves its ledger"
            )
