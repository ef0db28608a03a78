"""What must not matter to money: sizes of batches, restarts, duplicates, order of strangers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Final

import msgspec
import orjson
import pytest

from insurance_fund.events import effects as fx
from insurance_fund.events.ledger import InputCause, decode_entry, sha256_hex
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.policy import Policy
from insurance_fund.fund.state import State
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.simulator.play import play
from insurance_fund.streams.simulator.run import Run
from insurance_fund.streams.simulator.scenario import Scenario, Wave, random_scenario
from insurance_fund.streams.simulator.trial import undisturbed
from tests.property.scale import EXAMPLES

INPUTS: Final = 200
CALLS_MAX: Final = 10**7
BOOKED: Final = (
    fx.PositionTakenOver,
    fx.FillBooked,
    fx.AdlExecuted,
    fx.FundDeposited,
    fx.FundWithdrawn,
    fx.ShortfallPaid,
)

Money = dict[str, tuple[Decimal, ...]]


def scenarios(clock: str | None = None, number: int = 12) -> Iterator[Scenario]:
    found = 0
    for seed in range(10**6):
        scenario = random_scenario(seed, INPUTS)
        if clock in {None, scenario.clock}:
            yield scenario
            found += 1
            if found == number * EXAMPLES:
                return


def state_of(run: Run) -> State:
    state = State()
    for line in run.lines:
        apply_entry(state, decode_entry(line), sha256_hex(line))
    return state


def money(run: Run) -> Money:
    """Return what each fund has, owes, and has got of liquidations and transfers."""
    return {
        currency: (fund.available, fund.reserved, fund.shortfall, fund.deltas, fund.transfers)
        for currency, fund in state_of(run).funds.items()
    }


def changed(
    scenario: Scenario, change: Callable[[int, TopicPartition, list[bytes | None]], None]
) -> Scenario:
    """Return a scenario of which the records of each wave and partition are changed."""
    waves = []
    for number, wave in enumerate(scenario.waves):
        records = {where: list(values) for where, values in wave.records.items()}
        for where, values in records.items():
            change(number, where, values)
        waves.append(replace(wave, records=records))
    return replace(scenario, waves=waves, batch_max=10_000)


@pytest.mark.parametrize("batch_max", [1, 2, 3, 50, 5_000])
def test_other_batch_sizes_give_the_same_bytes(batch_max: int) -> None:
    for scenario in scenarios("event"):
        other = play(replace(scenario, batch_max=batch_max), calls_max=CALLS_MAX)
        assert other.lines == undisturbed(scenario).lines


def test_partitions_that_are_pinned_for_a_while_give_the_same_bytes_by_event_time() -> None:
    pinned = 0
    for scenario in scenarios("event"):
        free = replace(scenario, waves=[replace(wave, pinned=()) for wave in scenario.waves])
        pinned += sum(len(wave.pinned) for wave in scenario.waves)
        assert undisturbed(free).lines == undisturbed(scenario).lines
    assert pinned > 20


def test_restart_in_front_of_every_wave_gives_the_same_bytes() -> None:
    for scenario in scenarios("wall"):
        policy, waves = scenario.policy, list[Wave]()
        for wave in scenario.waves:
            policy = wave.policy or policy
            waves.append(replace(wave, policy=policy))
        restarted = play(replace(scenario, waves=waves), calls_max=CALLS_MAX)
        assert restarted.endings["done"] >= len(waves) - 1
        assert restarted.lines == undisturbed(scenario).lines


def test_duplicates_right_behind_their_records_give_the_same_money() -> None:
    for scenario in scenarios():
        doubled = changed(scenario, lambda _n, _w, values: values.extend(values[-1:]))
        assert money(undisturbed(doubled)) == money(undisturbed(scenario))


def test_duplicates_of_what_was_booked_give_the_same_money_however_late() -> None:
    rng = random.Random(7)  # noqa: S311 - cases, no secrets
    doubled_in_all = 0
    for scenario in scenarios():
        run = undisturbed(scenario)
        booked: set[bytes] = set()
        for entry in map(decode_entry, run.lines):
            if isinstance(entry.cause, InputCause) and isinstance(entry.effects[0], BOOKED):
                booked.add(entry.cause.value() or b"")
        said: dict[TopicPartition, list[bytes]] = {}

        def repeat(
            _number: int,
            where: TopicPartition,
            values: list[bytes | None],
            booked: set[bytes] = booked,
            said: dict[TopicPartition, list[bytes]] = said,
        ) -> None:
            nonlocal doubled_in_all
            before = said.setdefault(where, [])
            again = rng.sample(before, min(len(before), rng.randint(0, 3)))
            before += [value for value in values if value in booked]
            values.extend(again)
            doubled_in_all += len(again)

        doubled = changed(scenario, repeat)
        assert money(undisturbed(doubled)) == money(run)
    assert doubled_in_all > 1_000


def test_order_among_records_of_different_currencies_does_not_matter_to_money() -> None:
    for scenario in scenarios():
        # What is remembered and parked is shared, so there must be room for both.
        roomy = replace(
            scenario,
            policy=with_room(scenario.policy),
            waves=[
                replace(wave, policy=None if wave.policy is None else with_room(wave.policy))
                for wave in scenario.waves
            ],
        )

        def coins_first(_n: int, _where: TopicPartition, values: list[bytes | None]) -> None:
            values.sort(key=lambda value: currency(value) != "XBT")

        def coins_last(_n: int, _where: TopicPartition, values: list[bytes | None]) -> None:
            values.sort(key=lambda value: currency(value) == "XBT")

        first, last = (
            undisturbed(changed(roomy, coins_first)),
            undisturbed(changed(roomy, coins_last)),
        )
        assert money(first) == money(last)


def test_funds_of_two_currencies_are_what_they_are_alone() -> None:
    for scenario in scenarios("event", number=6):
        roomy = replace(scenario, policy=with_room(scenario.policy))

        def without_coins(_n: int, _where: TopicPartition, values: list[bytes | None]) -> None:
            values[:] = [value for value in values if currency(value) != "XBT"]

        alone = money(undisturbed(changed(roomy, without_coins)))
        assert alone["USDT"] == money(undisturbed(roomy))["USDT"]


def with_room(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, closed_max=10_000, parked_max=10_000)


def currency(value: bytes | None) -> str | None:
    try:
        fields = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return fields.get("margin_currency") if isinstance(fields, dict) else None
