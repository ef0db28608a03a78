"""Adapters: functions that make our messages of an exchange's own records.

An adapter takes the bytes of a record and returns the message as a dict of our fields, or None for
a record that is not for the fund. It has to be a function of the bytes alone: after a restart, and
in event mode, a record may go through it again.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from insurance_fund.events.adapted import Adapted
from insurance_fund.events.codec import DEPTH_MAX, is_too_deep
from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.sources.binance_order_update import order_update

Function = Callable[[bytes], dict[str, Any] | None]

OURS: Final[Mapping[str, Function]] = {"binance-order-update": order_update}
ERROR_LENGTH_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Adapter:
    """A function that makes our messages, under its name in the settings."""

    def __init__(self, name: str, function: Function) -> None:
        self.name = name
        self._function = function

    def adapt(self, value: bytes, bytes_max: int) -> Adapted | None:
        """Return what the function makes of a record, None where it is not for the fund.

        Whatever goes wrong in it is an `error` in what is returned; nothing is raised.
        """
        try:
            fields = self._function(value)
            if fields is None:
                return None
            if not isinstance(fields, dict):
                return self._failed(f"it returned {type(fields).__name__}, neither dict nor None")
            message = orjson.dumps(fields)
        except Exception as error:  # noqa: BLE001 - it is not our code; the record is refused
            return self._failed(_told(error))
        if len(message) > bytes_max:
            return self._failed(f"its message has {len(message)} bytes, above record_bytes_max")
        if is_too_deep(message):
            return self._failed(f"its message is nested more than {DEPTH_MAX} levels deep")
        return Adapted(self.name, message)

    def _failed(self, error: str) -> Adapted:
        return Adapted(self.name, None, error)


def _told(error: Exception) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - not our code either
        text = type(error).__name__
    # In ASCII, so that anything can be written down.
    return ascii(text)[1:-1][:ERROR_LENGTH_MAX]


def is_adapter_name(name: str) -> bool:
    """Tell whether a name is that of one of our adapters, or has the form `module:function`."""
    return name in OURS or _NAME.fullmatch(name) is not None


def load_adapters(names: Mapping[str, str]) -> dict[str, Adapter]:
    """Return the adapters of the inputs, given their names; their modules are imported.

    Raises SettingsError for one that cannot be had, saying what to do.
    """
    return {topic: _load(f"inputs.{topic}.adapter", name) for topic, name in names.items()}


def _load(setting: str, name: str) -> Adapter:
    if name in OURS:
        return Adapter(name, OURS[name])
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of theirs may raise anything
        where = ""
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or ":"):
            where = (
                "; put the folder that it stands in on Python's path, for example "
                "PYTHONPATH=. for the current one"
            )
        raise SettingsError(
            f"{setting}: {module_name} cannot be imported: {_told(error)}{where}"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise SettingsError(f"{setting}: {module.__file__} has no {function_name}")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise SettingsError(
            f"{setting}: {function_name} of {module.__file__} is no plain function of a record's "
            "bytes"
        )
    return Adapter(name, function)
