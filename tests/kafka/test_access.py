"""Who gets in, who does not and is told why, and that no secret is ever shown."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from insurance_fund.events import topics
from insurance_fund.events.errors import LogUnavailableError, SettingsError
from insurance_fund.logs import kafka_access, log_url
from insurance_fund.settings import load_settings
from insurance_fund.streams.kafka_access import KafkaAccess
from insurance_fund.streams.kafka_reader import KafkaReader
from insurance_fund.streams.topic_acls import grants
from insurance_fund.streams.topic_plan import Layout
from insurance_fund.streams.urls import KafkaUrl
from tests.kafka.acls import Acl, Operation, Resource
from tests.kafka.fund import Fund, open_fund
from tests.kafka.node import HOST, Runtime, free_ports
from tests.kafka.rounds import rounds
from tests.kafka.security import PASSWORDS, SecureCluster, bearer_token
from tests.kafka.topics import make_topics

USER: Final = "fund"
PASSWORD: Final = PASSWORDS[USER]
WRONG: Final = "guessed-4711"
ONE_SHARD: Final = ("main",)
WAIT_S: Final = 30
# So many funds are worked on at a time: they mostly wait for their processes to begin.
AT_A_TIME: Final = 3
Settings = dict[str, str]


def _scram(secured: SecureCluster, **changed: str) -> Settings:
    settings = {
        "LOG": f"kafka://{secured.scram}",
        "KAFKA_SECURITY": "sasl_ssl",
        "KAFKA_USERNAME": USER,
        "KAFKA_PASSWORD": PASSWORD,
        "KAFKA_CA_FILE": str(secured.ca_file),
        **changed,
    }
    return {name: value for name, value in settings.items() if value}


def _certificate(secured: SecureCluster, **changed: str) -> Settings:
    certificate, key = secured.certificate(USER)
    settings = {
        "LOG": f"kafka://{secured.tls}",
        "KAFKA_SECURITY": "ssl",
        "KAFKA_CA_FILE": str(secured.ca_file),
        "KAFKA_CERTIFICATE_FILE": str(certificate),
        "KAFKA_KEY_FILE": str(key),
        **changed,
    }
    return {name: value for name, value in settings.items() if value}


def _token(secured: SecureCluster, token: str, folder: Path) -> Settings:
    (folder / "token").write_text(token)
    return {
        "LOG": f"kafka://{secured.oauth}",
        "KAFKA_SECURITY": "sasl_ssl",
        "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "KAFKA_TOKEN_FILE": str(folder / "token"),
        "KAFKA_CA_FILE": str(secured.ca_file),
    }


def _plan(url: KafkaUrl, *roles: str) -> list[Acl]:
    """Return what `topics plan` grants the roles, all of it to the one user."""
    planned: list[Acl] = []
    for grant in grants(Layout(url, ONE_SHARD), USER):
        if grant.role in roles:
            resource = _word(grant.resource, Resource)
            names = grant.names or ("kafka-cluster",)
            operations = [_word(one, Operation) for one in grant.operations]
            planned += [Acl(USER, resource, n, one) for n in names for one in operations]
    return planned


def _word(planned: str, words: Any) -> Any:
    """Return the word of the tests' machinery for one of a plan."""
    plain = planned.replace("-", "").lower()
    return next(word for word in get_args(words) if word.replace("_", "") == plain)


@asynccontextmanager
async def _fund(
    secured: SecureCluster, folder: Path, prefix: str, settings: Settings
) -> AsyncIterator[Fund]:
    """Open a fund whose commands connect by the settings; nothing is granted yet."""
    url = await make_topics(secured.cluster.bootstrap, prefix, ONE_SHARD)
    named = {**settings, "LOG": f"{settings['LOG']}/{prefix}"}
    async with open_fund(folder, url, named) as fund:
        yield fund


