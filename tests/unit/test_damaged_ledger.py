"""A damaged ledger: whatever was done to an export, `verify` says so and names the entry.

What is named, where (k is the sequence of the damaged entry):

| damage | named |
|---|---|
| a byte of entry k, also its end of line | k, first of all |
| entry k removed | k (where k + 1 stands now), k - 1 (whose neighbour is gone) |
| entries k and k + 1 swapped | both |
| entry k repeated | k, and k + 1, where it stands again |
| cut behind entry k | k, by the head from outside alone |
| cut within entry k | k |
| entry k altered, and the chain made anew | k where money or time is wrong, else the head alone |
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from insurance_fund.events.ledger import GENESIS, sha256_hex
from insurance_fund.streams.replay import Replayer
from insurance_fund.streams.report import Finding, Report
from insurance_fund.streams.verify import Verifier
from tests.unit.life import BTCUSDT, ETHUSD, XBTUSD, Life

ENTRIES: Final = 200
FLIPS: Final = 1_500
# As many as the cases take that go through every byte of an entry.
FEW: Final = 40
COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
IN_XBT: Final = {"margin_currency": "XBT", "instrument_id": "XBTUSD"}


def verify_lines(lines: Iterable[bytes], head: str | None) -> Report:
    """Verify a ledger given as lines."""
    verifier = Verifier(head)
    for line in lines:
        verifier.take(line)
    return verifier.finish()


def busy_life() -> Life:
    """A life with every kind of entry, of at least `ENTRIES` entries."""
    policy = {"default": {"attempts": [["0", 5_000], ["0.01", 25_000]]}, "parked_ms": 40_000}
    life = Life(policy, instruments=(BTCUSDT, XBTUSD, ETHUSD))
    life.deposit("2", "XBT", "d2")
    number = 0
    while len(life.lines) < ENTRIES:
        number += 1
        name = f"liq-{number}"
        life.fill("1", name="early", order=f"{name}:1", price="45100")
        life.take_over(name)
        life.fill("4", name="f1", order=f"{name}:1", price="45200", fee="0.9")
        life.fill("4", name="f1", order=f"{name}:1", price="45200", fee="0.9")
        life.report(f"{name}:1", "expired", "5")
        life.fill("2", name="f2", order=f"{name}:2", price="44600")
        life.fill("40", name="f3", order=f"{name}:2")
        life.wait(30_000)
        trigger = {"liquidation_id": name, "trigger_id": f"{name}:adl"}
        life.adl("2", name=f"x{number}", **trigger)
        life.adl("1", name=f"y{number}", **trigger)
        life.take_over(f"xbt-{number}", quantity="10000", margin="0.01", **IN_XBT)
        life.fill("10000", "48000", order=f"xbt-{number}:1", **IN_XBT)
        life.fill("1", name="lost", order=f"none-{number}:1")
        life.raw("fills", b'{"liquidation_id": "broken')
        life.transfer("fund_withdrawal", "0.5", f"w{number}")
    return life


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """An export: the lines of a ledger."""
    return busy_life().lines[:ENTRIES]


@pytest.fixture(scope="module")
def head(lines: list[bytes]) -> str:
    """The hash of the last entry, as a witness outside knows it."""
    return sha256_hex(lines[-1])


def file_of(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def lines_of(content: bytes) -> list[bytes]:
    """Split a file as the command does: an end of line ends a line, the last may lack it."""
    found = content.split(b"\n")
    return found if found[-1] else found[:-1]


def flipped(content: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def named(report: Report) -> set[int | None]:
    return {finding.sequence for finding in report.findings}


def chained(lines: Iterable[bytes]) -> list[bytes]:
    """Make the chain anew, as one who owns the file can."""
    made, previous = [], GENESIS
    for line in lines:
        before, key, rest = line.rpartition(b'"previous":"')
        made.append(before + key + previous.encode() + rest[64:])
        previous = sha256_hex(made[-1])
    return made


def altered(lines: list[bytes], sequence: int, changes: dict[str, Any]) -> list[bytes]:
    """Let an entry say something else, and make the chain anew."""
    entry = {**json.loads(lines[sequence]), **changes}
    line = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()
    assert line != lines[sequence]
    return chained([*lines[:sequence], line, *lines[sequence + 1 :]])


def with_postings(lines: list[bytes]) -> dict[int, dict[str, str]]:
    """The postings of the entries that have some."""
    found = {sequence: json.loads(line)["postings"] for sequence, line in enumerate(lines)}
    return {sequence: postings for sequence, postings in found.items() if postings}


def test_undamaged_ledger_is_clean_and_says_whether_its_end_is_witnessed(
    lines: list[bytes], head: str
) -> None:
    report = verify_lines(lines, head)
    assert (report.ledger, report.entries, report.head) == ("main", ENTRIES, head)
    assert (report.findings, report.notes) == ([], [])
    unwitnessed = verify_lines(lines, None)
    assert unwitnessed.findings == []
    (note,) = unwitnessed.notes
    assert "not witnessed" in note
    assert chained(lines) == lines


def test_ledger_that_is_damaged_here_has_entries_of_many_kinds(lines: list[bytes]) -> None:
    effects = [effect["type"] for line in lines for effect in json.loads(line)["effects"]]
    causes = {json.loads(line)["cause"]["kind"] for line in lines}
    assert len(set(effects)) >= 17
    assert causes == {"policy", "input", "clock"}
    assert len(with_postings(lines)) > ENTRIES // 3


class Flip(NamedTuple):
    """A bit of a file, the entry that it is in, and whether it is in that entry's own number."""

    sequence: int
    position: int
    bit: int
    in_number: bool


