"""What people see: text, tables and progress bars. Whatever comes from records is plain text."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

# Where nobody looks at a terminal, a table may be this wide before it is turned round.
PIPE_WIDTH: Final = 200
ROWS_SHOWN: Final = 50
_WIDEST: Final = 100_000


def _console(*, to_errors: bool) -> Console:
    # Brackets in a record, an id or the name of a file are brackets, no styles.
    stream = sys.stderr if to_errors else sys.stdout
    on_terminal = stream is not None and stream.isatty()
    return Console(
        stderr=to_errors,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if on_terminal else PIPE_WIDTH,
    )


console = _console(to_errors=False)
errors = _console(to_errors=True)


class Format(enum.StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


def plain(text: str) -> str:
    """Return a text as one line for a terminal: what is no printable character is replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def say(text: str, head: str = "", style: str = "bold") -> None:
    """Print a result on standard output, behind a head that stands out."""
    console.print(Text.assemble((plain(head), style), plain(text)))


def complain(text: str, head: str = "", style: str = "bold red") -> None:
    """Print what a person should know on standard error."""
    errors.print(Text.assemble((plain(head), style), plain(text)))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 record`, `2 records`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def show_rows(
    title: str, rows: Sequence[dict[str, Any]], texts: Sequence[str], numbers: Sequence[str]
) -> None:
    """Print rows as a table or, where that is too wide for the terminal, one below the other.

    `texts` and `numbers` are the columns, aligned left and right; amounts are never broken.
    """
    if not rows:
        say(f"{title}: none")
        return
    columns = (*texts, *numbers)
    cells = [["" if row[c] is None else plain(str(row[c])) for c in columns] for row in rows]
    heads = [column.replace("_", " ") for column in columns]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head, column in zip(heads, columns, strict=True):
        table.add_column(head, justify="right" if column in numbers else "left", no_wrap=True)
    for row in cells[:ROWS_SHOWN]:
        table.add_row(*row)
    natural = Measurement.get(console, console.options.update(max_width=_WIDEST), table)
    if natural.maximum <= console.width:
        console.print(table)
    else:
        _show_turned(title, heads, cells[:ROWS_SHOWN])
    if len(rows) > ROWS_SHOWN:
        say(f"and {len(rows) - ROWS_SHOWN} more (--format json has all)")


def _show_turned(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say("", head=title, style="italic")
    width = max(map(len, heads))
    for row in rows:
        for head, cell in zip(heads, row, strict=True):
            say(f"  {head:{width}}  {cell}")
        say("")


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error while something long runs.

    Gives a function that takes (done, total).
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(plain(what), total=total)

        def moved(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield moved
