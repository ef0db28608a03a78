"""Verify: is a ledger what it was, and does its money add up? It needs the exact lines alone.

`Verifier` checks the chain, the sequence, the postings and every balance (docs/rules.md section 3).
"""

from __future__ import annotations

from decimal import Decimal

from insurance_fund.events import effects as fx
from insurance_fund.events import topics
from insurance_fund.events.amounts import ZERO, amount_text, exact, number, unit
from insurance_fund.events.errors import CorruptionError, InsuranceFundError, InvariantError
from insurance_fund.events.ledger import (
    CheckpointCause,
    ClockCause,
    Entry,
    InputCause,
    PolicyCause,
    decode_entry,
    sha256_hex,
)
from insurance_fund.events.postings import Postings, accounts_of, post
from insurance_fund.fund.bookkeeper import apply_entry
from insurance_fund.fund.invariants import check_fund
from insurance_fund.fund.state import State
from insurance_fund.streams.emitted import Listed
from insurance_fund.streams.report import Report


class Verifier:
    """Takes the lines of a ledger one by one and checks each against all before it."""

    def __init__(self, head: str | None = None) -> None:
        """`head` is the hash of an entry, the last if nothing came after, that a witness knows."""
        self.report = Report()
        self.state = State()
        self.emitted: list[Listed] = []
        self._head = head
        self._witnessed: int | None = None
        self._accounts: dict[str, Decimal] = {}
        self._broken_links: list[int] = []
        self._read_to: dict[str, int] = {}
        self._folding = True
        self._expected = 0

    def take(self, line: bytes) -> None:
        """Check the next line; what is wrong with it goes into the report."""
        report, position, expected = self.report, self.report.entries, self._expected
        report.entries += 1
        self._expected += 1
        sha256 = sha256_hex(line)
        if sha256 == self._head:
            self._witnessed = position
        try:
            entry = decode_entry(line)
        except CorruptionError as error:
            report.find(expected, str(error))
            self._stop_folding()
            report.head = sha256
            return
        if not report.ledger:
            report.ledger = entry.ledger
        if entry.sequence != expected:
            report.find(
                expected,
                f"sequence {entry.sequence} stands where {expected} belongs: entries are missing, "
                "repeated or out of order",
            )
            self._expected = entry.sequence + 1
            self._stop_folding()
        if entry.previous != report.head:
            self._broken_links.append(position)
            self._stop_folding()
        report.head = sha256
        if entry.ledger != report.ledger:
            report.find(entry.sequence, f"belongs to ledger {entry.ledger!r}")
        if self._folding:
            self._fold(entry, sha256)

    def _stop_folding(self) -> None:
        if self._folding:
            self._folding = False
            self.report.notes.append(
                f"balances are checked up to sequence {self.state.sequence - 1} only"
            )

    @exact
    def _fold(self, entry: Entry, sha256: str) -> None:
        try:
            self._check_cause(entry)
            apply_entry(self.state, entry, sha256)
            self._check_money(entry)
        except InvariantError as error:
            self.report.find(entry.sequence, str(error))
        except (InsuranceFundError, LookupError, ArithmeticError) as error:
            self.report.find(entry.sequence, str(error))
            self._stop_folding()
        self._check_emitted(entry)

    def _check_cause(self, entry: Entry) -> None:
        find, cause, sequence = self.report.find, entry.cause, entry.sequence
        self._check_policy(entry)
        if isinstance(cause, InputCause):
            if cause.topic not in topics.INPUT_TOPICS:
                find(sequence, f"{cause.topic} is no input topic")
            cause.made()
            self._move(sequence, f"{cause.topic}:{cause.partition}", cause.offset)
        elif isinstance(cause, CheckpointCause):
            for where, position in cause.positions.items():
                self._move(sequence, where, position.last_offset)
        elif isinstance(cause, ClockCause):
            if self.state.deadlines.get(cause.deadline) != cause.due_ms:
                find(sequence, f"no deadline {cause.deadline} was set for {cause.due_ms}")
            if cause.due_ms > entry.now_ms:
                find(sequence, f"{cause.deadline} was taken before it was due")

    def _check_policy(self, entry: Entry) -> None:
        cause = entry.cause
        policies = [e for e in entry.effects if type(e) is fx.PolicySet]
        if isinstance(cause, PolicyCause):
            told = (cause.policy, cause.routing, cause.rules, cause.software)
            if [(e.policy, e.routing, e.rules, e.software) for e in policies] != [told]:
                self.report.find(entry.sequence, "it sets another policy than its cause says")
        elif policies:
            self.report.find(entry.sequence, "it sets a policy, and its cause is none")

    def _move(self, sequence: int, where: str, offset: int) -> None:
        if offset <= self._read_to.get(where, -1):
            self.report.find(sequence, f"{where}:{offset} was covered before")
        self._read_to[where] = offset

    def _check_emitted(self, entry: Entry) -> None:
        told = [(e, fx.SENT[type(e)]) for e in entry.effects if type(e) in fx.SENT]
        due = [(topic, name(effect)) for effect, (topic, name) in told]
        if due != [(emitted.topic, emitted.id) for emitted in entry.emitted]:
            self.report.find(entry.sequence, "it lists other messages than its effects send")
        for emitted in entry.emitted:
            self.emitted.append(Listed(entry.sequence, emitted.topic, emitted.id, emitted.sha256))

    def _check_money(self, entry: Entry) -> None:
        told = {account: number(text) for account, text in entry.postings.items()}
        books = post(entry.effects)
        due = {a: amount for book in books.values() for a, amount in book.items() if amount}
        if told != due:
            self.report.find(entry.sequence, "its postings are not those of its effects")
            books = _by_currency(told)
        for account, amount in told.items():
            self._accounts[account] = self._accounts.get(account, ZERO) + amount
        for currency, book in books.items():
            one = unit(self.state.policy.currencies[currency].scale)
            for account, amount in book.items():
                if amount % one:
                    message = f"{account} {amount_text(amount)} is finer than its currency"
                    self.report.find(entry.sequence, message)
            total = sum(book.values())
            if total:
                message = f"its postings in {currency} sum to {total}, not zero"
                self.report.find(entry.sequence, message)
            self._check_balances(entry.sequence, currency)
        for effect in entry.effects:
            if isinstance(effect, fx.LiquidationClosed):
                self._check_closed(entry.sequence, effect)

    def _check_balances(self, sequence: int, currency: str) -> None:
        # The state's balances come from the effects, these accounts from the postings: two ways
        # to the same money, and each must come to what the other says.
        fund, names = self.state.funds[currency], accounts_of(currency)
        for account, balance in (
            (names.available, fund.available),
            (names.reserved, fund.reserved),
            (names.shortfall, fund.shortfall),
        ):
            posted = self._accounts.get(account, ZERO)
            if posted != balance:
                self.report.find(sequence, f"{account} is {posted}, its effects say {balance}")
        check_fund(self.state, currency, fund)

    def _check_closed(self, sequence: int, effect: fx.LiquidationClosed) -> None:
        # That its totals are those of its life was held when it was evolved.
        account = accounts_of(effect.margin_currency).liquidation + effect.liquidation_id
        if self._accounts.pop(account, ZERO):
            self.report.find(sequence, f"{account} is closed and not zero")

    def finish(self) -> Report:
        """End the audit."""
        report, last = self.report, self.report.entries - 1
        # Where a link is broken, nothing but the very last entry can be the one that is witnessed.
        grown = self._witnessed is not None and not self._broken_links
        unknown = self._head not in (None, report.head) and not grown
        if self._head is None:
            report.notes.append(
                "the last entry is not witnessed: give --head, or keep the .head.json of an export"
            )
        elif grown and self._witnessed != last:
            report.notes.append(
                f"the witness knows sequence {self._witnessed}; what came after it, up to {last}, "
                "is not witnessed"
            )
        for place in self._blamed(head_differs=unknown):
            report.find(place, "its bytes were altered, or an entry beside it is gone")
        if unknown:
            report.find(
                max(last, 0),
                f"the ledger's head is {report.head}, not {self._head}: "
                "entries were altered or cut off",
            )
        report.findings.sort(key=lambda f: -1 if f.sequence is None else f.sequence)
        return report

    def _blamed(self, *, head_differs: bool) -> list[int]:
        # A link is broken between two entries. An entry whose links are broken on both sides was
        # altered itself; with one side broken it is the earlier one that is not what was hashed.
        broken = set(self._broken_links)
        if head_differs:
            broken.add(self.report.entries)
        blamed = []
        for place in sorted(broken):
            if place + 1 in broken:
                blamed.append(place)
            elif place - 1 not in broken:
                blamed.append(max(place - 1, 0))
        return blamed


def _by_currency(told: dict[str, Decimal]) -> Postings:
    books: Postings = {}
    for account, amount in told.items():
        books.setdefault(account.split(":", 2)[1], {})[account] = amount
    return books
