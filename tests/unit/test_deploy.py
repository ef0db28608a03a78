"""What stands in deploy/, docker-compose.yml and Dockerfile fits the code it runs."""

from __future__ import annotations

import importlib.util
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
from insurance_fund.projections.engines import parse_database_url
from insurance_fund.settings import DEFAULTS, NUMBERS, SECRETS, load_settings
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
SECRET_VARIABLES: Final = {f"INSURANCE_FUND_{name.upper()}" for name in SECRETS}
VARIABLES_ALL: Final = VARIABLES | {"INSURANCE_FUND_CONFIG"}
GRACE_LEAST_S: Final = TRANSACTION_MS / 1000 + GRACE_S

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
BROKERS: Final = {n: s for n, s in SERVICES.items() if s["image"].startswith("apache/kafka:")}
OURS: Final = {n: s for n, s in SERVICES.items() if s["image"].startswith("insurance-fund:")}
WORKERS: Final = {n: s for n, s in OURS.items() if "entrypoint" in s}
OTHERS: Final = {n: s for n, s in SERVICES.items() if n not in BROKERS and n not in OURS}
PROFILES: Final = {"cluster": 3, "dev": 1}  # and how many brokers each has
SHARED: Final = {"postgres", "prometheus", "grafana"}

MANIFESTS: Final[list[dict[str, Any]]] = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
README: Final = (DEPLOY / "README.md").read_text()


