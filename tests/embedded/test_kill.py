"""The service under `kill -9`, a rival and SIGTERM: each input in the ledger exactly once.

A real `run` by the wall clock works on a file while inputs are appended to it, and ends in every
way that a process can end. Afterwards the file must tell one whole story.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.service import (
    FENCED,
    POISON,
    POLL_S,
    Load,
    Site,
    assert_commands_tell_the_ledger,
    assert_one_whole_story,
    balances,
    inputs_of,
    opened,
    record,
)

FILES: Final = 4 * int(os.environ.get("INSURANCE_FUND_TEST_EXAMPLES", "1"))
KILLS_A_FILE: Final = 5


@asynccontextmanager
async def open_site(
    folder: Path, seed: int, currencies: tuple[str, ...] = ("USDT",)
) -> AsyncIterator[Site]:
    log = SqliteLog.open(folder / "insurance-fund.db", create=True)
    chance = random.Random(seed)  # noqa: S311 - moments, no secrets
    site = Site(folder, "sqlite:insurance-fund.db", log, Load(log, chance, currencies))
    try:
        async with opened(site):
            yield site
    finally:
        await log.close()


def complaints(said: str) -> list[str]:
    """Return what a service has said beside that it runs."""
    return [line for line in said.splitlines() if not line.endswith("clock, running")]


@pytest.mark.parametrize("seed", range(FILES))
async def test_service_that_is_killed_at_any_moment_takes_each_input_exactly_once(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(f"moments {seed}")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, seed) as site:
        for kill in range(KILLS_A_FILE):
            process = await site.start()
            if kill == seed % KILLS_A_FILE:
                process = await assert_rival_fences(site, process)
            # A quarter of them while it starts, recovers, or takes its first records.
            polls = chance.randrange(40) if chance.random() < 0.25 else None
            await site.work(process, chance.randrange(1, 250), polls)
            _, said = await site.end(process, signal.SIGKILL, chance)
            assert (process.returncode, complaints(said)) == (-signal.SIGKILL, [])
        (ledger,) = await assert_one_whole_story(site)
        await assert_commands_tell_the_ledger(site, "main", ledger)
        assert len(ledger) > KILLS_A_FILE
        assert site.load.liquidations > KILLS_A_FILE


async def assert_rival_fences(site: Site, first: Process) -> Process:
    """Start a second service beside a working one: the second goes on, the first ends by itself."""
    await site.work(first, 1)
    second = await site.start()
    while first.returncode is None:
        await site.load.go_on()
        with suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), POLL_S)
    out, said = await first.communicate()
    assert first.returncode == FENCED, (out, said)
    assert b"fenced: a newer writer took shard main of insurance-fund.db" in said
    await site.work(second, 1)
    return second


async def test_service_that_is_asked_to_end_finishes_its_transaction_and_exits_0(
    tmp_path: Path,
) -> None:
    chance = random.Random("sigterm")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, 1_000) as site:
        for _ in range(3):
            process = await site.start()
            await site.work(process, chance.randrange(1, 150))
            out, said = await site.end(process, signal.SIGTERM, chance)
            assert (process.returncode, complaints(said)) == (0, [])
            assert f"entries written, {await site.entries()} in all, head " in out
        (ledger,) = await assert_one_whole_story(site)
        await assert_commands_tell_the_ledger(site, "main", ledger)


async def test_two_shards_in_one_file_each_take_their_own_currencies(tmp_path: Path) -> None:
    (tmp_path / "insurance-fund.toml").write_text(
        '[shards]\nusdt = ["USDT", "USDC"]\nxbt = ["XBT", "BTC", "ETH"]\n', encoding="utf-8"
    )
    chance = random.Random("shards")  # noqa: S311 - moments, no secrets
    async with open_site(tmp_path, 2_000, ("USDT", "XBT")) as site:
        await site.load.publish("fund-transfers", record("fund_deposit", "DOGE"), *POISON)
        for kind in ("USDC", "BTC", "ETH"):
            fields = {"transfer_id": f"d-{kind}", "amount": "5", "memo": "m"}
            await site.load.publish("fund-transfers", record("fund_deposit", kind, **fields))
        for end in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
            process = await site.start()
            await site.work(process, 100)
            await site.end(process, end, chance)
            assert process.returncode == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        usdt, xbt = await assert_one_whole_story(site, ("usdt", "xbt"))
        for shard, ledger in (("usdt", usdt), ("xbt", xbt)):
            await assert_commands_tell_the_ledger(site, shard, ledger)
        inputs = await site.inputs()

    def currencies(ledger: list[bytes]) -> set[str | None]:
        found = set()
        for where, _ in inputs_of(ledger):
            try:
                found.add(json.loads(inputs[where])["margin_currency"])
            except (ValueError, KeyError, TypeError):
                found.add(None)
        return found

    assert currencies(usdt) == {"USDT", "USDC", "DOGE", None}
    assert currencies(xbt) == {"XBT", "BTC", "ETH"}
    assert {account.split(":")[1] for account in balances(usdt)} == {"USDT", "USDC"}
    assert {account.split(":")[1] for account in balances(xbt)} == {"XBT", "BTC", "ETH"}
    rejected = b'"effects":[{"type":"rejected"'
    assert sum(rejected in line for line in usdt) >= len(POISON) + 1
