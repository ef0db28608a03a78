"""Read models on a real PostgreSQL: the same rows as on SQLite, and many workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from insurance_fund.events.errors import ReadModelsError
from insurance_fund.projections import tables
from insurance_fund.projections.compare import differences
from insurance_fund.projections.database import Database, open_database
from insurance_fund.projections.projector import Projector
from tests.projections.ledgers import (
    LEDGER,
    in_batches,
    project,
    random_ledger,
    records_of,
    rows_of,
)
from tests.projections.postgresql import Server
from tests.property.choices import Seeded
from tests.property.scale import EXAMPLES
from tests.unit.life import Life


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    opened = open_database(server.new_database())
    yield opened
    opened.close()


def test_rows_of_random_ledgers_are_those_of_sqlite(
    database: Database, opened: Callable[[str], Database]
) -> None:
    for seed in range(1_000, 1_000 + 30 * EXAMPLES):
        draw, lines = Seeded(seed), random_ledger(seed)
        records, on_sqlite = records_of(lines, draw), opened(f"{seed}.db")
        projector = Projector(database, LEDGER)
        for batch in in_batches(records, draw):
            if not draw.number(0, 4):
                projector = Projector(database, LEDGER)
            projector.apply(batch)
        project(on_sqlite, records)
        rows = rows_of(database)
        assert rows == rows_of(on_sqlite), seed
        with database.connect() as here, on_sqlite.connect() as there:
            assert differences(here, there, LEDGER) == []
        empty(database)


def test_zero_bytes_in_free_text_do_not_stop_the_read_models(
    database: Database, opened: Callable[[str], Database]
) -> None:
    life = Life()
    life.take_over()
    life.wait(120_000)
    life.send(
        "liquidations",
        "adl_unfilled",
        liquidation_id="liq-7",
        trigger_id="liq-7:adl",
        quantity="10",
        reason="no\0body",
    )
    assert life.kinds() == ["adl_unfilled"]
    on_sqlite = opened("zero.db")
    for one in (database, on_sqlite):
        project(one, records_of(life.lines))
    rows = rows_of(database)
    assert [row["unfilled_reason"] for row in rows["adl_triggers"].values()] == ["no\ufffdbody"]
    assert rows == rows_of(on_sqlite)


def empty(database: Database) -> None:
    with database.begin() as connection:
        for table in (*tables.READ_MODELS, tables.positions):
            connection.execute(delete(table))


def test_two_workers_on_one_ledger_write_the_rows_of_one(
    server: Server, opened: Callable[[str], Database]
) -> None:
    records, url = records_of(random_ledger(7, 200)), server.new_database()
    together = threading.Barrier(2)

    def work() -> None:
        database = open_database(url)
        projector = Projector(database, LEDGER)
        together.wait()
        for start in range(0, len(records), 3):
            # Each reads everything; which of the two writes a batch is left to chance.
            projector.apply(records[: start + 3])
        database.close()

    open_database(url).close()
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    database, alone = open_database(url), opened("alone.db")
    project(alone, records)
    assert rows_of(database) == rows_of(alone)
    assert Projector(database, LEDGER).position() == Projector(alone, LEDGER).position()
    database.close()


def test_server_that_is_not_there_is_refused_with_its_name_and_no_password() -> None:
    with pytest.raises(ReadModelsError, match="cannot be used") as refused:
        open_database("postgresql://somebody:secret@127.0.0.1:1/views")
    assert "somebody" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_all_who_open_read_models_that_are_not_there_yet_find_them(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for number in range(5):
        url = f"sqlite:{tmp_path / str(number)}"
        if kind == "postgresql":
            url = request.getfixturevalue("server").new_database()
        together = threading.Barrier(4)

        def open_one(url: str = url, together: threading.Barrier = together) -> None:
            together.wait()
            open_database(url).close()

        openers = [threading.Thread(target=open_one) for _ in range(4)]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join()
        open_database(url).close()


def test_user_without_rights_is_told_so_in_a_line(server: Server) -> None:
    url = server.new_database()
    open_database(url).close()
    server.add_user("nobody_here")
    with pytest.raises(ReadModelsError, match="cannot be used: permission denied"):
        open_database(url.replace("postgres@", "nobody_here@"))