def _manifest(kind: str, name: str = "insurance-fund") -> dict[str, Any]:
    (found,) = [
        document
        for document in MANIFESTS
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    return found


PODS: Final[dict[str, dict[str, Any]]] = {
    document["metadata"]["name"]: document["spec"]["template"]["spec"]
    for document in MANIFESTS
    if document["kind"] in {"Deployment", "Job"}
}
CONTAINERS: Final[dict[str, dict[str, Any]]] = {
    name: container for name, pod in PODS.items() for container in pod["containers"]
}
FUND: Final = "insurance-fund"


def _unit(path: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """Returns the sections of a unit file; a key may stand more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


UNITS: Final = {path.stem: _unit(path) for path in (DEPLOY / "systemd").glob("*.service")}
UNIT: Final = UNITS[FUND]


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"([0-9]+)s", duration)
    assert found is not None, f"{duration!r} is not in seconds"
    return float(found[1])


def _parse(arguments: Sequence[str]) -> None:
    """Takes a command line apart as the command itself does, and runs nothing."""
    if arguments[0] == "faust":
        option, module, *words = arguments[1:]
        assert (option, words) == ("-A", ["worker"])
        assert importlib.util.find_spec(module) is not None, module
        return
    command: Any = typer.main.get_command(app)
    words = list(arguments)
    while hasattr(command, "commands"):
        assert words, f"{arguments} name no command"
        found = command.get_command(None, words[0])
        assert found is not None, f"{words[0]!r} of {arguments} is no command"
        command, words = found, words[1:]
    command.make_context(command.name, words)


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        yield f"compose {name}", [*service.get("entrypoint", ()), *service["command"]]
    for name, container in CONTAINERS.items():
        yield f"kubernetes {name}", [*container.get("command", ()), *container["args"]]
    for name, unit in UNITS.items():
        (start,) = unit["Service"]["ExecStart"]
        program, *words = shlex.split(start)
        folder, _, program = program.rpartition("/")
        assert folder == "/opt/insurance-fund/bin"
        assert program in {"insurance-fund", "faust"}
        yield f"systemd {name}", [program, *words] if program == "faust" else words


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
        assert "@" not in environment["INSURANCE_FUND_LOG"]
        assert parse_database_url(environment["INSURANCE_FUND_DATABASE"]).password is None
    for service in OTHERS.values():
        named = [name for name in service.get("environment", ()) if "PASSWORD" in name.upper()]
        assert not named
    for container in CONTAINERS.values():
        given = {variable["name"]: variable for variable in container["env"]}
        assert not given.keys() & SECRET_VARIABLES
        # What has one in it comes from a secret.
        assert "value" not in given.get("INSURANCE_FUND_DATABASE", {})
    for unit in UNITS.values():
        lines, credentials = unit["Service"]["Environment"], unit["Service"]["LoadCredential"]
        told = {line.partition("=")[0]: line.partition("=")[2] for line in lines}
        assert not told.keys() & SECRET_VARIABLES
        files = {v.removeprefix("%d/") for name, v in told.items() if name.endswith("FILE")}
        assert files == {line.partition(":")[0] for line in credentials}


def test_grace_is_longer_than_a_transaction_and_the_end_of_a_child() -> None:
    graces = {
        "fund": _seconds(SERVICES["fund"]["stop_grace_period"]),
        "fund-dev": _seconds(SERVICES["fund-dev"]["stop_grace_period"]),
        "kubernetes": PODS[FUND]["terminationGracePeriodSeconds"],
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


@pytest.mark.parametrize("name", UNITS)
def test_unit_file_gives_no_rights_away(name: str) -> None:
    service = UNITS[name]["Service"]
    assert service["DynamicUser"] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]


def test_exit_codes_in_the_readme_are_those_of_the_command() -> None:
    told = {int(code) for code in re.findall(r"^\| ([0-9]+) \|", README, re.MULTILINE)}
    assert told == {0, common.EXIT_FOUND, common.EXIT_COULD_NOT, common.EXIT_FENCED}


def test_images_are_pinned() -> None:
    assert {broker["image"] for broker in BROKERS.values()} == {f"apache/kafka:{KAFKA_VERSION}"}
    for service in OTHERS.values():
        assert re.search(r":v?[0-9]+\.[0-9]+", service["image"]), service["image"]
    images = {service["image"] for service in OURS.values()}
    images |= {container["image"] for container in CONTAINERS.values()}
    assert images == {f"insurance-fund:{VERSION}"}
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["python:3.11-slim-bookworm"] * 2


def test_each_profile_is_whole_and_nothing_runs_twice() -> None:
    for profile, brokers in PROFILES.items():
        members = {n: s for n, s in SERVICES.items() if profile in s["profiles"]}
        assert len(members.keys() & BROKERS.keys()) == brokers
        commands = sorted(s["command"][0] for n, s in members.items() if n in OURS)
        assert commands == ["exchange", "run", "serve", "topics", "worker"]
        ends = {name.removesuffix("-dev") for name in members.keys() - BROKERS.keys()}
        assert len(ends) == len(members) - brokers, "twice under two names"
        assert {"postgres", "prometheus", "grafana", "kafka-ui"} <= ends
        for name, service in members.items():
            assert service.get("depends_on", {}).keys() <= members.keys(), name
            for other, needed in service.get("depends_on", {}).items():
                healthy = needed["condition"] == "service_healthy"
                assert not healthy or "healthcheck" in SERVICES[other], (name, other)
    # What hangs on the brokers is there once for each profile, the rest in both.
    for name, service in SERVICES.items():
        of = set(service["profiles"]) & PROFILES.keys()
        assert of == (set(PROFILES) if name in SHARED else of), name
        assert len(of) == (2 if name in SHARED else 1) or name == "webhooks", name
    # What `docker compose up` means without a profile.
    assert "COMPOSE_PROFILES=cluster" in (ROOT / ".env").read_text().splitlines()


def test_webhooks_are_asked_for_and_have_their_targets_from_a_file() -> None:
    webhooks = SERVICES["webhooks"]
    assert webhooks["profiles"] == ["webhooks"]
    cluster = {n for n, s in SERVICES.items() if "cluster" in s["profiles"]}
    assert webhooks["depends_on"].keys() <= cluster
    (mount,) = webhooks["volumes"]
    assert f"WORKDIR {Path(mount['target']).parent}" in DOCKERFILE
    # Else Docker makes a folder of that name, and says nothing.
    assert mount["bind"] == {"create_host_path": False}
    assert webhooks["environment"] == SERVICES["fund"]["environment"]


def test_database_can_be_reached_by_those_who_need_it_and_leads_nowhere() -> None:
    networks = {n: set(s.get("networks", ["default"])) for n, s in SERVICES.items()}
    assert COMPOSE["networks"]["views"] == {"internal": True}
    assert networks["postgres"] == {"views"}
    reach = {name for name, of in networks.items() if "views" in of} - {"postgres"}
    assert reach == {"projections", "projections-dev", "webhooks", "api", "api-dev"}
    for name in reach:
        url = parse_database_url(SERVICES[name]["environment"]["INSURANCE_FUND_DATABASE"])
        assert url.host in SERVICES
        assert url.username == SERVICES[url.host]["environment"]["POSTGRES_USER"]


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) > 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_others_containers_are_read_only_too_and_not_root() -> None:
    for name, service in OTHERS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # The image of the Kafka UI has a user of its own that is not root.
        assert "user" in service or name.startswith("kafka-ui"), name
        assert not str(service.get("user", "")).startswith(("0", "root")), name
        volumes = [v for v in service.get("volumes", ()) if v.startswith("./")]
        assert all(v.endswith(":ro") and (ROOT / v.split(":")[0]).exists() for v in volumes), name


@pytest.mark.parametrize("name", ["fund", "fund-dev", "api", "api-dev"])
def test_health_is_asked_where_it_is_told(name: str) -> None:
    environment = SERVICES[name]["environment"]
    settings = load_settings({}, environment)
    number = "http_port" if name.startswith("api") else "metrics_port"
    (url,) = re.findall(r"http://[^']+", SERVICES[name]["healthcheck"]["test"][-1])
    assert url == f"http://127.0.0.1:{settings.number(number)}/readyz"
    assert settings.text("http_host") == "0.0.0.0"  # noqa: S104 - of a container


def test_prometheus_asks_what_is_there() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    settings = load_settings({}, SERVICES["fund"]["environment"])
    port = settings.number("metrics_port")
    asked = {}
    for job in config["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            asked[job["job_name"]] = (found["names"], found["port"])
        for found in job.get("static_configs", ()):
            (target,) = found["targets"]
            asked[job["job_name"]] = ([target.split(":")[0]], int(target.split(":")[1]))
    assert asked == {
        "insurance-fund-host": (["fund"], port),
        "insurance-fund": (["fund"], port + 1),
        "insurance-fund-api": (["api"], settings.number("http_port")),
    }
    assert len(settings.shards) == 1
    # Under the same names in both profiles.
    for name in ("fund", "api"):
        assert name in SERVICES[f"{name}-dev"]["networks"]["default"]["aliases"]
    mounts = SERVICES["prometheus"]["volumes"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in mounts
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


def test_grafana_finds_its_dashboard_and_prometheus() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "insurance-fund.yml").read_text())[
        "providers"
    ]
    grafana = SERVICES["grafana"]
    mounts = dict(v.removesuffix(":ro").split(":") for v in grafana["volumes"])
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    shown = mounts["./deploy/grafana/insurance-fund.json"]
    assert str(Path(shown).parent) == provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown


@pytest.mark.parametrize("profile", PROFILES)
def test_topics_wait_for_healthy_brokers_and_the_rest_for_the_topics(profile: str) -> None:
    suffix = "-dev" if profile == "dev" else ""
    brokers = [name for name, service in BROKERS.items() if service["profiles"] == [profile]]
    topics, fund = SERVICES[f"topics{suffix}"], SERVICES[f"fund{suffix}"]
    assert topics["depends_on"] == {name: {"condition": "service_healthy"} for name in brokers}
    done = {f"topics{suffix}": {"condition": "service_completed_successfully"}}
    assert fund["depends_on"] == done
    for name in (f"{one}{suffix}" for one in ("exchange", "projections", "api")):
        assert SERVICES[name]["depends_on"].items() >= done.items()
    url = parse_log_url(fund["environment"]["INSURANCE_FUND_LOG"])
    assert url == KafkaUrl(tuple(f"{name}:9092" for name in brokers))
    assert topics["command"][-2:] == ["--replication", str(len(brokers))]
    for name in (one for one, s in OURS.items() if s["profiles"] == [profile]):
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
    for name, pod in PODS.items():
        (container,) = pod["containers"]
        mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        # The image's working directory is where settings are looked for.
        assert f"WORKDIR {mounts['settings']}" in DOCKERFILE
        assert policy.parent == mounts["settings"]
        assert Path(str(settings.text("kafka_ca_file"))).parent == mounts["secrets"]
        for variable in container["env"]:
            if variable["name"].endswith("_FILE"):
                assert Path(variable["value"]).parent == mounts["secrets"], name


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
    others = [
        document["spec"]["template"]["metadata"]["labels"]
        for document in MANIFESTS
        if document["kind"] in {"Deployment", "Job"} and document["metadata"]["name"] != FUND
    ]
    assert len(others) == 3
    assert not any(deployment["selector"]["matchLabels"].items() <= one.items() for one in others)


def test_kubernetes_asks_what_is_served_and_never_whether_kafka_is_there(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(_manifest("ConfigMap")["data"]["insurance-fund.toml"])
    settings = load_settings({}, {"INSURANCE_FUND_CONFIG": str(tmp_path / "s.toml")})
    assert settings.text("http_host") == "0.0.0.0"  # noqa: S104 - of a pod
    ports = {
        name: {one["name"]: one["containerPort"] for one in container.get("ports", ())}
        for name, container in CONTAINERS.items()
    }
    first = settings.number("metrics_port")
    shards = {f"shard-{n}": first + 1 + n for n in range(len(settings.shards))}
    assert ports == {
        FUND: {"metrics": first, **shards},
        "insurance-fund-api": {"http": settings.number("http_port")},
        "insurance-fund-projections": {},
        "insurance-fund-topics": {},
    }
    for name in (FUND, "insurance-fund-api"):
        container = CONTAINERS[name]
        live, ready = (container[f"{kind}Probe"] for kind in ("liveness", "readiness"))
        # A liveness probe ends the pod: it goes by the process alone.
        assert live["httpGet"]["path"] == "/livez"
        assert ready["httpGet"]["path"] == "/readyz"
        assert {live["httpGet"]["port"], ready["httpGet"]["port"]} <= ports[name].keys()
        assert live["periodSeconds"] * live["failureThreshold"] >= 60
    service = _manifest("Service", "insurance-fund-api")["spec"]
    pods = _manifest("Deployment", "insurance-fund-api")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= pods.items()
    assert service["ports"][0]["targetPort"] in ports["insurance-fund-api"]


def test_readme_of_deploy_names_every_file_of_it() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".md":
            told = path.relative_to(DEPLOY)
            assert any(str(one) in README for one in (told, *told.parents[:-1])), told


def test_host_commands_of_the_readme_name_this_version() -> None:
    assert f"insurance_fund-{VERSION}-py3-none-any.whl" in README
