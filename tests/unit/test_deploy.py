"""What stands in deploy/, docker-compose.yml and Dockerfile fits the code it runs."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
import yaml

from insurance_fund.cli import app, common
from insurance_fund.fund.policy import load_policy
from insurance_fund.logs import log_url
from insurance_fund.settings import DEFAULTS, NUMBERS, load_settings
from insurance_fund.streams.kafka_access import TRANSACTION_MS
from insurance_fund.streams.supervisor import GRACE_S
from insurance_fund.streams.topic_judgement import judge_broker
from insurance_fund.streams.topic_plan import Layout
from insurance_fund.streams.urls import KafkaUrl, parse_log_url
from insurance_fund.version import VERSION
from tests.kafka.jars import KAFKA_VERSION

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
VARIABLES: Final = {f"INSURANCE_FUND_{name.upper()}" for name in (*DEFAULTS, *NUMBERS)}
VARIABLES_ALL: Final = VARIABLES | {"INSURANCE_FUND_CONFIG"}
GRACE_LEAST_S: Final = TRANSACTION_MS / 1000 + GRACE_S

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
BROKERS: Final = {name: s for name, s in SERVICES.items() if name.startswith("kafka-")}
OURS: Final = {name: s for name, s in SERVICES.items() if name not in BROKERS}
PROFILES: Final = {"cluster": 3, "dev": 1}  # and how many brokers each has

MANIFESTS: Final[list[dict[str, Any]]] = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
README: Final = (DEPLOY / "README.md").read_text()


def _manifest(kind: str) -> dict[str, Any]:
    (found,) = [document for document in MANIFESTS if document["kind"] == kind]
    return found


PODS: Final[dict[str, dict[str, Any]]] = {
    kind: _manifest(kind)["spec"]["template"]["spec"] for kind in ("Deployment", "Job")
}
CONTAINERS: Final[dict[str, dict[str, Any]]] = {
    kind: container for kind, pod in PODS.items() for container in pod["containers"]
}


def _unit() -> Mapping[str, Mapping[str, list[str]]]:
    """Returns the sections of the unit file; a key may stand more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "insurance-fund.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


UNIT: Final = _unit()


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"([0-9]+)s", duration)
    assert found is not None, f"{duration!r} is not in seconds"
    return float(found[1])


def _parse(arguments: Sequence[str]) -> None:
    """Takes a command line apart as the command itself does, and runs nothing."""
    command: Any = typer.main.get_command(app)
    words = list(arguments)
    while hasattr(command, "commands"):
        assert words, f"{arguments} name no command"
        assert words[0] in command.commands, f"{words[0]!r} of {arguments} is no command"
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        yield f"compose {name}", service["command"]
    for kind, container in CONTAINERS.items():
        yield f"kubernetes {kind}", container["args"]
    (start,) = UNIT["Service"]["ExecStart"]
    program, *words = shlex.split(start)
    assert program.endswith("/insurance-fund")
    yield "systemd", words


COMMAND_LINES: Final = dict(_command_lines())


@pytest.mark.parametrize("arguments", COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_every_command_line_is_one_of_the_command(arguments: list[str]) -> None:
    _parse(arguments)


def test_a_command_line_with_an_option_that_is_not_there_is_seen() -> None:
    with pytest.raises(Exception, match="--replicas"):
        _parse(["topics", "apply", "--replicas", "3"])


def test_every_variable_is_a_setting() -> None:
    texts = [path for path in DEPLOY.rglob("*") if path.is_file()]
    texts += [ROOT / "docker-compose.yml", ROOT / "Dockerfile"]
    named = {v for path in texts for v in re.findall(r"INSURANCE_FUND_[A-Z_]+", path.read_text())}
    assert "INSURANCE_FUND_KAFKA_PASSWORD_FILE" in named
    # `INSURANCE_FUND_...` stands for all of them.
    assert named - VARIABLES_ALL <= {"INSURANCE_FUND_"}


def test_no_password_stands_in_a_file() -> None:
    for environment in (service.get("environment", {}) for service in OURS.values()):
        assert "INSURANCE_FUND_KAFKA_PASSWORD" not in environment
    for container in CONTAINERS.values():
        assert "INSURANCE_FUND_KAFKA_PASSWORD" not in {v["name"] for v in container["env"]}
    (file,) = [v for v in UNIT["Service"]["Environment"] if "PASSWORD" in v]
    (credential,) = UNIT["Service"]["LoadCredential"]
    assert file == f"INSURANCE_FUND_KAFKA_PASSWORD_FILE=%d/{credential.partition(':')[0]}"


def test_grace_is_longer_than_a_transaction_and_the_end_of_a_child() -> None:
    graces = {
        "fund": _seconds(SERVICES["fund"]["stop_grace_period"]),
        "fund-dev": _seconds(SERVICES["fund-dev"]["stop_grace_period"]),
        "kubernetes": PODS["Deployment"]["terminationGracePeriodSeconds"],
        "systemd": float(UNIT["Service"]["TimeoutStopSec"][0]),
    }
    assert {name: s for name, s in graces.items() if s <= GRACE_LEAST_S} == {}
    told = [int(found) for found in re.findall(r"Give it ([0-9]+) s to end", README)]
    assert told == [min(graces.values())]


def test_fenced_is_left_alone_by_systemd() -> None:
    service = UNIT["Service"]
    assert service["RestartPreventExitStatus"] == [str(common.EXIT_FENCED)]
    assert service["Restart"] == ["on-failure"]
    assert service["KillMode"] == ["mixed"]


def test_unit_file_gives_no_rights_away() -> None:
    service = UNIT["Service"]
    assert service["DynamicUser"] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]


