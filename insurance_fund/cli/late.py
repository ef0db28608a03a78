"""Commands that are loaded by those who ask for them: web servers and databases take their time.

A fund that is started again, perhaps in the middle of a crash, waits for neither.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import typer
import typer.main
from typer.core import TyperGroup

from insurance_fund.cli import common

# Where each is found, and in front of which other command it is listed.
LATE: Final = {
    "demo": ("insurance_fund.cli.demo", "demo", "publish"),
    "serve": ("insurance_fund.cli.serve", "serve", "exchange"),
    "projections": ("insurance_fund.cli.projections", "projections_app", "config"),
}


class LateGroup(TyperGroup):
    """A group of commands some of which are loaded when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order in which they are shown."""
        names = super().list_commands(ctx)
        for name, (_, _, behind) in LATE.items():
            names.insert(names.index(behind), name)
        return names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, loaded if it was not yet; None for one that there is not."""
        if cmd_name not in LATE:
            return super().get_command(ctx, cmd_name)
        if cmd_name not in self.commands:
            module, attribute, _ = LATE[cmd_name]
            found = getattr(importlib.import_module(module), attribute)
            command = typer.main.get_command(
                found if isinstance(found, typer.Typer) else _of(found)
            )
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]


def _of(function: Any) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=common.EXIT_CODES)(function)
    return app