def flips(lines: list[bytes], sequences: Iterable[int]) -> Iterator[Flip]:
    """Yield a seeded bit of each of these entries, at a seeded place."""
    chance = random.Random(20_260_102)  # noqa: S311 - places, no secrets
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for k in sequences:
        position = chance.randrange(starts[k], starts[k + 1])
        yield flip_at(lines, k, position - starts[k], starts[k], chance.randrange(8))


def flip_at(lines: list[bytes], sequence: int, at: int, start: int, bit: int) -> Flip:
    number = lines[sequence].rindex(b'"sequence":') + len(b'"sequence":')
    in_number = number <= at < number + len(str(sequence))
    return Flip(sequence, start + at, bit, in_number)


def missed(lines: list[bytes], found: Iterable[Flip]) -> list[tuple[Flip, list[Finding]]]:
    """Return the flips that `verify` does not find, or not first of all in their entry."""
    content, head, escaped = file_of(lines), sha256_hex(lines[-1]), []
    for flip in found:
        report = verify_lines(lines_of(flipped(content, flip.position, flip.bit)), head)
        # An entry that calls itself by another number also makes its neighbours look misplaced.
        first = [finding.sequence for finding in report.findings][:1]
        if first != [flip.sequence] and not (flip.in_number and flip.sequence in named(report)):
            escaped.append((flip, report.findings[:2]))
    return escaped