def test_exit_codes_in_the_readme_are_those_of_the_command() -> None:
    told = {int(code) for code in re.findall(r"^\| ([0-9]+) \|", README, re.MULTILINE)}
    assert told == {0, common.EXIT_FOUND, common.EXIT_COULD_NOT, common.EXIT_FENCED}


def test_images_are_pinned() -> None:
    assert {broker["image"] for broker in BROKERS.values()} == {f"apache/kafka:{KAFKA_VERSION}"}
    images = {service["image"] for service in OURS.values()}
    images |= {container["image"] for container in CONTAINERS.values()}
    assert images == {f"insurance-fund:{VERSION}"}
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["python:3.11-slim-bookworm"] * 2


def test_each_profile_is_whole_and_no_service_stands_in_two() -> None:
    assert {name: len(service["profiles"]) for name, service in SERVICES.items()} == dict.fromkeys(
        SERVICES, 1
    )
    for profile, brokers in PROFILES.items():
        members = {n: s for n, s in SERVICES.items() if s["profiles"] == [profile]}
        assert len(members.keys() & BROKERS.keys()) == brokers
        commands = sorted(service["command"][0] for n, service in members.items() if n in OURS)
        assert commands == ["exchange", "run", "topics"]
        for name, service in members.items():
            assert service.get("depends_on", {}).keys() <= members.keys(), name
    # What `docker compose up` means without a profile.
    assert "COMPOSE_PROFILES=cluster" in (ROOT / ".env").read_text().splitlines()


@pytest.mark.parametrize("profile", PROFILES)
def test_topics_wait_for_healthy_brokers_and_the_rest_for_the_topics(profile: str) -> None:
    suffix = "-dev" if profile == "dev" else ""
    brokers = [name for name, service in BROKERS.items() if service["profiles"] == [profile]]
    topics, fund = SERVICES[f"topics{suffix}"], SERVICES[f"fund{suffix}"]
    assert topics["depends_on"] == {name: {"condition": "service_healthy"} for name in brokers}
    done = {f"topics{suffix}": {"condition": "service_completed_successfully"}}
    assert fund["depends_on"] == done
    assert SERVICES[f"exchange{suffix}"]["depends_on"].items() >= done.items()
    url = parse_log_url(fund["environment"]["INSURANCE_FUND_LOG"])
    assert url == KafkaUrl(tuple(f"{name}:9092" for name in brokers))
    assert topics["command"][-2:] == ["--replication", str(len(brokers))]
    for name in (f"topics{suffix}", f"fund{suffix}", f"exchange{suffix}"):
        assert SERVICES[name]["environment"] == fund["environment"]


def _properties(broker: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in broker["environment"].items()
        if name.startswith("KAFKA_")
    }


@pytest.mark.parametrize("name", BROKERS)
def test_broker_keeps_what_the_plan_of_topics_asks_for(name: str) -> None:
    broker = BROKERS[name]
    properties = _properties(broker)
    brokers = PROFILES[broker["profiles"][0]]
    least = Layout(KafkaUrl(("kafka:9092",)), ("main",), replication=brokers).in_sync_min
    assert properties["min.insync.replicas"] == str(least)
    assert properties["transaction.state.log.min.isr"] == str(least)
    for setting in (
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
    ):
        assert properties[setting] == str(brokers), setting
    assert properties["unclean.leader.election.enable"] == "false"
    # Named, not left to a default, which is true.
    assert properties["auto.create.topics.enable"] == "false"
    assert judge_broker(name, properties) == []