async def test_whole_loop_runs_by_each_way_in(
    secured: SecureCluster, prefix: str, tmp_path: Path
) -> None:
    async def loop(way: str, settings: Settings) -> None:
        async with _fund(secured, tmp_path / f"by-{way}", f"{prefix}.{way}", settings) as fund:
            await secured.grant(*_plan(fund.url, "service", "auditor", "operator", "exchange"))
            (fund.folder / "deposit.ndjson").write_bytes(_deposit() + b"\n")
            await fund.call("topics", "check")
            await fund.call("publish", topics.FUND_TRANSFERS, "deposit.ndjson")
            await fund.take_over()
            await fund.call("run", "--until-idle")
            await fund.assert_whole()
            await fund.call("verify")
            status = json.loads((await fund.call("status", "--format", "json")).out)
            assert "USDT" in {of["margin_currency"] for of in status["funds"]}

    ways = {
        "scram": _scram(secured),
        "certificate": _certificate(secured),
        "token": _token(secured, bearer_token(USER), tmp_path),
    }
    async with asyncio.TaskGroup() as group:
        for way, settings in ways.items():
            group.create_task(loop(way, settings))


def _deposit() -> bytes:
    return json.dumps(
        {
            "type": "fund_deposit",
            "event_id": "e",
            "event_time_ms": 1_767_312_000_000,
            "margin_currency": "USDT",
            "transfer_id": "by-command",
            "amount": "1",
            "memo": "m",
        }
    ).encode()


async def test_token_is_read_anew_by_a_running_service(
    runtime: Runtime, tmp_path: Path, prefix: str
) -> None:
    # The brokers end each connection after a second: every one after that needs a new token.
    secured = SecureCluster(runtime, tmp_path / "cluster")
    with secured.cluster.nodes[0].properties.open("a") as properties:
        properties.write("listener.name.oauth.connections.max.reauth.ms=1000\n")
    token = tmp_path / "token"
    settings = _token(secured, bearer_token(USER, 60), tmp_path)
    try:
        await secured.cluster.start()
        async with _fund(secured, tmp_path / "fund", prefix, settings) as fund:
            await secured.grant(*_plan(fund.url, "service"))
            process = await fund.serve("--shard", "main")
            await fund.until_entries(process, 3)
            # While it is renewed it may be gone for a moment.
            token.write_text("")
            await asyncio.sleep(1.5)
            token.write_text(bearer_token(USER, 60))
            await fund.take_over()
            await fund.until_entries(process, 7)
            if rounds(1, 2) > 1:
                # It takes a deadline: one that has expired lets nobody in, and the service says so.
                token.write_text(bearer_token(USER, -60))
                ended = await fund.ended(process)
                assert ended.code in (1, 2)
                assert "kafka_token_file" in ended.told
                token.write_text(bearer_token(USER, 60))
            else:
                process.send_signal(signal.SIGTERM)
                assert (await fund.ended(process)).code == 0
            await fund.call("run", "--until-idle")
            await fund.assert_whole()
    finally:
        secured.cluster.stop()


async def test_no_secret_is_shown_anywhere(
    secured: SecureCluster, prefix: str, tmp_path: Path
) -> None:
    async with _fund(secured, tmp_path / "fund", prefix, _scram(secured)) as fund:
        await secured.grant(*_plan(fund.url, "service"))
        for output in ([], ["--format", "json"]):
            shown = await fund.call("config", "show", *output)
            assert "***" in shown.out
        await fund.call("status", code=2, KAFKA_PASSWORD=WRONG)
        await fund.call("run", "--until-idle", code=2, KAFKA_PASSWORD=WRONG)
        await fund.call("status", code=2, KAFKA_PASSWORD_FILE=str(secured.ca_file))
        await fund.call("run", "--until-idle")
        process = await fund.serve()
        arguments = _arguments_of_family(process.pid)
        assert len(arguments) == 2, "the supervisor has one child"
        process.send_signal(signal.SIGTERM)
        assert (await fund.ended(process)).code == 0
        for text in (*arguments, *fund.printed):
            assert PASSWORD not in text
            assert WRONG not in text