def test_flipped_bit_anywhere_in_the_file_is_found_in_its_entry(lines: list[bytes]) -> None:
    sequences = [*range(ENTRIES)] * (FLIPS // ENTRIES + 1)
    assert missed(lines, flips(lines, sequences)) == []


@pytest.mark.parametrize("which", ["first", "fill", "last"])
def test_flipped_bit_in_any_byte_of_an_entry_is_found_in_it(lines: list[bytes], which: str) -> None:
    few = lines[:FEW]
    fill = next(k for k in range(FEW // 2, FEW) if b'"fill_booked"' in few[k])
    k = {"first": 0, "fill": fill, "last": FEW - 1}[which]
    start = len(file_of(few[:k]))
    every = (flip_at(few, k, at, start, at % 8) for at in range(len(few[k]) + 1))
    assert missed(few, every) == []


def test_replay_finds_a_flipped_bit_in_its_entry(lines: list[bytes]) -> None:
    content = file_of(lines)
    for flip in flips(lines, range(0, ENTRIES, 2)):
        replayer = Replayer()
        for line in lines_of(flipped(content, flip.position, flip.bit)):
            replayer.take(line)
        assert named(replayer.finish()) == {flip.sequence}, flip


def test_removed_entry_is_found_at_the_gap(lines: list[bytes], head: str) -> None:
    for k in range(ENTRIES - 1):
        report = verify_lines([*lines[:k], *lines[k + 1 :]], head)
        assert named(report) == {max(k - 1, 0), k}
        (gap,) = [f for f in report.findings if f.message.startswith("sequence ")]
        assert gap.sequence == k
        assert gap.message.startswith(f"sequence {k + 1} stands where {k} belongs")
    assert named(verify_lines(lines[:-1], head)) == {ENTRIES - 2}


def test_removed_entries_are_found_at_the_gap_even_if_the_chain_was_made_anew(
    lines: list[bytes],
) -> None:
    for k in range(0, ENTRIES - 3, 7):
        assert named(verify_lines(chained([*lines[:k], *lines[k + 3 :]]), None)) == {k}


def test_two_neighbours_in_the_wrong_order_are_both_found(lines: list[bytes], head: str) -> None:
    for k in range(ENTRIES - 1):
        swapped = [*lines[:k], lines[k + 1], lines[k], *lines[k + 2 :]]
        found = named(verify_lines(swapped, head))
        assert {k, k + 1} <= found <= {max(k - 1, 0), k, k + 1, k + 2}


def test_entry_that_stands_twice_is_found(lines: list[bytes], head: str) -> None:
    for k in range(ENTRIES):
        report = verify_lines([*lines[: k + 1], *lines[k:]], head)
        assert named(report) == {k, k + 1}
        (again,) = [f for f in report.findings if f.message.startswith("sequence ")]
        assert again.message.startswith(f"sequence {k} stands where {k + 1} belongs")


def test_file_that_was_cut_behind_an_entry_is_known_by_the_head_from_outside(
    lines: list[bytes], head: str
) -> None:
    for k in range(ENTRIES - 1):
        assert named(verify_lines(lines[: k + 1], head)) == {k}
    unwitnessed = verify_lines(lines[:100], None)
    assert unwitnessed.findings == []
    assert any("not witnessed" in note for note in unwitnessed.notes)


def test_file_that_was_cut_within_an_entry_names_it_without_a_head(lines: list[bytes]) -> None:
    chance = random.Random(20_260_103)  # noqa: S311 - places, no secrets
    for k in range(ENTRIES):
        end = chance.randrange(1, len(lines[k]))
        assert named(verify_lines([*lines[:k], lines[k][:end]], None)) == {k}


def test_another_ledger_is_not_taken_for_this_one(lines: list[bytes], head: str) -> None:
    other = Life()
    other.deposit("7", name="d7")
    report = verify_lines(other.lines, head)
    assert named(report) == {len(other.lines) - 1}
    assert any(f"not {head}" in finding.message for finding in report.findings)
    for k in (1, len(other.lines) - 1):
        mixed = [*lines[:k], other.lines[k], *lines[k + 1 :]]
        assert named(verify_lines(mixed, head)) == {k}
    renamed = altered(lines, 9, {"ledger": "other"})
    assert named(verify_lines(renamed, None)) == {9}


def test_posting_that_was_altered_is_found_though_the_chain_was_made_anew(
    lines: list[bytes], head: str
) -> None:
    for k, postings in with_postings(lines).items():
        for account, amount in postings.items():
            other = str(int(amount.partition(".")[0].replace("-0", "0")) + 7)
            forged = altered(lines, k, {"postings": {**postings, account: other}})
            report = verify_lines(forged, None)
            assert [finding.sequence for finding in report.findings][:1] == [k], account
    witnessed = verify_lines(forged, head)
    assert {k, ENTRIES - 1} <= named(witnessed)
    assert any(f"not {head}" in finding.message for finding in witnessed.findings)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda postings: postings.clear(), id="all are gone"),
        pytest.param(lambda postings: postings.popitem(), id="one is gone"),
        pytest.param(
            lambda postings: postings.update({"fees:USDC": "5", "market:USDC": "-5"}),
            id="two that balance are added",
        ),
        pytest.param(lambda postings: postings.update({"nobody": "0"}), id="one of no currency"),
        pytest.param(lambda postings: postings.update({"a:USDT": "much"}), id="one of no amount"),
    ],
)
def test_postings_that_are_not_those_of_the_effects_are_found_in_their_entry(
    lines: list[bytes], change: Callable[[dict[str, str]], object]
) -> None:
    for k, postings in with_postings(lines).items():
        change(postings)
        report = verify_lines(altered(lines, k, {"postings": postings}), None)
        assert [finding.sequence for finding in report.findings][:1] == [k]


