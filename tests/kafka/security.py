"""A node that lets nobody in without credentials, and the credentials.

Its listeners: SASL_SSL takes SCRAM-SHA-512 and SCRAM-SHA-256; SSL takes client certificates; OAUTH
takes OAUTHBEARER over TLS, believing unsigned tokens; SASL_PLAINTEXT takes PLAIN and both SCRAMs.
PLAINTEXT is the back door of the tests' own machinery: everybody is a super user there.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Final

import trustme
from cryptography.hazmat.primitives import serialization

from tests.kafka.acls import Acl, grant, revoke
from tests.kafka.cluster import Cluster
from tests.kafka.node import HOST, Runtime

# Users with passwords; admin may do everything, the others what they are granted.
PASSWORDS: Final = {"admin": "admin-secret", "fund": "fund-secret", "stranger": "stranger-secret"}

_LISTENERS: Final = {
    "SASL_SSL": "SASL_SSL",
    "SSL": "SSL",
    "OAUTH": "SASL_SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
}
_LOGIN: Final = "org.apache.kafka.common.security"
_SCRAM: Final = f"{_LOGIN}.scram.ScramLoginModule required;"
_PLAIN: Final = f"{_LOGIN}.plain.PlainLoginModule required"
_OAUTH: Final = f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required"


class SecureCluster:
    """One node with access control, certificates of an authority of its own, users and tokens."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self._authority = trustme.CA()
        self._files = folder / "certificates"
        self._files.mkdir(parents=True)
        self.ca_file = self._files / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)
        self.cluster = Cluster(
            runtime,
            folder,
            listeners=_LISTENERS,
            properties=self._properties(),
            format_arguments=[
                argument
                for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
                for user, password in PASSWORDS.items()
                for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
            ],
        )

    @property
    def scram(self) -> str:
        """The address for SCRAM over TLS."""
        return self.cluster.bootstrap_for("SASL_SSL")

    @property
    def tls(self) -> str:
        """The address for client certificates."""
        return self.cluster.bootstrap_for("SSL")

    @property
    def oauth(self) -> str:
        """The address for bearer tokens over TLS."""
        return self.cluster.bootstrap_for("OAUTH")

    @property
    def sasl_plaintext(self) -> str:
        """The address for passwords without TLS."""
        return self.cluster.bootstrap_for("SASL_PLAINTEXT")

    def certificate(self, user: str) -> tuple[Path, Path]:
        """Returns the files of a client certificate and its key, which sign on as the user."""
        issued = self._authority.issue_cert(f"{user}.test", common_name=user)
        certificate = self._files / f"{user}.pem"
        key = self._files / f"{user}-key.pem"
        certificate.write_bytes(_chain(issued))
        key.write_bytes(_pkcs8(issued))
        return certificate, key

    def stranger_certificate(self, user: str) -> tuple[Path, Path, Path]:
        """Returns CA, certificate and key of another authority, which the node does not trust."""
        authority = trustme.CA()
        issued = authority.issue_cert(f"{user}.test", common_name=user)
        files = [self._files / f"strange-{user}-{kind}.pem" for kind in ("ca", "cert", "key")]
        for file, content in zip(
            files, (authority.cert_pem.bytes(), _chain(issued), _pkcs8(issued)), strict=True
        ):
            file.write_bytes(content)
        return files[0], files[1], files[2]

    async def grant(self, *acls: Acl) -> None:
        """Gives rights and waits until they count."""
        await grant(self.cluster.bootstrap, *acls)

    async def revoke(self, *acls: Acl) -> None:
        """Takes rights away and waits until that counts."""
        await revoke(self.cluster.bootstrap, *acls)

    def _properties(self) -> dict[str, str]:
        server = self._authority.issue_cert(HOST, "localhost")
        keystore = self._files / "server.pem"
        keystore.write_bytes(_pkcs8(server) + _chain(server))
        users = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
        scrams = "SCRAM-SHA-512,SCRAM-SHA-256"
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.ssl.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms": scrams,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": _SCRAM,
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": _SCRAM,
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": f"PLAIN,{scrams}",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{_PLAIN} {users};",
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": _SCRAM,
            "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": _SCRAM,
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.oauth.oauthbearer.sasl.jaas.config": (
                f'{_OAUTH} unsecuredLoginStringClaim_sub="admin";'
            ),
        }


def bearer_token(user: str, lifetime_s: float = 3600) -> str:
    """Returns an unsigned JSON web token for the user; a lifetime below 0 makes it expired."""
    now = time.time()
    claims = {"sub": user, "iat": now - 60, "exp": now + lifetime_s}
    parts = ({"alg": "none"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b""]).decode()


def _chain(issued: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems)


def _pkcs8(issued: trustme.LeafCert) -> bytes:
    """Rewrites a key, for Kafka reads no other form."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