@pytest.mark.parametrize("name", BROKERS)
def test_broker_is_asked_for_its_health_and_keeps_its_data(name: str) -> None:
    broker = BROKERS[name]
    assert "kafka-broker-api-versions.sh" in broker["healthcheck"]["test"][1]
    (volume,) = broker["volumes"]
    assert volume == f"{name}:{_properties(broker)['log.dirs']}"
    assert name in COMPOSE["volumes"]
    assert all(port.startswith("127.0.0.1:") for port in broker["ports"])


def test_brokers_of_a_cluster_know_each_other_and_differ_where_they_must() -> None:
    cluster = {n: _properties(b) for n, b in BROKERS.items() if b["profiles"] == ["cluster"]}
    voters = ",".join(f"{p['node.id']}@{name}:9093" for name, p in cluster.items())
    assert {p["controller.quorum.voters"] for p in cluster.values()} == {voters}
    assert len({p["node.id"] for p in cluster.values()}) == len(cluster)
    assert len({BROKERS[name]["environment"]["CLUSTER_ID"] for name in cluster}) == 1
    for name, properties in cluster.items():
        assert f"PLAINTEXT://{name}:9092" in properties["advertised.listeners"].split(",")


def test_containers_of_ours_are_read_only_and_without_rights() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name  # noqa: S108 - the path in the container
        assert service["cap_drop"] == ["ALL"], name
        assert service["init"] is True, name
    for kind, container in CONTAINERS.items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, kind
        assert context["allowPrivilegeEscalation"] is False, kind
        assert context["capabilities"] == {"drop": ["ALL"]}, kind
        assert PODS[kind]["securityContext"]["runAsNonRoot"] is True, kind
        assert container["resources"]["limits"].keys() == {"memory"}, kind


def test_image_ends_in_the_command_itself_under_a_user_that_is_not_root() -> None:
    (user,) = re.findall(r"^USER ([0-9]+):[0-9]+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    for pod in PODS.values():
        assert pod["securityContext"]["runAsUser"] == int(user)
    # As a list: no shell that would keep SIGTERM for itself.
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["insurance-fund"]']


def test_image_installs_nothing_without_a_hash() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install(?: \\\n)?([^&\n]*)", DOCKERFILE)
    assert len(installs) == 3
    for options in installs:
        assert "--require-hashes" in options or "--no-index" in options


def test_image_gets_all_that_a_wheel_is_made_of() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.split("/")[0] for path in config["tool"]["setuptools"]["package-dir"].values()}
    copied = set(re.findall(r"^COPY (\S+) \1$", DOCKERFILE, re.MULTILINE))
    assert copied == folders
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (*folders, "pyproject.toml", "README.md", "LICENSE", "requirements.runtime.lock"):
        assert f"!{name}" in let_in


def _locked(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


def test_runtime_lock_has_the_versions_that_were_tested_and_no_tool() -> None:
    tested = _locked(ROOT / "requirements.lock")
    runtime = _locked(ROOT / "requirements.runtime.lock")
    assert runtime.items() <= tested.items()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[>=]", line)[0] for line in config["dependencies"]}
    assert needed <= runtime.keys()
    assert {"pytest", "mypy", "ruff", "pyyaml", "trustme"}.isdisjoint(runtime)


def test_settings_and_policy_of_kubernetes_are_taken(tmp_path: Path) -> None:
    data = _manifest("ConfigMap")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    settings = load_settings({}, {"INSURANCE_FUND_CONFIG": str(tmp_path / "insurance-fund.toml")})
    assert isinstance(log_url(settings), KafkaUrl)
    policy = Path(str(settings.text("policy")))
    load_policy(tmp_path / policy.name)
    for pod in PODS.values():
        (container,) = pod["containers"]
        mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        # The image's working directory is where settings are looked for.
        assert f"WORKDIR {mounts['settings']}" in DOCKERFILE
        assert policy.parent == mounts["settings"]
        assert Path(str(settings.text("kafka_ca_file"))).parent == mounts["secrets"]


def test_kubernetes_ends_old_pods_before_new_ones_and_scales_nothing_by_itself() -> None:
    deployment = _manifest("Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    assert "HorizontalPodAutoscaler" not in {document["kind"] for document in MANIFESTS}
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    budget = _manifest("PodDisruptionBudget")["spec"]
    assert budget["selector"] == deployment["selector"]
    assert budget["minAvailable"] < deployment["replicas"]
    # The topics' pod is none that the budget or the deployment counts.
    job = _manifest("Job")["spec"]["template"]["metadata"]["labels"]
    assert not deployment["selector"]["matchLabels"].items() <= job.items()
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & CONTAINERS["Deployment"].keys()


def test_host_commands_of_the_readme_name_this_version() -> None:
    assert f"insurance_fund-{VERSION}-py3-none-any.whl" in README