def test_postings_of_an_entry_that_moves_no_money_are_found(lines: list[bytes]) -> None:
    moving = with_postings(lines)
    added = {"fees:USDT": "5", "market:USDT": "-5"}
    for k in set(range(ENTRIES)) - set(moving):
        report = verify_lines(altered(lines, k, {"postings": added}), None)
        assert [finding.sequence for finding in report.findings][:1] == [k]


def test_time_that_goes_back_is_found_though_the_chain_was_made_anew(lines: list[bytes]) -> None:
    unseen = []
    for k in range(1, ENTRIES):
        back = {"now_ms": json.loads(lines[k - 1])["now_ms"] - 1}
        report = verify_lines(altered(lines, k, back), None)
        if [finding.sequence for finding in report.findings][:1] != [k]:
            unseen.append(k)
    assert unseen == []


def test_entry_that_was_made_up_with_its_postings_is_found_by_replay_or_the_head(
    lines: list[bytes], head: str
) -> None:
    (k, *_) = with_postings(lines)
    (deposit,) = json.loads(lines[k])["effects"]
    assert (deposit["type"], deposit["amount"]) == ("fund_deposited", "1000")
    postings = {"fund:USDT:available": "2000", "treasury:USDT": "-2000"}
    made_up = altered(lines, k, {"effects": [{**deposit, "amount": "2000"}], "postings": postings})
    assert verify_lines(made_up, None).findings == []
    assert named(verify_lines(made_up, head)) == {ENTRIES - 1}
    replayer = Replayer()
    for line in made_up:
        replayer.take(line)
    (finding,) = replayer.finish().findings
    assert finding.sequence == k
    assert "decided otherwise" in finding.message


