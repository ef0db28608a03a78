"""Determinism: the same records give the same bytes, whatever process folds them.

A ledger is folded in processes that differ in all that `events/` and `fund/` must not look at; and
their source is searched for the ways in which it could.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from insurance_fund.events import topics
from insurance_fund.fund.state import snapshot_bytes
from tests.unit.life import BTCUSDT, ETHUSD, XBTUSD, Life

ROOT: Final = Path(__file__).parents[2]
SCENARIO: Final = ROOT / "examples" / "scenario"
COMMAND: Final = Path(sys.executable).with_name("insurance-fund")
WORLDS: Final[dict[str, dict[str, str]]] = {
    "plain": {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
    "hash seed": {"PYTHONHASHSEED": "1"},
    "another hash seed": {"PYTHONHASHSEED": "31337"},
    "time zone": {"TZ": "Asia/Kathmandu"},
    "language": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    "no language": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no cache": {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONMALLOC": "malloc"},
    "batches of one": {"INSURANCE_FUND_BATCH_MAX": "1"},
    "batches of seven": {"INSURANCE_FUND_BATCH_MAX": "7"},
}


def crowded_life() -> Life:
    """A life in which many records wait for each other, in several currencies."""
    life = Life(instruments=())
    instruments = (BTCUSDT, XBTUSD, ETHUSD)
    for round_number in range(3):
        for number in range(9):
            terms = instruments[number % 3]
            name = f"liq-{round_number}-{number}"
            about = {
                "instrument_id": terms["instrument_id"],
                "margin_currency": terms.get("margin_currency", "USDT"),
            }
            for fill in range(3):
                life.fill("1", name=f"f{fill}", order=f"{name}:1", **about)
            life.report(f"{name}:1", "expired", "4", margin_currency=about["margin_currency"])
            life.take_over(name, margin="3", **about)
        for terms in instruments:
            life.send("instruments", "instrument_defined", **terms)
        life.deposit("2", "XBT", f"d-{round_number}")
        life.wait(200_000)
    return life


def digest() -> str:
    """Return one hash of all that a life wrote, sent out and came to."""
    life = crowded_life()
    said = b"\n".join([*life.lines, snapshot_bytes(life.state)])
    return hashlib.sha256(said).hexdigest()


def environment(world: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSURANCE_FUND_")}
    return {**inherited, **WORLDS[world]}


@pytest.mark.parametrize("world", WORLDS)
def test_life_is_the_same_to_the_byte_in_every_process(world: str) -> None:
    script = "from tests.unit.test_determinism import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=ROOT,
        env=environment(world),
        capture_output=True,
        timeout=60,
    )
    assert done.stdout.decode().strip() == digest()


def test_life_that_is_compared_has_records_that_wait_for_each_other() -> None:
    kinds = b"".join(crowded_life().lines)
    for kind in (b"record_parked", b"fill_booked", b"adl_triggered", b"fills_missing"):
        assert kinds.count(b'"type":"%b"' % kind) >= 9


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that holds the scenario of the examples and no ledger yet."""
    path = tmp_path_factory.mktemp("published") / "log.db"
    for topic in topics.INPUT_TOPICS:
        subprocess.run(
            [COMMAND, "publish", topic, SCENARIO / f"{topic}.ndjson", "--log", f"sqlite:{path}"],
            check=True,
            capture_output=True,
            timeout=60,
        )
    return path


