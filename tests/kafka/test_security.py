"""The secured node knows its users by each of the ways to sign on, and refuses the others."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from aiokafka.helpers import create_ssl_context

from tests.kafka.acls import Acl
from tests.kafka.security import PASSWORDS, SecureCluster, bearer_token

WAYS = ["scram-512", "scram-256", "certificate", "token", "plain"]


class _Token(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


def _connection(secured: SecureCluster, way: str, user: str) -> dict[str, Any]:
    tls = create_ssl_context(cafile=secured.ca_file)
    password = {"sasl_plain_username": user, "sasl_plain_password": PASSWORDS[user]}
    match way:
        case "scram-512" | "scram-256":
            return {
                "bootstrap_servers": secured.scram,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": f"SCRAM-SHA-{way[-3:]}",
                "ssl_context": tls,
                **password,
            }
        case "certificate":
            certificate, key = secured.certificate(user)
            tls.load_cert_chain(certificate, key)
            return {
                "bootstrap_servers": secured.tls,
                "security_protocol": "SSL",
                "ssl_context": tls,
            }
        case "token":
            return {
                "bootstrap_servers": secured.oauth,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "OAUTHBEARER",
                "sasl_oauth_token_provider": _Token(bearer_token(user)),
                "ssl_context": tls,
            }
        case _:
            return {
                "bootstrap_servers": secured.sasl_plaintext,
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                **password,
            }


@pytest.mark.parametrize("way", WAYS)
async def test_user_may_write_as_long_as_it_is_granted(
    secured: SecureCluster, prefix: str, way: str
) -> None:
    await secured.cluster.make_topic(prefix)
    right = Acl("fund", "topic", prefix, "write")
    await secured.grant(right)
    async with AIOKafkaProducer(**_connection(secured, way, "fund")) as producer:
        await producer.send_and_wait(prefix, b"one")
    async with AIOKafkaProducer(**_connection(secured, way, "stranger")) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(prefix, b"one")
    await secured.revoke(right)
    async with AIOKafkaProducer(**_connection(secured, way, "fund")) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(prefix, b"two")


async def test_super_user_needs_no_grant(secured: SecureCluster, prefix: str) -> None:
    await secured.cluster.make_topic(prefix)
    async with AIOKafkaProducer(**_connection(secured, "scram-512", "admin")) as producer:
        await producer.send_and_wait(prefix, b"one")


@pytest.mark.parametrize("way", ["scram-512", "plain"])
async def test_wrong_password_is_refused(secured: SecureCluster, way: str) -> None:
    wrong = {**_connection(secured, way, "fund"), "sasl_plain_password": "guessed"}
    await _assert_refused(wrong)


async def test_expired_token_is_told_of_no_broker(secured: SecureCluster) -> None:
    # aiokafka overlooks the refusal in the broker's answer and takes it for an empty cluster.
    connection = _connection(secured, "token", "fund")
    async with AIOKafkaProducer(**connection) as producer:
        assert producer.client.cluster.brokers()
    token = _Token(bearer_token("fund", lifetime_s=-60))
    async with AIOKafkaProducer(**{**connection, "sasl_oauth_token_provider": token}) as producer:
        assert not producer.client.cluster.brokers()


async def test_certificate_of_another_authority_is_refused(secured: SecureCluster) -> None:
    _, certificate, key = secured.stranger_certificate("fund")
    tls = create_ssl_context(cafile=secured.ca_file)
    tls.load_cert_chain(certificate, key)
    await _assert_refused({**_connection(secured, "certificate", "fund"), "ssl_context": tls})


async def _assert_refused(connection: dict[str, Any]) -> None:
    producer = AIOKafkaProducer(**connection)
    with pytest.raises(KafkaConnectionError):
        await producer.start()
    await producer.stop()