def _arguments_of_family(pid: int) -> list[str]:
    """Return the arguments of a process and its children, as everybody on the machine sees them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    family = [str(pid), *(pid for task in tasks for pid in (task / "children").read_text().split())]
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in family]


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    of_file = {"KAFKA_PASSWORD_FILE": str(tmp_path / "password")}
    for secret in ({"KAFKA_PASSWORD": PASSWORD}, of_file):
        settings = load_settings({}, _environment({**_SASL, **secret}))
        access = _access({**_SASL, **secret})
        assert access.credentials.password == PASSWORD
        for thing in (settings, settings.values["kafka_password"], access, access.credentials):
            assert PASSWORD not in repr(thing) + str(thing)


async def test_password_may_stand_in_a_file(secured: SecureCluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    settings = _scram(secured, KAFKA_PASSWORD="", KAFKA_PASSWORD_FILE=str(tmp_path / "password"))
    assert not await _trouble_with(settings)


_SASL: Final = {
    "LOG": "kafka://127.0.0.1:9092",
    "KAFKA_SECURITY": "sasl_plaintext",
    "KAFKA_USERNAME": USER,
}
_TLS: Final = {"LOG": "kafka://127.0.0.1:9092", "KAFKA_SECURITY": "ssl"}
_BEARER: Final = {**_SASL, "KAFKA_SASL_MECHANISM": "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {**_SASL, "KAFKA_PASSWORD": "x", "KAFKA_PASSWORD_FILE": "good"},
            "give kafka_password or kafka_password_file, not both",
        ),
        (_SASL, "needs kafka_password (environment INSURANCE_FUND_KAFKA_PASSWORD, or"),
        ({**_SASL, "KAFKA_USERNAME": "", "KAFKA_PASSWORD": "x"}, "needs kafka_username"),
        ({**_SASL, "KAFKA_PASSWORD_FILE": "gone"}, "kafka_password_file: gone cannot be read"),
        ({**_SASL, "KAFKA_PASSWORD_FILE": "."}, "kafka_password_file: . cannot be read"),
        ({**_SASL, "KAFKA_PASSWORD_FILE": "empty"}, "kafka_password_file: empty is empty"),
        ({**_SASL, "KAFKA_PASSWORD_FILE": "binary"}, "kafka_password_file: binary cannot be read"),
        (_BEARER, "kafka_sasl_mechanism OAUTHBEARER needs kafka_token_file"),
        ({**_BEARER, "KAFKA_TOKEN_FILE": "gone"}, "kafka_token_file: gone cannot be read"),
        ({**_BEARER, "KAFKA_TOKEN_FILE": "empty"}, "kafka_token_file: empty is empty"),
        ({**_SASL, "KAFKA_SECURITY": "tls"}, "kafka_security must be one of plaintext, ssl,"),
        (
            {**_SASL, "KAFKA_SASL_MECHANISM": "GSSAPI"},
            "kafka_sasl_mechanism must be one of SCRAM-SHA-512,",
        ),
        (
            {**_TLS, "KAFKA_CERTIFICATE_FILE": "good"},
            "kafka_certificate_file and kafka_key_file come together",
        ),
        (
            {**_TLS, "KAFKA_KEY_FILE": "good"},
            "kafka_certificate_file and kafka_key_file come together",
        ),
        ({**_TLS, "KAFKA_CA_FILE": "gone"}, "kafka_ca_file: gone cannot be read"),
        ({**_TLS, "KAFKA_CA_FILE": "empty"}, "kafka_ca_file: empty is empty"),
        ({**_TLS, "KAFKA_CA_FILE": "good"}, "good: cannot be used"),
        (
            {**_TLS, "KAFKA_CERTIFICATE_FILE": "cert.pem", "KAFKA_KEY_FILE": "good"},
            "cert.pem, good: cannot be used",
        ),
        (
            {**_TLS, "KAFKA_CERTIFICATE_FILE": "cert.pem", "KAFKA_KEY_FILE": "other-key.pem"},
            "give certificates and a key that belong together",
        ),
        (
            {**_TLS, "KAFKA_CERTIFICATE_FILE": "cert.pem", "KAFKA_KEY_FILE": "locked-key.pem"},
            "the key without a passphrase",
        ),
        ({"LOG": "kafka://broker..1:9092"}, "is no log URL"),
        ({"LOG": f"kafka://{'b' * 64}:9092"}, "is no log URL"),
        ({"LOG": "kafka://broker-1:9092"}, "say how to connect beyond this machine"),
        ({"LOG": "kafka://127.0.0.1,broker-1"}, "say how to connect beyond this machine"),
        ({"LOG": "kafka://127.0.0.1.example.com"}, "say how to connect beyond this machine"),
        (
            {"LOG": "kafka://127.0.0.1", "KAFKA_PASSWORD": "x"},
            "kafka_password is set and not used: set kafka_security = sasl_ssl or sasl_plaintext",
        ),
        ({**_TLS, "KAFKA_TOKEN_FILE": "good"}, "kafka_token_file is set and not used"),
        (
            {"LOG": "kafka://127.0.0.1", "KAFKA_CA_FILE": "good"},
            "kafka_ca_file is set and not used: set kafka_security = ssl or sasl_ssl",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    files: Path, settings: Settings, said: str
) -> None:
    del files
    with pytest.raises(SettingsError) as refused:
        _access(settings).options()
    assert said in str(refused.value)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with files of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text("something")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    ours, other = (trustme.CA().issue_cert(f"{name}.test") for name in ("ours", "other"))
    (tmp_path / "cert.pem").write_bytes(ours.cert_chain_pems[0].bytes())
    (tmp_path / "other-key.pem").write_bytes(other.private_key_pem.bytes())
    key = serialization.load_pem_private_key(ours.private_key_pem.bytes(), password=None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "locked-key.pem").write_bytes(locked)
    return tmp_path


def test_password_in_a_settings_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "insurance-fund.toml"
    file.write_text(f'kafka_password = "{PASSWORD}"\n')
    with pytest.raises(SettingsError, match="must not stand in a settings file") as refused:
        load_settings({}, {"INSURANCE_FUND_CONFIG": str(file)})
    assert PASSWORD not in str(refused.value)
    assert "INSURANCE_FUND_KAFKA_PASSWORD" in str(refused.value)
    assert "kafka_password_file" in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_plaintext_is_taken_unasked_on_this_machine_alone(host: str) -> None:
    assert _access({"LOG": f"kafka://{host}"}).options()["security_protocol"] == "PLAINTEXT"


def test_plaintext_beyond_this_machine_is_taken_when_named() -> None:
    settings = {"LOG": "kafka://broker-1", "KAFKA_SECURITY": "plaintext"}
    assert _access(settings).options()["security_protocol"] == "PLAINTEXT"


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"INSURANCE_FUND_{name}": value for name, value in settings.items() if value}


def _access(settings: Mapping[str, str]) -> KafkaAccess:
    """Return how a command would get in, with nothing of this machine's own settings."""
    loaded = load_settings({}, _environment(settings))
    url = log_url(loaded)
    assert isinstance(url, KafkaUrl)
    return kafka_access(loaded, url)