def test_run_of_the_scenario_writes_the_same_bytes_in_every_process(
    published: Path, tmp_path: Path
) -> None:
    ledgers = {}
    for number, world in enumerate(WORLDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(published, folder / "insurance-fund.db")
        for command in (
            ("run", "--clock", "event", "--until-idle", "--policy", str(SCENARIO / "policy.json")),
            ("export", "ledger.ndjson"),
        ):
            done = subprocess.run(
                [COMMAND, *command],
                check=False,
                cwd=folder,
                env=environment(world),
                capture_output=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
        ledgers[world] = (folder / "ledger.ndjson").read_bytes()
    assert len(ledgers["plain"].splitlines()) > 50
    assert {world for world, ledger in ledgers.items() if ledger != ledgers["plain"]} == set()


# What a pure module must not import, beside what comes below these names.
IMPURE: Final = frozenset(
    {
        *("time", "datetime", "zoneinfo", "calendar", "sched"),
        *("random", "secrets", "uuid"),
        *("os", "sys", "platform", "locale", "gettext", "getpass", "pwd", "site"),
        *("socket", "ssl", "http", "urllib", "select", "selectors"),
        *("threading", "asyncio", "multiprocessing", "concurrent", "subprocess", "signal", "queue"),
        *("io", "pathlib", "tempfile", "shutil", "glob", "sqlite3", "pickle", "logging"),
        *("gc", "weakref", "inspect", "ctypes", "fractions", "statistics", "math", "cmath"),
    }
)
IMPURE_CALLS: Final = frozenset({"hash", "id", "open", "input", "eval", "exec", "print"})
# These take what they iterate over in any order to the same result.
ORDERLESS: Final = frozenset({"sorted", "len", "sum", "any", "all", "set", "frozenset"})
ORDERED: Final = frozenset(
    {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "dict", "min", "max"}
)
ORDERED_METHODS: Final = frozenset(
    {"join", "extend", "fromkeys", "chain", "from_iterable", "writelines"}
)
SET_METHODS: Final = frozenset(
    {"union", "intersection", "difference", "symmetric_difference", "copy"}
)

# What is found all the same, and why it may be.
ALLOWED: Final = {
    (
        "fund/policy.py",
        "import of pathlib",
    ): "`load_policy` reads the file that the operator names; "
    "what `decide` sees is the policy in the ledger",
    ("events/schemas.py", "import of pathlib"): "the generator of the schema files is no part of "
    "the fold",
    ("events/schemas.py", "division with /"): "joins a path, in the generator",
}


class Offence(NamedTuple):
    """Something that could make two processes decide differently."""

    line: int
    what: str


class _Purity(ast.NodeVisitor):
    """Collects offences of one module.

    Sets are known by how they are written (literals, comprehensions, calls, annotations, `keys()`
    combined) and by the names that such values are given anywhere in the module.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[Offence] = []
        self._sets: set[str] = set()
        self._orderless: set[int] = set()
        before = -1
        while before != len(self._sets):
            before = len(self._sets)
            for node in ast.walk(tree):
                self._note_names(node)
        self.visit(tree)

    def _note_names(self, node: ast.AST) -> None:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign) and self._is_set(node.value):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            annotated = isinstance(node, ast.AnnAssign) and _is_set_type(node.annotation)
            if annotated or (node.value is not None and self._is_set(node.value)):
                targets = [node.target]
        elif isinstance(node, ast.arg) and _is_set_type(node.annotation):
            self._sets.add(node.arg)
        elif isinstance(node, ast.FunctionDef) and _is_set_type(node.returns):
            self._sets.add(node.name)
        self._sets.update(name for target in targets if (name := _name_of(target)))

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in SET_METHODS:
                return self._is_set(value)
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return any(self._is_set(side) or _is_keys(side) for side in (left, node.right))
            case ast.IfExp():
                return self._is_set(node.body) or self._is_set(node.orelse)
            case ast.Subscript(value=ast.Name(id="set" | "frozenset")):
                return True
            case ast.Call(func=func):
                return _name_of(func) in self._sets or self._is_set(func)
            case ast.Name() | ast.Attribute():
                return _name_of(node) in self._sets
        return False

    def _offend(self, node: ast.AST, what: str) -> None:
        self.found.append(Offence(getattr(node, "lineno", 0), what))

    def _iterates(self, node: ast.expr) -> None:
        if self._is_set(node):
            self._offend(node, "order of a set")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._check_module(node, node.module or "")

    def _check_module(self, node: ast.AST, name: str) -> None:
        top = name.partition(".")[0]
        if top in IMPURE:
            self._offend(node, f"import of {top}")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in ("float", "complex", "__import__"):
            self._offend(node, node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float | complex):
            self._offend(node, "float literal")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Div):
            self._offend(node, "division with /")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Div):
            self._offend(node, "division with /")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Name(id=name) if name in ORDERLESS:
                self._orderless.update(id(argument) for argument in node.args)
            case ast.Name(id=name) if name in ORDERED:
                self._each_iterates(node.args)
            case ast.Attribute(attr=name) if name in ORDERED_METHODS:
                self._each_iterates(node.args)
            case ast.Attribute(attr="pop", value=value) if not node.args:
                self._iterates(value)
            case ast.Name(id=name) | ast.Attribute(attr="open" as name) if name in IMPURE_CALLS:
                self._offend(node, f"{name}()")
        self.generic_visit(node)

    def _each_iterates(self, arguments: list[ast.expr]) -> None:
        for argument in arguments:
            self._iterates(argument)

    def visit_For(self, node: ast.For) -> None:
        self._iterates(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._iterates(node.value)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Tuple | ast.List) for target in node.targets):
            self._iterates(node.value)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node, node.generators)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node, node.generators)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, node.generators)

    def _comprehension(self, node: ast.expr, generators: list[ast.comprehension]) -> None:
        if id(node) not in self._orderless:
            for generator in generators:
                self._iterates(generator.iter)
        self.generic_visit(node)


def _name_of(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _is_keys(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="keys" | "items")):
            return True
    return False


def _is_set_type(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    return ast.unparse(annotation).partition("[")[0] in ("set", "frozenset", "Set", "AbstractSet")


def offences(source: str) -> list[Offence]:
    """Return what could make a module's results depend on the process that it runs in."""
    return sorted(_Purity(ast.parse(source)).found)


def pure_modules() -> Iterator[Path]:
    for room in ("events", "fund"):
        yield from sorted((ROOT / room).rglob("*.py"))


def test_nothing_in_events_and_fund_depends_on_the_process_it_runs_in() -> None:
    found = {
        (str(path.relative_to(ROOT)), offence.what): offence.line
        for path in pure_modules()
        for offence in offences(path.read_text(encoding="utf-8"))
    }
    assert {where: line for where, line in found.items() if where not in ALLOWED} == {}
    assert set(ALLOWED) - set(found) == set(), "these are no longer needed"
    assert len(list(pure_modules())) > 20


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import time", "import of time"),
        ("import os.path", "import of os"),
        ("from datetime import datetime", "import of datetime"),
        ("from os import environ", "import of os"),
        ("def f():\n    import random", "import of random"),
        ("import decimal, uuid", "import of uuid"),
        ("import secrets", "import of secrets"),
        ("import locale", "import of locale"),
        ("import socket", "import of socket"),
        ("import threading", "import of threading"),
        ("import asyncio", "import of asyncio"),
        ("__import__('time')", "__import__"),
        ("x = float('1')", "float"),
        ("x = list(map(float, y))", "float"),
        ("x = 0.5", "float literal"),
        ("x = 1e3", "float literal"),
        ("x = a / b", "division with /"),
        ("x /= 2", "division with /"),
        ("x = hash(y)", "hash()"),
        ("x = sorted(y, key=id)\nz = id(y)", "id()"),
        ("open('x')", "open()"),
        ("path.open()", "open()"),
        ("for x in {1, 2}: pass", "order of a set"),
        ("for x in set(y): pass", "order of a set"),
        ("x = [y for y in set(z)]", "order of a set"),
        ("x = {y: 1 for y in frozenset(z)}", "order of a set"),
        ("x = list(set(y))", "order of a set"),
        ("x = tuple({y for y in z})", "order of a set"),
        ("x = ','.join({'a', 'b'})", "order of a set"),
        ("x = ','.join(y for y in set(z))", "order of a set"),
        ("x = [*set(y)]", "order of a set"),
        ("f(*set(y))", "order of a set"),
        ("(x,) = set(y)", "order of a set"),
        ("x = set(y)\nfor z in x: pass", "order of a set"),
        ("self.x = set()\nfor z in self.x: pass", "order of a set"),
        ("x: set[str] = f()\ny = list(x)", "order of a set"),
        ("def f(x: set[str]):\n    return [y for y in x]", "order of a set"),
        ("def f() -> set[str]: ...\nx = list(f())", "order of a set"),
        ("x = set(y)\nz = x\nw = list(z)", "order of a set"),
        ("for x in a.keys() - b.keys(): pass", "order of a set"),
        ("for x in set(a) | b: pass", "order of a set"),
        ("x = set(y).pop()", "order of a set"),
        ("x = next(iter(set(y)))", "order of a set"),
        ("x = min(set(y), key=f)", "order of a set"),
        ("x = dict.fromkeys(set(y))", "order of a set"),
        ("x.extend(set(y))", "order of a set"),
        ("x = set[str]()\nfor y in x: pass", "order of a set"),
        ("if (x := set(y)):\n    list(x)", "order of a set"),
    ],
)
def test_search_finds_what_is_planted(source: str, what: str) -> None:
    assert what in {offence.what for offence in offences(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import decimal, json, msgspec, orjson, hashlib, heapq",
        "from insurance_fund.events import effects",
        "x = a // b + divmod(c, d)[0]",
        "x = sorted(set(y))",
        "x = sorted(z for z in set(y))",
        "for x in sorted({1, 2}): pass",
        "x = len(set(y)) == 1 and a in {1, 2}",
        "x = a.keys() <= b and not c.keys() - d",
        "x = any(y for y in set(z))",
        "for x in {1: 2}: pass",
        "for x in [1, 2]: pass",
        "x = {}\nfor y in x: pass",
        "x = [y for y in z.values()]",
        "x.id = y.hash",
        "x = z.pop(0)",
        "hint is bool",
    ],
)
def test_search_finds_nothing_in_what_is_pure(source: str) -> None:
    assert offences(source) == []
