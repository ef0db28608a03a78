"""The settings of inputs: what the bus calls a topic of ours, and in whose form its records are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from insurance_fund.events import topics
from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.adapters import OURS, is_adapter_name

KEYS: Final = ("topic", "adapter")
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_WRITTEN: Final = (*topics.OUTPUT_TOPICS, topics.FUND_LEDGER, topics.FUND_SNAPSHOTS)


@dataclass(frozen=True, slots=True)
class InputSource:
    """The bus's name of an input topic, and the adapter of its records, None where they are ours.

    `given` says which of the two stand in the settings.
    """

    topic: str
    adapter: str | None
    given: frozenset[str]


def read_inputs(document: Any) -> dict[str, InputSource]:
    """Return the inputs that the table `[inputs]` of a settings file tells of, by our topic.

    Raises SettingsError with the name of what is wrong.
    """
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError('inputs must be tables: [inputs.fills] with, say, topic = "trades"')
    found = {name: _source(name, table) for name, table in document.items()}
    read_from: dict[str, str] = {}
    for name in topics.INPUT_TOPICS:
        topic = found[name].topic if name in found else name
        other = read_from.setdefault(topic, name)
        if other != name:
            raise SettingsError(
                f"inputs: {other} and {name} are both read from the topic {topic}; each input has "
                "a topic of its own"
            )
    return found


def _source(name: str, table: Any) -> InputSource:
    if name not in topics.INPUT_TOPICS:
        raise SettingsError(
            f"inputs: no input topic {name!r}; one of: {', '.join(topics.INPUT_TOPICS)}"
        )
    if not isinstance(table, dict):
        raise SettingsError(
            f'inputs.{name} must be a table: [inputs.{name}] with, say, topic = "trades"'
        )
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise SettingsError(
            f"inputs.{name}: unknown setting {unknown[0]!r}; known are: {', '.join(KEYS)}"
        )
    return InputSource(_topic(name, table), _adapter(name, table), frozenset(table))


def _topic(name: str, table: Mapping[str, Any]) -> str:
    topic = table.get("topic", name)
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        raise SettingsError(
            f"inputs.{name}.topic must be the name of a topic: at most 249 of A-Z a-z 0-9 . _ -; "
            f"got {topic!r}"
        )
    if topic in _WRITTEN:
        raise SettingsError(f"inputs.{name}.topic: {topic} is a topic that the fund itself writes")
    return topic


def _adapter(name: str, table: Mapping[str, Any]) -> str | None:
    if "adapter" not in table:
        return None
    adapter = table["adapter"]
    if not isinstance(adapter, str) or not is_adapter_name(adapter):
        raise SettingsError(
            f'inputs.{name}.adapter must be a function, as "module:function", or one of: '
            f"{', '.join(OURS)}; got {adapter!r}"
        )
    return adapter
