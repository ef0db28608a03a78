"""Invariants of the books (docs/rules.md section 3), checked before an entry is written."""

from __future__ import annotations

from insurance_fund.events.amounts import ZERO
from insurance_fund.events.errors import InvariantError
from insurance_fund.events.postings import Postings
from insurance_fund.fund.state import Fund, State


def check_entry(state: State, postings: Postings) -> None:
    """Raise InvariantError unless the postings balance and the funds they touch add up."""
    for currency, book in postings.items():
        total = sum(book.values())
        if total:
            raise InvariantError(f"postings in {currency} sum to {total}, not zero", state.sequence)
        check_fund(state, currency, state.funds[currency])


def check_fund(state: State, currency: str, fund: Fund) -> None:
    """Raise InvariantError unless one fund's balances agree with each other."""
    if fund.available < ZERO or fund.reserved < ZERO or fund.shortfall > ZERO:
        raise InvariantError(f"the {currency} fund is below zero: {fund}", state.sequence)
    if fund.reserved != fund.held:
        raise InvariantError(
            f"{currency}: reserved {fund.reserved} is not the sum of all reservations {fund.held}",
            state.sequence,
        )
    if fund.total + fund.shortfall != fund.transfers + fund.deltas:
        raise InvariantError(
            f"{currency}: available + reserved + shortfall is not transfers + deltas: {fund}",
            state.sequence,
        )