async def _trouble_with(settings: Mapping[str, str]) -> str:
    """Return what is said of an attempt to get in, "" where it succeeds."""
    reader = KafkaReader(_access(settings))
    try:
        async with asyncio.timeout(WAIT_S):
            await reader.partitions("any")
    except LogUnavailableError as error:
        return str(error)
    finally:
        await reader.close()
    return ""


# How it is tried to get in, and what is said: the cause, with the setting to change.
_REFUSED: Final[dict[str, tuple[Callable[[SecureCluster, Path], Settings], str]]] = {
    "wrong password": (lambda c, _: _scram(c, KAFKA_PASSWORD=WRONG), "kafka_password"),
    "unknown user": (lambda c, _: _scram(c, KAFKA_USERNAME="nobody"), "kafka_username"),
    "wrong password, plain": (
        lambda c, _: _scram(
            c,
            LOG=f"kafka://{c.sasl_plaintext}",
            KAFKA_SECURITY="sasl_plaintext",
            KAFKA_SASL_MECHANISM="PLAIN",
            KAFKA_PASSWORD=WRONG,
            KAFKA_CA_FILE="",
        ),
        "refuse these credentials: see kafka_username, kafka_password",
    ),
    "wrong mechanism": (
        lambda c, _: _scram(c, KAFKA_SASL_MECHANISM="PLAIN"),
        "this port does not take this kafka_sasl_mechanism",
    ),
    "unknown authority": (
        lambda c, _: _scram(c, KAFKA_CA_FILE=str(c.stranger_certificate(USER)[0])),
        "certificate is not trusted: kafka_ca_file must hold the authority",
    ),
    "authorities of the system": (
        lambda c, _: _scram(c, KAFKA_CA_FILE=""),
        "certificate is not trusted: kafka_ca_file must hold the authority",
    ),
    "wrong host name": (
        lambda c, _: _scram(c, LOG=f"kafka://{c.scram}".replace(HOST, "127.1")),
        "the broker's certificate is for another host name",
    ),
    "no certificate": (
        lambda c, _: _certificate(c, KAFKA_CERTIFICATE_FILE="", KAFKA_KEY_FILE=""),
        "wants a certificate of ours: set kafka_certificate_file and kafka_key_file",
    ),
    "certificate of a stranger": (
        lambda c, _: _certificate(
            c,
            KAFKA_CERTIFICATE_FILE=str(c.stranger_certificate(USER)[1]),
            KAFKA_KEY_FILE=str(c.stranger_certificate(USER)[2]),
        ),
        "does not trust our certificate: kafka_certificate_file",
    ),
    "plaintext to TLS": (
        lambda c, _: {"LOG": f"kafka://{c.tls}"},
        "does this port speak what kafka_security says, TLS or not",
    ),
    "TLS to plaintext": (
        lambda c, _: _certificate(c, LOG=f"kafka://{c.cluster.bootstrap}"),
        "does this port speak what kafka_security says, TLS or not",
    ),
    "nobody to a port of users": (
        lambda c, _: {"LOG": f"kafka://{c.sasl_plaintext}"},
        "does this port speak what kafka_security says, TLS or not, with a user or not?",
    ),
    "user to a port of nobody": (
        lambda c, _: _scram(
            c,
            LOG=f"kafka://{c.cluster.bootstrap}",
            KAFKA_SECURITY="sasl_plaintext",
            KAFKA_CA_FILE="",
        ),
        "the broker knows no user on this port (see kafka_security and the port)",
    ),
    "expired token": (
        lambda c, folder: _token(c, bearer_token(USER, -60), folder),
        "refuses a token: is the one in kafka_token_file valid, has it expired?",
    ),
    "nonsense for a token": (
        lambda c, folder: _token(c, "nonsense", folder),
        "refuses a token: is the one in kafka_token_file valid",
    ),
    "nobody listens": (
        lambda *_: {"LOG": f"kafka://{HOST}:{free_ports(1)[0]}"},
        "no broker listens there: is it down, or the port another one?",
    ),
    "unknown host": (
        lambda *_: {"LOG": "kafka://no-such-host.invalid", "KAFKA_SECURITY": "plaintext"},
        "this host name",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
async def test_cause_of_a_failed_connection_is_told(
    secured: SecureCluster, tmp_path: Path, case: str
) -> None:
    settings, said = _REFUSED[case]
    told = await _trouble_with(settings(secured, tmp_path))
    assert told.startswith("kafka://")
    assert "no connection: " in told
    assert said in told
    assert PASSWORD not in told


async def test_commands_that_cannot_connect_say_so_in_one_line(
    secured: SecureCluster, tmp_path: Path
) -> None:
    url = KafkaUrl((secured.cluster.bootstrap,))
    fund = Fund(tmp_path, url, _scram(secured, KAFKA_PASSWORD=WRONG))
    try:
        commands = ["status", "verify", "read fills", "topics check", "topics apply"]
        commands += ["run", "run --until-idle", "run --shard main"]
        for command in commands:
            ended = await fund.call(*command.split(), code=2)
            assert "refuse these credentials" in ended.told
            # A service keeps the log of its client; to a person it says one thing.
            if not command.startswith("run"):
                assert ended.err.splitlines() == [ended.told]
    finally:
        await fund.close()


async def test_service_needs_each_right_of_the_plan_and_names_it(
    secured: SecureCluster, prefix: str, tmp_path: Path
) -> None:
    layout = KafkaUrl((), prefix)
    needed = [right for right in _plan(layout, "service") if _is_needed(right)]
    assert len(needed) == 13
    turns = asyncio.Semaphore(AT_A_TIME)

    async def without(number: int) -> None:
        async with turns:
            url = KafkaUrl((), f"{prefix}.{number}")
            folder = tmp_path / str(number)
            async with _fund(secured, folder, url.prefix, _scram(secured)) as fund:
                rights = _plan(url, "service")
                missing = [one for one in rights if _is_needed(one)][number]
                rights.remove(missing)
                if missing.resource == "topic":
                    # What may not even be described is not there at all: that is another test.
                    rights.append(Acl(USER, "topic", missing.name, "describe"))
                await secured.grant(*rights)
                await fund.take_over()
                await _assert_missed(fund, missing)
                await secured.grant(missing)
                await fund.call("run", "--until-idle")
                await fund.assert_whole()

    async with asyncio.TaskGroup() as group:
        for number in range(len(needed)):
            group.create_task(without(number))


def _is_needed(right: Acl) -> bool:
    """Tell whether a run ends without a right; it does not for telling how far it has read."""
    told = right.resource == "group" and right.name.endswith(".main")
    return right.operation != "describe_configs" and not told


async def test_service_that_may_not_tell_its_offsets_says_so_and_goes_on(
    secured: SecureCluster, prefix: str, tmp_path: Path
) -> None:
    async with _fund(secured, tmp_path / "fund", prefix, _scram(secured)) as fund:
        rights = _plan(fund.url, "service")
        group = next(one for one in rights if one.resource == "group" and not _is_needed(one))
        await secured.grant(*(one for one in rights if one != group))
        process = await fund.serve("--shard", "main")
        await fund.take_over()
        await fund.said(process, f"may not join group {group.name}: grant Read on it")
        await fund.take_over()
        process.terminate()
        ended = await fund.ended(process)
        assert ended.code == 0
        await fund.call("run", "--until-idle")
        await fund.assert_whole()


async def _assert_missed(fund: Fund, right: Acl) -> None:
    """Hold the service to its end without a right; snapshots it can do without."""
    verb = {"read": "read", "write": "write"}.get(right.operation)
    told = {
        "topic": f"may not {verb} topic {right.name}: grant {right.operation.title()} on it",
        "transactional_id": f"may not write as transactional id {right.name}: grant Write on it",
        "group": f"may not join group {right.name}: grant Read on it",
    }[right.resource]
    if topics.FUND_SNAPSHOTS in right.name:
        # The first run writes some, the second would read them.
        runs = [await fund.call("run", "--until-idle") for _ in range(2)]
        assert told in "".join(run.err for run in runs)
        return
    arguments = [] if right.resource == "group" else ["--until-idle"]
    ended = await fund.call("run", *arguments, code=2)
    assert told in ended.told, right
    assert "topics plan" in ended.told


@pytest.mark.parametrize("topic", [topics.FILLS, topics.DEAD_LETTERS])
async def test_hidden_topic_may_be_missing_or_forbidden(
    secured: SecureCluster, prefix: str, tmp_path: Path, topic: str
) -> None:
    async with _fund(secured, tmp_path / "fund", prefix, _scram(secured)) as fund:
        rights = _plan(fund.url, "service")
        shown = [one for one in rights if one.name == fund.url.name(topic)]
        await secured.grant(*(one for one in rights if one not in shown))
        await fund.take_over()
        ended = await fund.call("run", "--until-idle", code=2)
        assert f"{fund.url.name(topic)}: topic = missing: it is not there, or hidden" in ended.told
        assert "ACL Describe" in ended.told
        assert "topics apply" in ended.told
        # The right by which it shows itself is the one that it is used by.
        await secured.grant(*(one for one in shown if one.operation != "describe_configs"))
        ended = await fund.call("run", "--until-idle")
        assert f"{fund.url.name(topic)}" in ended.err, "its settings were not seen, which is told"
        await fund.assert_whole()


async def test_right_that_is_taken_away_ends_the_service_and_nothing_is_lost(
    secured: SecureCluster, prefix: str, tmp_path: Path
) -> None:
    async with _fund(secured, tmp_path / "fund", prefix, _scram(secured)) as fund:
        rights = _plan(fund.url, "service")
        await secured.grant(*rights)
        process = await fund.serve("--shard", "main")
        ledger = Acl(USER, "topic", fund.url.name(topics.FUND_LEDGER), "write")
        await secured.revoke(ledger)
        await fund.take_over()
        ended = await fund.ended(process)
        assert ended.code in (1, 2)
        assert f"may not write topic {ledger.name}" in ended.told
        await secured.grant(ledger)
        await fund.call("run", "--until-idle")
        await fund.assert_whole()
