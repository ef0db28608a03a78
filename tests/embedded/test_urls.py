"""Log URLs."""

from pathlib import Path

import pytest

from insurance_fund.events.errors import SettingsError
from insurance_fund.streams.urls import DEFAULT_LOG_URL, KafkaUrl, SqliteUrl, parse_log_url


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
    assert parse_log_url(url) == SqliteUrl(Path(path))


@pytest.mark.parametrize(
    ("url", "brokers", "prefix"),
    [
        ("kafka://broker-1:9092,broker-2:9093", ("broker-1:9092", "broker-2:9093"), ""),
        ("kafka://broker", ("broker:9092",), ""),
        ("kafka://[::1]:19092/", ("[::1]:19092",), ""),
        ("kafka://127.0.0.1:9092/staging.eu", ("127.0.0.1:9092",), "staging.eu"),
    ],
)
def test_a_kafka_url_names_brokers_and_perhaps_a_prefix(
    url: str, brokers: tuple[str, ...], prefix: str
) -> None:
    assert parse_log_url(url) == KafkaUrl(brokers, prefix)


def test_a_prefix_stands_before_every_name() -> None:
    assert KafkaUrl(("b:1",), "eu").name("fills") == "eu.fills"
    assert KafkaUrl(("b:1",)).name("fills") == "fills"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka:broker", "is no log URL"),
        ("kafka://", "is no log URL"),
        ("kafka://a:9092,,b:9092", "is no log URL"),
        ("kafka://a b:9092", "is no log URL"),
        ("kafka://a:0", "0 is no port"),
        ("kafka://a:65536", "65536 is no port"),
        ("kafka://a:9092/a/b", "a prefix has"),
        ("kafka://a:9092/.", "a prefix has"),
        ("kafka://me:secret@a:9092", r"no user, password or option"),
        ("kafka://a:9092?password=secret", r"no user, password or option"),
    ],
)
def test_a_kafka_url_of_another_form_is_refused_without_its_secret(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        parse_log_url(url)
    assert "secret" not in str(refused.value)


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
