"""Log URLs."""

from pathlib import Path

import pytest

from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.urls import DEFAULT_LOG_URL, parse_log_url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (DEFAULT_LOG_URL, "insurance-fund.db"),
        ("sqlite:data/log.db", "data/log.db"),
        ("sqlite:/var/lib/fund/log.db", "/var/lib/fund/log.db"),
        ("sqlite:a b?mode=ro#1:2.db", "a b?mode=ro#1:2.db"),
    ],
)
def test_a_sqlite_url_names_a_path_as_it_stands(url: str, path: str) -> None:
    assert parse_log_url(url) == Path(path)


@pytest.mark.parametrize("url", ["kafka://broker-1:9092,broker-2:9092", "kafka:broker"])
def test_kafka_is_said_to_come_later(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^Kafka comes with a later release: use sqlite:PATH$"):
        parse_log_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite",
        "sqlite:",
        "sqlite: ",
        "sqlite:///log.db",
        "sqlite::memory:",
        "SQLITE:log.db",
        "log.db",
        "postgres://localhost/fund",
        "kafka",
    ],
)
def test_any_other_form_is_refused_with_the_form_that_is_accepted(url: str) -> None:
    with pytest.raises(SettingsError, match="is no log URL: write sqlite:PATH"):
        parse_log_url(url)