class Desk:
    """An auditor's folder with an export in it, and the real command."""

    def __init__(self, folder: Path, lines: list[bytes]) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.ndjson"
        self.ledger.write_bytes(file_of(lines))
        self.witness = folder / "ledger.ndjson.head.json"

    def write_head(self, sha256: str) -> None:
        head = {"ledger": "main", "sequence": ENTRIES - 1, "sha256": sha256}
        self.witness.write_text(json.dumps(head), encoding="utf-8")

    def call(self, command: str, *arguments: str) -> tuple[int, str]:
        """Return the exit code and all that was said."""
        done = subprocess.run(
            [COMMAND, command, "--ledger", str(self.ledger), *arguments],
            check=False,
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout


@pytest.fixture
def auditor(tmp_path: Path, lines: list[bytes]) -> Desk:
    return Desk(tmp_path, lines)


def test_commands_exit_0_for_an_undamaged_file(auditor: Desk, head: str) -> None:
    code, said = auditor.call("verify")
    assert (code, "not witnessed" in said) == (0, True)
    code, said = auditor.call("verify", "--head", head)
    assert (code, "not witnessed" in said) == (0, False)
    auditor.write_head(head)
    code, said = auditor.call("verify")
    assert (code, "not witnessed" in said) == (0, False)
    assert f"ledger main: {ENTRIES} entries verified, head {head}" in said
    code, said = auditor.call("replay")
    assert (code, f"{ENTRIES} entries replayed" in said) == (0, True)


def test_commands_exit_1_and_print_the_sequence_of_a_damaged_entry(
    auditor: Desk, lines: list[bytes], head: str
) -> None:
    auditor.write_head(head)
    damaged = lines[57].replace(b'"sequence":57', b'"sequence":58')
    auditor.ledger.write_bytes(file_of([*lines[:57], damaged, *lines[58:]]))
    code, said = auditor.call("verify")
    assert code == 1
    assert "finding sequence 57: " in said
    code, said = auditor.call("replay", "--format", "json")
    assert code == 1
    assert [finding["sequence"] for finding in json.loads(said)["findings"]] == [57]


def test_verify_exits_1_for_a_damaged_policy(auditor: Desk, lines: list[bytes]) -> None:
    # The first entry is one like any other: that its policy cannot be used is a finding.
    damaged = lines[0].replace(b'"policy_set","policy":{"c', b'"policy_set","policy":{"d')
    auditor.ledger.write_bytes(file_of([damaged, *lines[1:]]))
    code, said = auditor.call("verify")
    assert (code, "finding sequence 0: " in said) == (1, True), said


def test_verify_exits_1_where_the_head_beside_the_file_or_the_given_one_is_another(
    auditor: Desk, lines: list[bytes], head: str
) -> None:
    code, said = auditor.call("verify", "--head", "0" * 64)
    assert (code, f"the ledger's head is {head}, not {'0' * 64}" in said) == (1, True)
    auditor.write_head("1" * 64)
    code, said = auditor.call("verify")
    assert (code, f"finding sequence {ENTRIES - 1}: " in said) == (1, True)
    assert auditor.call("verify", "--head", head)[0] == 0
    auditor.write_head(head)
    auditor.ledger.write_bytes(file_of(lines[:150]))
    code, said = auditor.call("verify")
    assert (code, "finding sequence 149: " in said) == (1, True)


def test_commands_exit_2_where_there_is_nothing_to_check(auditor: Desk) -> None:
    auditor.witness.write_text("{}", encoding="utf-8")
    code, said = auditor.call("verify")
    assert (code, "head.json cannot be read" in said) == (2, True)
    auditor.witness.unlink()
    auditor.ledger.write_bytes(b"")
    for command in ("verify", "replay"):
        code, said = auditor.call(command)
        assert (code, "the ledger is empty" in said) == (2, True)
    auditor.ledger.unlink()
    for command in ("verify", "replay"):
        code, said = auditor.call(command)
        assert (code, "No such file" in said) == (2, True)


def test_head_of_an_earlier_entry_is_a_witness_for_what_was_there_then(
    lines: list[bytes], head: str
) -> None:
    report = verify_lines(lines, sha256_hex(lines[ENTRIES - 3]))
    assert report.findings == []
    assert f"the witness knows sequence {ENTRIES - 3}" in " ".join(report.notes)
    assert verify_lines(lines, head).notes == []


def test_deadline_that_changes_nothing_is_no_damage() -> None:
    life = Life({"default": {"order_pricing": "exchange"}})
    life.take_over()
    life.submit("o1", "45000", "10")
    life.report("o1", "cancelled", "10", final=False, liquidation_id="liq-7")
    (taken,) = life.wait(5_000)
    assert taken.entry.effects == []
    assert verify_lines(life.lines, sha256_hex(life.lines[-1])).findings == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cause": {"deadline": "hold:liq-7/liq-7:1"}}, "no deadline hold:liq-7/liq-7:1 was set"),
        ({"cause": {"due_ms": 1}}, "no deadline order:liq-7/liq-7:1 was set for 1"),
        ({"emitted": []}, "it lists other messages than its effects send"),
    ],
)
def test_forged_deadline_is_found_though_the_chain_was_made_anew(
    changes: dict[str, Any], said: str
) -> None:
    life = Life()
    life.take_over()
    life.wait(32_000)
    forged = json.loads(life.lines[-1])
    for name, change in changes.items():
        forged[name] = {**forged[name], **change} if isinstance(change, dict) else change
    lines = chained([*life.lines[:-1], json.dumps(forged, separators=(",", ":")).encode()])
    report = verify_lines(lines, None)
    assert any(said in f.message and f.sequence == len(lines) - 1 for f in report.findings)


@pytest.mark.parametrize(
    "total",
    ["quantity", "deleveraged", "margin", "pnl", "fee", "delta", "granted", "shortfall"],
)
def test_totals_of_a_closing_are_those_of_its_life(total: str) -> None:
    life = Life()
    life.take_over()
    life.fill("10", "46000")
    forged = json.loads(life.lines[-1])
    forged["effects"][-1][total] = "44"
    lines = chained([*life.lines[:-1], json.dumps(forged, separators=(",", ":")).encode()])
    (finding,) = verify_lines(lines, None).findings
    assert "its effects do not apply" in finding.message
