"""The projector: nothing is left out, nothing counts twice, and what is not sound is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, insert, update

from insurance_fund.events.errors import CorruptionError, ReadModelsError, SettingsError
from insurance_fund.events.ledger import decode_entry, encode_entry, sha256_hex
from insurance_fund.projections import tables
from insurance_fund.projections.compare import differences
from insurance_fund.projections.database import BUILDING, Database, open_database
from insurance_fund.projections.projector import Position, Projector
from insurance_fund.streams.log import Record
from tests.projections.ledgers import LEDGER, project, random_ledger, records_of, rows_of
from tests.property.choices import Seeded

Opened = Callable[..., Database]

LINES = random_ledger(11)


def forged(line: bytes, **fields: object) -> bytes:
    """Return an entry that says something else."""
    return encode_entry(msgspec.structs.replace(decode_entry(line), **fields))


def test_position_is_that_of_the_last_entry_and_where_the_log_goes_on(opened: Opened) -> None:
    records = records_of(LINES, Seeded(1))
    projector = Projector(opened(), LEDGER)
    assert projector.position() == Position()
    after = projector.apply(records)
    last = decode_entry(LINES[-1])
    assert after == Position(
        last.sequence, sha256_hex(LINES[-1]), records[-1].offset + 1, last.now_ms
    )
    assert projector.position() == after


def test_entry_that_is_missing_stops_with_its_sequence_and_nothing_of_the_batch(
    opened: Opened,
) -> None:
    database, records = opened(), records_of(LINES)
    project(database, records[:10])
    before = rows_of(database)
    with pytest.raises(CorruptionError, match="entry 15 is missing, 16 follows 14") as stopped:
        project(database, [*records[10:15], *records[16:]])
    assert stopped.value.sequence == 15
    assert rows_of(database) == before
    assert Projector(database, LEDGER).position().sequence == 9


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"previous": "f" * 64}, "the chain is broken at entry 12"),
        ({"ledger": "other"}, "an entry of ledger 'other' stands there"),
        ({"version": 2}, "entry 12: entry 12 has version 2"),
    ],
)
def test_entry_that_does_not_follow_stops_with_its_sequence(
    changed: dict[str, object], told: str, opened: Opened
) -> None:
    records = records_of([*LINES[:12], forged(LINES[12], **changed), *LINES[13:]])
    with pytest.raises(CorruptionError, match=told) as stopped:
        project(opened(), records)
    assert stopped.value.sequence == 12


def test_entry_that_was_changed_is_found_by_the_one_behind_it(opened: Opened) -> None:
    changed = forged(LINES[12], now_ms=decode_entry(LINES[12]).now_ms + 1)
    with pytest.raises(CorruptionError, match="the chain is broken at entry 13"):
        project(opened(), records_of([*LINES[:12], changed, *LINES[13:]]))


def test_bytes_that_are_no_entry_stop_with_the_sequence_they_should_have(opened: Opened) -> None:
    records = [*records_of(LINES[:5]), Record(5, 0, None, b"{"), Record(6, 0, None, None)]
    with pytest.raises(CorruptionError, match="entry 5: not a ledger entry") as stopped:
        project(opened(), records)
    assert stopped.value.sequence == 5


def test_worker_that_was_overtaken_leaves_no_row_and_goes_on_behind_the_other(
    opened: Opened,
) -> None:
    database, records = opened(), records_of(LINES)
    zombie, other = Projector(database, LEDGER), Projector(database, LEDGER)
    zombie.apply(records[:10])
    other.apply(records[:30])
    # It knows what was true of entry 9; what it would write of 10 to 39 is not.
    assert zombie.apply(records[10:40]).sequence == 39
    alone = opened("alone.db")
    project(alone, records[:40])
    assert rows_of(database) == rows_of(alone)


def test_position_of_another_ledger_is_not_taken_for_ours(opened: Opened) -> None:
    database, records, others = opened(), records_of(LINES), records_of(random_ledger(12))
    zombie = Projector(database, LEDGER)
    zombie.apply(records[:10])
    # Dropped, and built anew from another log, to a position with the same sequence.
    with database.begin() as connection:
        for table in (*tables.READ_MODELS, tables.positions):
            connection.execute(delete(table))
    Projector(database, LEDGER).apply(others[:10])
    before = rows_of(database)
    with pytest.raises(CorruptionError, match="the chain is broken at entry 10"):
        zombie.apply(records[10:20])
    assert rows_of(database) == before


def test_rows_and_position_are_written_together_or_not_at_all(opened: Opened) -> None:
    database, records = opened(), records_of(LINES)
    project(database, records[:10])
    before = rows_of(database)
    with database.begin() as connection:
        # A table that is not as it should be: the last of what is written fails.
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON liquidation_entries"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    projector = Projector(database, LEDGER)
    with pytest.raises(Exception, match="no room"):
        projector.apply(records)
    assert rows_of(database) == before
    assert projector.position().sequence == 9
    with database.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    projector.apply(records)
    alone = opened("alone.db")
    project(alone, records)
    assert rows_of(database) == rows_of(alone)


def test_differences_name_rows_that_are_missing_changed_and_too_many(opened: Opened) -> None:
    live, rebuilt = opened(), opened("rebuilt.db")
    for database in (live, rebuilt):
        project(database, records_of(LINES))
    funds, index = tables.funds, tables.ledger_index
    with live.begin() as connection:
        connection.execute(update(funds).where(funds.c.margin_currency == "XBT").values(gains=7))
        connection.execute(delete(index))
        extra = tables.row_of(tables.counters, ledger=LEDGER, kind="flag", reason="invented")
        connection.execute(insert(tables.counters), extra)
    with live.connect() as here, rebuilt.connect() as there:
        found = {one.table: one for one in differences(here, there, LEDGER)}
    assert set(found) == {"funds", "ledger_index", "counters"}
    assert found["funds"].key == (LEDGER, "XBT")
    assert set(found["funds"].live or ()) == {"gains"}
    assert found["ledger_index"].live is None
    assert found["counters"].rebuilt is None


class TestReadModelsThatAreNotSound:
    def test_half_built_ones_are_refused_with_the_command_that_rebuilds_them(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        database = opened()
        project(database, records_of(LINES[:5]))
        database.set_state(BUILDING)
        with pytest.raises(ReadModelsError, match="insurance-fund projections rebuild"):
            open_database(f"sqlite:{tmp_path / 'views.db'}")
        # Also by who has them open already.
        with pytest.raises(ReadModelsError, match="insurance-fund projections rebuild"):
            project(database, records_of(LINES))

    def test_those_of_another_schema_are_refused(self, opened: Opened, tmp_path: Path) -> None:
        with opened().begin() as connection:
            schema = update(tables.about).where(tables.about.c.name == "schema")
            connection.execute(schema.values(value="0"))
        with pytest.raises(ReadModelsError, match="are of schema 0, this software has"):
            open_database(f"sqlite:{tmp_path / 'views.db'}")

    def test_those_without_a_table_are_refused(self, opened: Opened, tmp_path: Path) -> None:
        with opened().begin() as connection:
            tables.orders.drop(connection)
        with pytest.raises(ReadModelsError, match="are not whole"):
            open_database(f"sqlite:{tmp_path / 'views.db'}")

    def test_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "views.db").write_text("no database" * 1000, encoding="utf-8")
        with pytest.raises(ReadModelsError, match=r"damaged.*not a database.*rebuild"):
            open_database(f"sqlite:{tmp_path / 'views.db'}")

    def test_file_that_took_the_place_of_another_is_read_from_then_on(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        database, path = opened(), tmp_path / "views.db"
        project(database, records_of(LINES[:5]))
        path.rename(tmp_path / "aside.db")
        with pytest.raises(ReadModelsError, match="rebuild"):
            Projector(database, LEDGER).position()
        path.unlink()
        project(open_database(f"sqlite:{path}"), records_of(LINES[:9]))
        assert Projector(database, LEDGER).position().sequence == 8

    def test_damaged_pages_are_refused_when_they_are_met(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        database, path = opened(), tmp_path / "views.db"
        project(database, records_of(LINES))
        database.close()
        whole = path.read_bytes()
        # All but the first page, which tells what there is.
        path.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))
        with pytest.raises(ReadModelsError, match=r"damaged.*malformed.*rebuild"):
            open_database(f"sqlite:{path}")

    @pytest.mark.parametrize(
        "url", ["mysql://u:secret@h/n", "views.db", "postgresql://u:secret@h", "sqlite://x", ""]
    )
    def test_url_that_is_none_is_refused_without_its_password(self, url: str) -> None:
        with pytest.raises(SettingsError, match="must be sqlite:PATH or postgresql:") as refused:
            open_database(url)
        assert "secret" not in str(refused.value)

    def test_directory_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="no directory"):
            open_database(f"sqlite:{tmp_path / 'nowhere' / 'views.db'}")
