"""The command line as a user meets it: real processes over real files, output and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.events.fields import TIME_MS_MAX
from insurance_fund.events.ledger import decode_entry, sha256_hex
from insurance_fund.fund.policy import load_policy
from insurance_fund.streams.log import TopicPartition
from insurance_fund.streams.sqlite import SqliteLog
from tests.unit.life import BTCUSDT, START_MS

COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
SCENARIO: Final = Path(__file__).parents[2] / "examples" / "scenario"
# What the scenario comes to: its entries, and the deadlines and policy among them.
ENTRIES: Final = 56
COULD_NOT: Final = 2
HANG_S: Final = 60

# The same command in a process that soon gives up on a lock, or that may write small files only.
IMPATIENT: Final = """
from insurance_fund.streams import sqlite_file
sqlite_file.BUSY_S_MAX = 0.2
from insurance_fund.cli import main
main()
"""
SMALL_DISK: Final = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from insurance_fund.cli import main
main()
"""
LOCKER: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return what was printed, parsed; nothing else may have been."""
        return json.loads(self.out)


class Shell:
    """A folder in which commands run, with the settings that the environment gives."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**inherited, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self, process: subprocess.Popen[bytes], given: bytes = b"") -> Done:
        try:
            out, err = process.communicate(given, timeout=HANG_S)
        finally:
            process.kill()
        done = Done(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in done.err, done.err
        return done

    def call(self, *arguments: str, given: bytes = b"") -> Done:
        """Run a command to its end."""
        return self.end(self.start(COMMAND, *arguments), given)

    def ok(self, *arguments: str, given: bytes = b"") -> Done:
        """Run a command that must succeed."""
        done = self.call(*arguments, given=given)
        assert done.code == 0, done
        return done

    def refused(self, *arguments: str, says: str) -> None:
        """Run a command that cannot run, and says so to a person."""
        assert_refused(self.call(*arguments), says)

    def write(self, name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        (self.folder / name).write_bytes(data)
        return name

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        """Return the values of a topic in the default log."""

        async def read() -> list[bytes | None]:
            log = SqliteLog.open_reader(self.folder / "insurance-fund.db")
            batch = await log.read(TopicPartition(topic, partition), 0, 10_000)
            await log.close()
            return [record.value for record in batch.records]

        return asyncio.run(read())


def assert_refused(done: Done, says: str) -> None:
    message = " ".join(done.err.split())
    assert done.code == COULD_NOT, done
    assert done.out == ""
    assert message.startswith("error: "), done.err
    assert says in message, done.err


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The scenario of the examples, published and run; tests only look at it."""
    shell = Shell(tmp_path_factory.mktemp("scenario"))
    for source in SCENARIO.iterdir():
        shell.write(source.name, source.read_bytes())
    for topic in topics.INPUT_TOPICS:
        shell.ok("publish", topic, f"{topic}.ndjson")
    done = shell.ok("run", "--clock", "event", "--until-idle", "--policy", "policy.json")
    assert f"ledger main: {ENTRIES} entries written, {ENTRIES} in all, head " in done.out
    return shell


def message(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "event_id": "e-1",
        "event_time_ms": START_MS,
        "margin_currency": "USDT",
        **fields,
    }


INSTRUMENT: Final = message("instrument_defined", **BTCUSDT)
TAKEN_OVER: Final = message(
    "position_taken_over",
    liquidation_id="liq-7",
    account_id="acc",
    instrument_id="BTCUSDT",
    position_side="long",
    quantity="10",
    entry_price="50000",
    margin="500",
)


def deposit(name: str, amount: str = "5") -> bytes:
    fields = message("fund_deposit", transfer_id=name, amount=amount, memo="m")
    return json.dumps(fields).encode()


def ndjson(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(fields).encode() + b"\n" for fields in messages)


LINES: Final = (
    deposit("d1"),
    b'  {"type": "fund_deposit",   "amount":"1_000"}\t ',
    b'{"type": "\xff\xfe"}',
    b"no JSON at all \x00\x01\xe2\x80\xa8",
    b"[1, 2]",
    "{\u201equotes\u201c}".encode(),
    deposit("d2", "7.500"),
)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_publish_appends_each_line_byte_for_byte_and_counts_what_is_no_json(
    shell: Shell, source: str, end: bytes
) -> None:
    # The last line has no end; lines of nothing but blanks are no records.
    content = end.join([LINES[0], b"", *LINES[1:-1], b" \t ", LINES[-1]])
    if source == "file":
        done = shell.ok("publish", "fund-transfers", shell.write("in.ndjson", content))
    else:
        done = shell.ok("publish", "fund-transfers", given=content)
    assert shell.values("fund-transfers") == list(LINES)
    assert done.out == f"{len(LINES)} records published to fund-transfers\n"
    assert done.err.startswith("not a JSON object: 4 lines")
    assert "dead-letters" in done.err
    again = shell.ok("publish", "fund-transfers", "--format", "json", given=content)
    assert again.json == {
        "topic": "fund-transfers",
        "published": len(LINES),
        "not_json": 4,
        "empty_lines": 2,
    }
    assert shell.values("fund-transfers") == [*LINES, *LINES]


def test_published_records_carry_the_keys_of_the_contract(shell: Shell) -> None:
    instrument = message("instrument_defined", **BTCUSDT)
    fill = message("fill", liquidation_id="liq-1")
    shell.ok("publish", "instruments", given=ndjson(instrument))
    shell.ok("publish", "fund-transfers", given=deposit("d1"))
    shell.ok("publish", "fills", given=ndjson(fill))
    with closing(sqlite3.connect(shell.folder / "insurance-fund.db")) as log:
        tables = dict(log.execute("SELECT topic, id FROM partitions").fetchall())
        keys = {
            topic: log.execute(f"SELECT key FROM records_{table}").fetchone()[0]  # noqa: S608
            for topic, table in tables.items()
        }
    assert keys == {"instruments": b"BTCUSDT", "fund-transfers": b"USDT", "fills": b"liq-1"}


@pytest.mark.parametrize("topic", ["fund-ledger", "dead-letters", "Fills", ""])
def test_publish_refuses_a_topic_that_is_no_input(shell: Shell, topic: str) -> None:
    shell.refused("publish", topic, says="one of: instruments, fund-transfers, liquidations, fills")
    assert list(shell.folder.iterdir()) == []


def test_publish_refuses_a_file_that_is_not_there(shell: Shell) -> None:
    shell.refused("publish", "fills", "none.ndjson", says="none.ndjson: No such file")
    shell.refused("publish", "fills", ".", says="Is a directory")


def test_run_until_idle_takes_the_scenario_and_says_how_it_ended(scenario: Shell) -> None:
    entries = [decode_entry(line) for line in scenario.values("fund-ledger") if line]
    assert [entry.sequence for entry in entries] == list(range(ENTRIES))
    assert len(scenario.values("dead-letters")) == 4
    again = scenario.ok("run", "--until-idle", "--format", "json")
    (row,) = again.json
    assert (row["ledger"], row["entries_written"], row["entries"]) == ("main", 0, ENTRIES)
    assert (row["open_orders"], row["next_deadline"]) == ([], None)
    assert row["head"] == sha256_hex(scenario.values("fund-ledger")[-1] or b"")
    assert len(scenario.values("fund-ledger")) == ENTRIES


def test_run_until_idle_by_the_wall_clock_prints_open_orders_and_the_next_deadline(
    shell: Shell,
) -> None:
    shell.ok("publish", "instruments", given=ndjson(INSTRUMENT))
    shell.ok("publish", "liquidations", given=ndjson(TAKEN_OVER))
    done = shell.ok("run", "--until-idle")
    assert "open order liq-7:1: 10 left, ends " in done.out
    assert "next deadline order:liq-7/liq-7:1, due " in done.out
    (row,) = shell.ok("run", "--until-idle", "--format", "json").json
    ((order,), deadline) = (row["open_orders"], row["next_deadline"])
    assert (order["order_id"], order["rest"]) == ("liq-7:1", "10")
    assert deadline["due_ms"] == order["expires_at_ms"] + 2_000


def test_status_adds_up_and_tells_the_same_in_both_formats(scenario: Shell) -> None:
    rows = scenario.ok("status", "--format", "json").json
    assert (rows["ledger"], rows["entries"], rows["clock"]) == ("main", ENTRIES, "event")
    (fund,) = rows["funds"]
    assert {name: fund[name] for name in ("available", "reserved", "shortfall", "transfers")} == {
        "available": "0.001411",
        "reserved": "0",
        "shortfall": "-0.66638349",
        "transfers": "0.51",
    }
    held = [Decimal(fund[name]) for name in ("available", "reserved", "shortfall")]
    moved = [Decimal(fund[name]) for name in ("transfers", "gains", "draws")]
    assert sum(held) == sum(moved)
    assert fund["closed"] == {"better_than_bankruptcy": 4, "compensated": 3, "deleveraged": 4}
    (trigger,) = rows["triggers"]
    assert (trigger["trigger_id"], trigger["open"]) == ("L12-open:adl", "30")
    assert sum(rows["rejected"].values()) == 4
    assert (rows["duplicates"], rows["parked"], rows["parked_expired"]) == (3, 0, 0)

    table = scenario.ok("status").out
    assert f"Ledger main: {ENTRIES} entries, event clock, last at 2026-01-02T10:05:45.000Z" in table
    for shown in ("0.001411", "-0.66638349", "L12-open:adl", "bad_price", rows["head"]):
        assert shown in table


def test_explain_tells_the_story_in_both_formats(scenario: Shell) -> None:
    story = scenario.ok("explain", "L05-late-fill", "--format", "json").json
    assert [(line["sequence"], line["effect"]) for line in story] == [
        (20, "position_taken_over"),
        (20, "order_issued"),
        (20, "compensation_reserved"),
        (21, "order_closed"),
        (21, "adl_triggered"),
        (22, "fill_booked"),
        (22, "adl_reduced"),
        (23, "reservation_released"),
        (23, "adl_executed"),
        (23, "liquidation_closed"),
    ]
    assert "in all it cost 0.02760725 XBT" in story[-1]["text"]
    told = scenario.ok("explain", "L05-late-fill").out
    assert told.startswith("Liquidation L05-late-fill\n")
    for line in story:
        assert line["text"] in told
    scenario.refused("explain", "L05", says="no entry is about a liquidation 'L05'")


def test_export_verify_and_replay_agree_on_the_ledger(scenario: Shell, tmp_path: Path) -> None:
    file = tmp_path / "ledger.ndjson"
    exported = scenario.ok("export", str(file), "--format", "json").json
    lines = scenario.values("fund-ledger")
    assert file.read_bytes() == b"".join((line or b"") + b"\n" for line in lines)
    head = sha256_hex(lines[-1] or b"")
    assert exported == {"file": str(file), "entries": ENTRIES, "head": head}
    witness = json.loads((tmp_path / "ledger.ndjson.head.json").read_bytes())
    assert witness == {"ledger": "main", "sequence": ENTRIES - 1, "sha256": head}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ledger.ndjson",
        "ledger.ndjson.head.json",
    ]
    assert (
        f"{ENTRIES} entries written to {file}, head {head}" in scenario.ok("export", str(file)).out
    )
    for command, did in (
        (("verify",), "verified"),
        (("verify", "--head", head), "verified"),
        (("verify", "--ledger", str(file)), "verified"),
        (("replay",), "replayed"),
        (("replay", "--ledger", str(file)), "replayed"),
    ):
        report = scenario.ok(*command, "--format", "json").json
        assert (report["ledger"], report["entries"]) == ("main", ENTRIES)
        assert (report["head"], report["findings"]) == (head, [])
        table = scenario.ok(*command).out
        assert f"ledger main: {ENTRIES} entries {did}, head {head}" in table
        assert table.rstrip().endswith("clean")


def test_verify_compares_what_was_emitted_with_the_output_topics(
    scenario: Shell, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    with (
        closing(sqlite3.connect(scenario.folder / "insurance-fund.db")) as source,
        closing(sqlite3.connect(tmp_path / "insurance-fund.db")) as copy,
    ):
        source.backup(copy)
        sql = "SELECT id FROM partitions WHERE topic = 'adl-triggers'"
        table = f"records_{copy.execute(sql).fetchone()[0]}"
        copy.execute(f"UPDATE {table} SET value = CAST(value || ' ' AS BLOB) WHERE offset = 2")  # noqa: S608
        copy.commit()
    listed = [
        entry["sequence"]
        for entry in (json.loads(line or b"") for line in shell.values("fund-ledger"))
        for emitted in entry["emitted"]
        if emitted["topic"] == "adl-triggers"
    ]
    done = shell.call("verify", "--format", "json")
    assert done.code == 1
    missing, extra = sorted(done.json["findings"], key=lambda f: f["sequence"] is None)
    assert missing["sequence"] == listed[2]
    assert missing["message"].endswith("is listed as emitted but is not on adl-triggers")
    assert extra == {
        "sequence": None,
        "message": "1 messages on adl-triggers are listed by no entry",
    }


def test_order_without_an_end_is_shown_like_any_other(shell: Shell) -> None:
    # Exchanges say the last time there is for an order that ends never; our deadline is later.
    submitted = message(
        "liquidation_order_submitted",
        liquidation_id="liq-7",
        order_id="o1",
        price="45000",
        quantity="10",
        expires_at_ms=TIME_MS_MAX,
    )
    shell.ok("publish", "instruments", given=ndjson(INSTRUMENT))
    shell.ok("publish", "liquidations", given=ndjson(TAKEN_OVER, submitted))
    policy = shell.write("policy.json", '{"default": {"order_pricing": "exchange"}}')
    done = shell.ok("run", "--until-idle", "--policy", policy)
    assert "open order o1: 10 left, ends " in done.out
    assert "next deadline order:liq-7/o1, due " in shell.ok("status").out
    assert "o1" in shell.ok("explain", "liq-7").out


def test_event_at_the_end_of_time_does_not_end_the_run(shell: Shell) -> None:
    # Orders and triggers that follow from it would have times that no calendar writes.
    far = {"event_time_ms": TIME_MS_MAX}
    shell.ok("publish", "instruments", given=ndjson({**INSTRUMENT, **far}) + b"no JSON\n")
    shell.ok("publish", "liquidations", given=ndjson({**TAKEN_OVER, **far}))
    shell.ok("run", "--until-idle", "--clock", "event")
    assert len(shell.values("dead-letters")) == 1
    assert len(shell.values("liquidation-orders")) == 1
    assert len(shell.values("adl-triggers")) == 1
    assert "liq-7" in shell.ok("status").out
    assert "attempt 1" in shell.ok("explain", "liq-7").out
    shell.ok("verify")
    shell.ok("replay")


def test_commands_that_read_refuse_a_log_that_is_not_there(shell: Shell) -> None:
    for command in (
        ("status",),
        ("explain", "liq-7"),
        ("verify",),
        ("replay",),
        ("export", "x.ndjson"),
    ):
        shell.refused(
            *command, says="no log at insurance-fund.db: check the path, or start a writer"
        )
    shell.refused("run", "--log", "sqlite:none/x.db", says="no directory none: make it before")
    assert list(shell.folder.iterdir()) == []


def test_commands_that_read_refuse_an_empty_ledger(shell: Shell) -> None:
    shell.ok("publish", "fund-transfers", given=deposit("d1"))
    for command, says in (
        (("status",), "ledger main is empty: `insurance-fund run` writes its first entry"),
        (("explain", "liq-7"), "no entry is about a liquidation 'liq-7'"),
        (("verify",), "the ledger is empty: there is nothing to verify"),
        (("replay",), "the ledger is empty: there is nothing to replay"),
        (("export", "x.ndjson"), "ledger main is empty: there is nothing to export"),
    ):
        shell.refused(*command, says=says)
    assert not list(shell.folder.glob("x.ndjson*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Buy milk, sell bitcoin.\n" * 100, "is not a log of ours (no SQLite database)"),
        (None, "is a database of another program: give another path"),
    ],
)
def test_commands_refuse_a_file_of_another_program(
    shell: Shell, content: bytes | None, says: str
) -> None:
    path = shell.folder / "other.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE cookies (id INTEGER)")
    before = path.read_bytes()
    for command in (("status",), ("run", "--until-idle"), ("publish", "fills")):
        shell.refused(*command, "--log", "sqlite:other.db", says=says)
    assert path.read_bytes() == before


def test_writers_refuse_a_log_that_another_process_holds_and_readers_go_on(shell: Shell) -> None:
    shell.ok("publish", "fund-transfers", given=deposit("d1"))
    shell.ok("run", "--until-idle")
    locker = shell.start(sys.executable, "-c", LOCKER, "insurance-fund.db")
    try:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        for command in (("run", "--until-idle"), ("publish", "fund-transfers")):
            done = shell.end(shell.start(sys.executable, "-c", IMPATIENT, *command), deposit("d2"))
            assert_refused(done, "insurance-fund.db is locked: end the process or the transaction")
        assert "entries, wall clock" in shell.ok("status").out
    finally:
        shell.end(locker)
    assert len(shell.values("fund-transfers")) == 1
    assert len(shell.values("fund-ledger")) == 2


def test_full_disk_is_reported_with_what_to_do_and_nothing_is_half_written(shell: Shell) -> None:
    shell.ok(
        "publish", "fund-transfers", given=b"".join(deposit(f"d{n}") + b"\n" for n in range(9))
    )
    shell.ok("run", "--until-idle")
    many = b"".join(deposit(f"e{n}") + b" " * 1_000 + b"\n" for n in range(5_000))
    small = (sys.executable, "-c", SMALL_DISK, "500000")
    done = shell.end(shell.start(*small, "publish", "fund-transfers"), many)
    assert_refused(done, "its free space and the limit on the size of files, then start again")
    assert len(shell.values("fund-transfers")) == 9

    shell.ok("publish", "fund-transfers", given=many)
    done = shell.end(shell.start(*small, "run", "--until-idle"))
    # Before the commit nothing was written (2); at the commit only a restart can tell (1).
    assert done.code in (1, COULD_NOT), done
    assert "start again" in " ".join(done.err.split())
    shell.ok("run", "--until-idle")
    report = shell.ok("verify", "--format", "json").json
    assert report["entries"] == 1 + 9 + 5_000

    done = shell.end(shell.start(*small, "export", "ledger.ndjson"))
    assert_refused(done, "ledger.ndjson cannot be written")
    assert not (shell.folder / "ledger.ndjson").exists()
    assert not (shell.folder / "ledger.ndjson.head.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.json", None, "policy none.json: No such file"),
        (".", None, "policy .: Is a directory"),
        ("p.json", b"\xff\xfe{}", "policy p.json cannot be read"),
        ("p.json", b'{"grace_ms": NaN}', "policy p.json cannot be read"),
        ("p.json", b"[" * 100_000, "p.json"),
        ("p.toml", b"grace_ms = ", "policy p.toml cannot be read"),
        (
            "p.toml",
            b"grace_mss = 5",
            "p.toml, line 1: policy: Object contains unknown field `grace_mss`",
        ),
        ("p.json", b'{"grace_ms": "5"}', "$.grace_ms"),
        ("p.json", b'{"default": {"instrument_share": "2"}}', "default.instrument_share must be"),
    ],
)
def test_policy_that_cannot_be_used_is_refused_by_the_name_of_what_is_wrong(
    shell: Shell, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        shell.write(name, content)
    shell.refused("run", "--until-idle", "--policy", name, says=says)
    assert not (shell.folder / "insurance-fund.db").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "policy: Expected `object`"),
        ("null", "policy: Expected `object`"),
        ('{"grace": 5}', "unknown field `grace`"),
        ('{"grace_ms": -1}', "$.grace_ms"),
        ('{"default": {"scale": 1}}', "unknown field `scale` - at `$.default`"),
        ('{"default": {"attempts": []}}', "$.default.attempts"),
        ('{"default": {"attempts": [["1", 5]]}}', "default.attempts[0] must be at least 0"),
        ('{"default": {"instrument_share": 0.3}}', "$.default.instrument_share"),
        ('{"default": {"adl_fee_rate": "1"}}', "default.adl_fee_rate must be at least 0"),
        ('{"instruments": {"X": {"adl_fee_rate": "-1"}}}', "instruments.X.adl_fee_rate must be"),
        ('{"currencies": {"US DT": {}}}', "currencies.US DT is no currency name"),
        ('{"currencies": {"XBT": {"floor": "1e3"}}}', "currencies.XBT.floor must be a decimal"),
        ('{"currencies": {"XBT": {"scale": 2, "floor": "0.001"}}}', "at most 2 decimals"),
    ],
)
def test_bad_key_of_a_policy_is_named_with_its_file(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        load_policy(path)
    assert str(refused.value).startswith(f"{path}, line 1: policy: ")
    assert says in str(refused.value)


def test_policy_that_takes_a_currency_out_of_a_ledger_is_refused(shell: Shell) -> None:
    shell.ok("run", "--until-idle")
    policy = shell.write("p.json", '{"currencies": {"USDT": {"scale": 2}}}')
    shell.refused("run", "--until-idle", "--policy", policy, says="its scale never changes")
    assert len(shell.values("fund-ledger")) == 1


def test_clock_of_a_ledger_is_fixed_by_its_first_entry(scenario: Shell, shell: Shell) -> None:
    scenario.refused("run", "--until-idle", "--clock", "wall", says="start it with --clock event")
    shell.ok("run", "--until-idle")
    shell.refused("run", "--until-idle", "--clock", "event", says="start it with --clock wall")
    wrong = shell.call("run", "--clock", "sundial")
    assert wrong.code == 2
    assert "'sundial' is not one of" in wrong.err
    assert len(shell.values("fund-ledger")) == 1


@pytest.mark.parametrize("url", ["x.db", "kafka:x"])
def test_log_that_is_no_url_of_ours_is_refused_with_one_that_is(shell: Shell, url: str) -> None:
    shell.refused("status", "--log", url, says="sqlite:PATH")


def test_shard_is_named_where_there_are_several(shell: Shell) -> None:
    shell.ok("run", "--until-idle")
    shell.refused(
        "status", "--shard", "other", says="no shard 'other' in the settings; there are: main"
    )
    shell.write("insurance-fund.toml", '[shards]\na = ["USDT"]\nb = ["XBT"]\n')
    shell.refused("verify", says="name a shard with --shard: a, b")
    shell.refused("run", "--shard", "main", says="no shard 'main' in the settings; there are: a, b")
    shell.write("insurance-fund.toml", '[shards]\na = ["USDT"]\nb = ["USDT"]\n')
    shell.refused("run", "--until-idle", says="USDT belongs to both a and b")


def test_config_shows_where_each_value_came_from(shell: Shell) -> None:
    shell.write(
        "insurance-fund.toml", 'batch_max = 7\nlog = "sqlite:file.db"\nrecord_bytes_max = 4096'
    )
    shell.environment = {
        "INSURANCE_FUND_LOG": "sqlite:environment.db",
        "INSURANCE_FUND_BATCH_MAX": "8",
    }
    shown = {row["name"]: row for row in shell.ok("config", "show", "--format", "json").json}
    assert {
        name: (row["value"], row["source"])
        for name, row in shown.items()
        if not name.startswith(("kafka_", "http_", "webhook", "metrics_"))
    } == {
        "log": ("sqlite:environment.db", "environment INSURANCE_FUND_LOG"),
        "policy": ("", "default"),
        "batch_max": ("8", "environment INSURANCE_FUND_BATCH_MAX"),
        "record_bytes_max": ("4096", "file insurance-fund.toml"),
        "deadline_wait_ms_max": ("600000", "default"),
        "snapshot_entries": ("100000", "default"),
        "database": ("sqlite:insurance-fund-views.db", "default"),
        "shards.main": ("all of the policy", "default"),
    }
    assert (shown["http_port"]["value"], shown["metrics_port"]["value"]) == ("8321", "0")
    table = shell.ok("config", "show", "--log", "sqlite:option.db").out
    (row,) = [line.split() for line in table.splitlines() if "option.db" in line]
    assert row == ["log", "sqlite:option.db", "option", "--log"]


def test_config_shows_webhooks_and_no_secret(shell: Shell) -> None:
    shell.write(
        "insurance-fund.toml",
        '[webhooks.desk]\nurl = "https://risk.example/adl"\ntoken_file = "/run/secrets/desk"\n',
    )
    shell.environment = {
        "INSURANCE_FUND_DATABASE": "postgresql://fund:hidden@db/views",
        "INSURANCE_FUND_HTTP_TOKEN": "hidden-as-well-0123",
    }
    shown = shell.ok("config", "show", "--format", "json")
    rows = {row["name"]: (row["value"], row["source"]) for row in shown.json}
    file = "file insurance-fund.toml"
    assert rows["webhooks.desk.url"] == ("https://risk.example/adl", file)
    assert rows["webhooks.desk.token_file"] == ("/run/secrets/desk", file)
    assert rows["database"][0] == "postgresql://fund:***@db/views"
    assert "hidden" not in shown.out + shell.ok("config", "show").out


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"INSURANCE_FUND_BATCH_MAX": "many"},
            "must be a whole number from 1 to 100000; got 'many'",
        ),
        ({"INSURANCE_FUND_BATCH_MAX": "0"}, "batch_max (environment INSURANCE_FUND_BATCH_MAX)"),
        ({"INSURANCE_FUND_CONFIG": "none.toml"}, "names none.toml, which is not there"),
        ({"INSURANCE_FUND_CONFIG": "bad.toml"}, "bad.toml: unknown setting 'batch'"),
        ({"INSURANCE_FUND_CONFIG": "broken.toml"}, "broken.toml cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(
    shell: Shell, environment: dict[str, str], says: str
) -> None:
    shell.write("bad.toml", "batch = 5")
    shell.write("broken.toml", "batch_max = ")
    shell.environment = environment
    shell.refused("config", "show", says=says)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://user:hunter2@host:9092",
        "kafka://:hunter2@host:9092",
        "kafka://user:p@hunter2@host:9092",
        "postgres://user:hunter2@host/db",
    ],
)
def test_secrets_are_masked(shell: Shell, url: str) -> None:
    shell.environment = {"INSURANCE_FUND_LOG": url}
    done = shell.ok("config", "show")
    assert "***" in done.out
    told = done.out + shell.ok("config", "show", "--format", "json").out
    assert "hunter2" not in told + shell.call("status").err


@pytest.mark.parametrize("command", ["publish", "run", "status", "explain", "export"])
def test_help_of_a_command_names_its_exit_codes(shell: Shell, command: str) -> None:
    said = " ".join(shell.ok(command, "--help").out.split())
    assert "Exit codes: 0 done, 1 failed or halted, 2 could not run, 75 fenced." in said


@pytest.mark.parametrize("command", ["verify", "replay"])
def test_help_of_an_audit_names_its_exit_codes(shell: Shell, command: str) -> None:
    said = " ".join(shell.ok(command, "--help").out.split())
    assert "Exit codes: 0 clean, 1 findings, 2 could not run." in said


def test_help_names_the_exit_codes_of_all_commands(shell: Shell) -> None:
    assert "Exit codes: 0 done" in " ".join(shell.ok("--help").out.split())
    assert "Exit codes: 0 done" in " ".join(shell.ok("config", "show", "--help").out.split())
    assert shell.ok("--version").out.startswith("insurance-fund ")


def test_reader_of_the_output_that_goes_away_is_no_error_to_tell_of(scenario: Shell) -> None:
    with scenario.start(COMMAND, "explain", "L05-late-fill") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(HANG_S) == 1


def test_run_that_is_interrupted_by_a_person_exits_0(shell: Shell) -> None:
    shell.ok("publish", "fund-transfers", given=deposit("d1"))
    process = shell.start(COMMAND, "run")
    for _ in polls(process):
        if len(shell.values("fund-ledger")) == 2:
            break
    process.send_signal(signal.SIGINT)
    done = shell.end(process)
    assert done.code == 0
    assert "ledger main: 2 entries written, 2 in all, head " in done.out


def polls(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Come back again and again while a process runs, at most for `HANG_S`."""
    for _ in range(int(HANG_S / 0.05)):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            yield
        else:
            raise AssertionError(f"the process has ended with {process.returncode}")
    raise AssertionError("nothing happened in time")
