"""Faust workers sign on as the settings say, and need two rights."""

from __future__ import annotations

from pathlib import Path

import pytest

from insurance_fund.streams.urls import KafkaUrl
from tests.kafka.acls import Acl
from tests.kafka.security import PASSWORDS, SecureCluster, bearer_token
from tests.kafka.topics import make_topics
from tests.projections.faust_site import Site, busy_ledger, open_site, open_writer

LINES = busy_ledger(5)


def _sign_on(secured: SecureCluster, way: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Return where a way to sign on is served, and the settings for it."""
    tls = {"KAFKA_CA_FILE": str(secured.ca_file)}
    user = {"KAFKA_USERNAME": "fund", "KAFKA_PASSWORD": PASSWORDS["fund"]}
    if way == "scram":
        return secured.scram, {**tls, **user, "KAFKA_SECURITY": "sasl_ssl"}
    if way == "plain":
        plain = {"KAFKA_SECURITY": "sasl_plaintext", "KAFKA_SASL_MECHANISM": "PLAIN"}
        return secured.sasl_plaintext, {**user, **plain}
    if way == "certificate":
        certificate, key = map(str, secured.certificate("fund"))
        files = {"KAFKA_CERTIFICATE_FILE": certificate, "KAFKA_KEY_FILE": key}
        return secured.tls, {**tls, **files, "KAFKA_SECURITY": "ssl"}
    token = folder / "token"
    token.write_text(bearer_token("fund"), encoding="utf-8")
    bearer = {"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_TOKEN_FILE": str(token)}
    return secured.oauth, {**tls, **bearer, "KAFKA_SECURITY": "sasl_ssl"}


def _allow(site: Site, bootstrap: str, prefix: str, settings: dict[str, str]) -> None:
    site.environment |= {**settings, "LOG": f"kafka://{bootstrap}/{prefix}"}


def _rights(prefix: str) -> tuple[Acl, Acl]:
    group = f"{prefix}.insurance-fund.projections"
    return (
        Acl("fund", "topic", f"{prefix}.fund-ledger", "read"),
        Acl("fund", "group", group, "read"),
    )


async def _made(secured: SecureCluster, prefix: str) -> KafkaUrl:
    return await make_topics(secured.cluster.bootstrap, prefix, ("main",))


@pytest.mark.parametrize("way", ["scram", "plain", "certificate", "token"])
async def test_worker_signs_on_and_needs_read_on_the_ledger_and_on_its_group(
    secured: SecureCluster, prefix: str, tmp_path: Path, way: str
) -> None:
    url = await _made(secured, prefix)
    await secured.grant(*_rights(prefix))
    async with open_site(tmp_path, url) as site, open_writer(site) as writer:
        _allow(site, *_with_prefix(secured, way, tmp_path, prefix))
        await site.serve()
        await writer.commit(LINES)
        await site.until(len(LINES) - 1)


@pytest.mark.parametrize("missing", [0, 1])
async def test_worker_without_a_right_ends_and_names_it(
    secured: SecureCluster, prefix: str, tmp_path: Path, missing: int
) -> None:
    url = await _made(secured, prefix)
    rights = _rights(prefix)
    await secured.grant(rights[1 - missing])
    async with open_site(tmp_path, url) as site:
        _allow(site, *_with_prefix(secured, "scram", tmp_path, prefix))
        worker = await site.start()
        assert await worker.ended() == 2
        (told,) = [line for line in worker.lines if line.startswith("error: ")]
        assert rights[missing].name in told


def _with_prefix(
    secured: SecureCluster, way: str, folder: Path, prefix: str
) -> tuple[str, str, dict[str, str]]:
    bootstrap, settings = _sign_on(secured, way, folder)
    return bootstrap, prefix, settings
