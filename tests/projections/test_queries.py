"""Lists and look-ups where rows are alike: of one entry, of one id, of several ledgers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from insurance_fund.events import topics
from insurance_fund.events.ledger import GENESIS, decode_entry, encode_entry, sha256_hex
from insurance_fund.projections import tables
from insurance_fund.projections.database import BUILDING, READY, Database
from insurance_fund.projections.http.app import build_app
from insurance_fund.projections.http.funds import only
from insurance_fund.projections.http.problems import ProblemError
from insurance_fund.projections.http.routes import etag_of
from insurance_fund.projections.http.services import open_services
from insurance_fund.projections.liquidation_queries import ORDER as LIQUIDATION_ORDER
from insurance_fund.projections.liquidation_queries import query_liquidations
from insurance_fund.projections.queries import Reading, Values, begin_reading
from insurance_fund.projections.trigger_queries import ORDER as TRIGGER_ORDER
from insurance_fund.projections.trigger_queries import query_trigger, query_triggers
from insurance_fund.streams.log import NewRecord
from insurance_fund.streams.sqlite import SqliteLog
from tests.projections.ledgers import LEDGER, project, records_of, rows_of
from tests.unit.life import BTCUSDT, Life

Opened = Callable[[], Database]
OTHER = "other"


@contextmanager
def reading(database: Database) -> Iterator[Reading]:
    with database.connect() as connection:
        yield begin_reading(connection, [LEDGER, OTHER])


def renamed(lines: list[bytes], ledger: str) -> list[bytes]:
    """Return the same entries as a ledger of another name."""
    found: list[bytes] = []
    for line in lines:
        previous = sha256_hex(found[-1]) if found else GENESIS
        entry = msgspec.structs.replace(decode_entry(line), ledger=ledger, previous=previous)
        found.append(encode_entry(entry))
    return found


def paged(
    query: Callable[..., list[Values]], order: tuple[str, ...], found: Reading
) -> list[tuple[str, str]]:
    """Return (ledger, liquidation) of all rows, read in pages of two."""
    names: list[tuple[str, str]] = []
    key: list[Any] | None = None
    while rows := query(found, {}, key, 2):
        names += [(row["ledger"], row["liquidation_id"]) for row in rows]
        key = [rows[-1][name] for name in order]
    return names


def test_rows_of_one_entry_come_once_each_over_pages(opened: Opened) -> None:
    life, names = Life(instruments=()), [f"liq-{n}" for n in range(5)]
    for name in names:
        # Shorts whose bankruptcy price is below one tick: no order, ADL at once.
        life.take_over(name, position_side="short", entry_price="0.2", margin="0", quantity="1")
    life.send("instruments", "instrument_defined", **{**BTCUSDT, "tick_size": "1"})
    assert life.kinds().count("position_taken_over") == 5
    assert life.kinds().count("adl_triggered") == 5
    database = opened()
    project(database, records_of(life.lines))
    project(database, records_of(renamed(life.lines, OTHER)), OTHER)
    wanted = sorted((ledger, name) for ledger in (LEDGER, OTHER) for name in names)
    with reading(database) as found:
        assert sorted(paged(query_liquidations, LIQUIDATION_ORDER, found)) == wanted
        assert sorted(paged(query_triggers, TRIGGER_ORDER, found)) == wanted


def test_trigger_of_an_id_that_two_ledgers_have_is_that_of_the_ledger_named(
    opened: Opened,
) -> None:
    life = Life()
    life.take_over()
    life.wait(120_000)
    database = opened()
    project(database, records_of(life.lines))
    life.adl("4")
    project(database, records_of(renamed(life.lines, OTHER)), OTHER)
    with reading(database) as found:
        rows = query_trigger(found, "liq-7:adl")
    assert [only(rows, "trigger", name)["executed"] for name in (LEDGER, OTHER)] == ["0", "4"]
    with pytest.raises(ProblemError, match="name one: ledger is one of"):
        only(rows, "trigger", None)


def test_trigger_of_an_id_that_came_again_is_the_newest(opened: Opened) -> None:
    life = Life({"closed_max": 1})
    for name in ("liq-7", "liq-8", "liq-9", "liq-7"):
        life.now_ms += 1
        life.take_over(name)
        life.wait(120_000)
        life.adl("10", name=f"x{life.now_ms}", liquidation_id=name, trigger_id=f"{name}:adl")
    database = opened()
    project(database, records_of(life.lines))
    rows = [r for r in rows_of(database)["adl_triggers"].values() if r["liquidation_id"] == "liq-7"]
    assert len(rows) == 2
    with reading(database) as found:
        (trigger,) = query_trigger(found, "liq-7:adl")
    assert trigger["first_sequence"] == max(row["first_sequence"] for row in rows)
    assert trigger["execution_count"] == len(trigger["executions"]) == 1


def test_tag_of_an_answer_is_another_one_after_a_rebuild_or_of_another_schema(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, builds = opened(), set()
    for _ in range(3):
        with reading(database) as found:
            builds.add(found.build)
        database.set_state(BUILDING)
        database.set_state(READY)
    assert len(builds) == 3
    before = etag_of("/v1/funds")
    assert etag_of("/v1/funds") == before
    monkeypatch.setattr(tables, "SCHEMA", tables.SCHEMA + 1)
    assert etag_of("/v1/funds") != before


async def test_liquidation_of_an_id_that_came_again_names_all_its_takeovers(
    opened: Opened, tmp_path: Path
) -> None:
    life, log = Life({"closed_max": 1}), SqliteLog.open(tmp_path / "log.db", create=True)
    for number, name in enumerate(("liq-7", "liq-8", "liq-9", "liq-7")):
        life.now_ms += 1
        life.take_over(name)
        life.fill("10", "45100", f"f{number}", f"{name}:1")
    await log.publish(topics.FUND_LEDGER, [NewRecord(0, None, line) for line in life.lines])
    await log.close()
    database = opened()
    project(database, records_of(life.lines))
    rows = rows_of(database)["liquidations"]
    takeovers = sorted((key[2] for key in rows if key[1] == "liq-7"), reverse=True)
    assert len(takeovers) == 2
    async with (
        open_services(database, [LEDGER], lambda: SqliteLog.open_reader(tmp_path / "log.db")) as it,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(it)), base_url="http://localhost"
        ) as client,
    ):
        for asked, shown in ((None, takeovers[0]), *zip(takeovers, takeovers, strict=True)):
            query = {} if asked is None else {"takeover_sequence": asked}
            answer = (await client.get("/v1/liquidations/liq-7", params=query)).json()
            assert answer["liquidation"]["takeover_sequence"] == shown
            assert answer["takeovers"] == takeovers
        none = await client.get("/v1/liquidations/liq-7?takeover_sequence=1")
        assert none.status_code == 404
