"""Alerts, dashboard and documentation name what a real service and its HTTP interface export."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from insurance_fund.streams.sqlite import SqliteLog
from tests.embedded.service import COMMAND, Load, Site, opened
from tests.embedded.watched import HOST_METRICS, Scrape, free_ports, scrape, until, until_ready

ROOT: Final = Path(__file__).parents[2]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final[dict[str, Any]] = json.loads(
    (ROOT / "deploy" / "grafana" / "insurance-fund.json").read_text()
)
ALERTS: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DOCUMENT: Final = (ROOT / "docs" / "metrics.md").read_text()
NAME: Final = re.compile(r"\b(?:insurance_fund|process)_[a-z_]+")
# A minute each, in the time of the rules that are tested.
SCRAPES: Final = 20
ENTRIES: Final = 300


class Scrapes(NamedTuple):
    """What the service and its HTTP interface told while all was well, and after a crash."""

    well: list[Scrape]
    later: list[Scrape]

    @property
    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {name for one in self.later for name in one.names} | HOST_METRICS

    @property
    def types(self) -> dict[str, str]:
        """Return the types of all families of ours."""
        return {name: kind for one in self.later for name, kind in one.types.items()}


@asynccontextmanager
async def watched_fund(folder: Path) -> AsyncIterator[tuple[Site, tuple[int, int]]]:
    first = free_ports(2)
    ports = (first, first + 1)
    log = SqliteLog.open(folder / "insurance-fund.db", create=True)
    load = Load(log, random.Random(1))  # noqa: S311 - moments, no secrets
    settings = {"METRICS_PORT": str(ports[0]), "HTTP_PORT": str(ports[1])}
    site = Site(folder, "sqlite:insurance-fund.db", log, load, settings)
    try:
        async with opened(site):
            yield site, ports
    finally:
        await log.close()


async def watch(folder: Path) -> Scrapes:
    async with watched_fund(folder) as (site, ports):
        service = await site.start()
        await site.spawn(str(COMMAND), "serve")
        for port in ports:
            await until_ready(port)
        well = [await scrape(port) for port in ports]
        await site.work(service, ENTRIES)
        later: list[Scrape] = []

        async def has_come_there() -> bool:
            # Answers are made once a second, and the read models follow.
            later[:] = [await scrape(port) for port in ports]
            written = later[0].value("ledger_sequence")
            return ENTRIES <= written <= (later[1].get("chain_verified_sequence") or 0)

        await until(has_come_there)
        return Scrapes(well, later)


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> Scrapes:
    """Watch a service while nothing happens, then through liquidations, ADL and bad records."""
    return asyncio.run(watch(tmp_path_factory.mktemp("watched")))


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own tool."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here (Debian, Ubuntu: apt-get install prometheus)")
    return found


def run(promtool: str, *arguments: object, stdin: str | None = None) -> str:
    done = subprocess.run(
        [promtool, *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def queries() -> Iterator[tuple[str, str]]:
    """Return what the dashboard asks, by where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", ""))
        if found is not None:
            yield variable["name"], found[1]


QUERIES: Final = dict(queries())
assert len(QUERIES) == len(list(queries())), "two panels have one title"
RULES: Final = {rule["alert"]: rule["expr"] for rule in ALERTS}


@pytest.mark.parametrize("expression", {**QUERIES, **RULES}.values(), ids=[*QUERIES, *RULES])
def test_every_metric_that_is_asked_for_is_exported(scrapes: Scrapes, expression: str) -> None:
    # Without its labels, among which is the job.
    named = set(NAME.findall(re.sub(r"\{[^}]*\}|\([a-z_, ]+\)(?=\s*\()", "", expression)))
    assert named or "up{" in expression
    assert named <= scrapes.names


def test_every_metric_is_asked_for_somewhere(scrapes: Scrapes) -> None:
    asked = {name for one in (*QUERIES.values(), *RULES.values()) for name in NAME.findall(one)}
    exported = {re.sub(r"_(bucket|count|sum)$", "", name) for name in scrapes.names}
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert {name for name in exported if name.startswith("insurance_fund_")} <= asked


def test_document_lists_what_is_exported_with_its_kind(scrapes: Scrapes) -> None:
    rows = re.findall(r"^\| `(insurance_fund_\w+)` \| (\w+) \|", DOCUMENT, re.MULTILINE)
    host = {name: "counter" if name.endswith("_total") else "gauge" for name in HOST_METRICS}
    assert dict(rows) == {**scrapes.types, **host}
    assert len(rows) == len(dict(rows))


def test_names_and_kinds_are_as_prometheus_wants_them(scrapes: Scrapes, promtool: str) -> None:
    for one in scrapes.later:
        assert run(promtool, "check", "metrics", stdin=one.text) == ""


def test_rules_can_be_loaded_and_stand_their_own_tests(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "check", "rules", PROMETHEUS / "alerts.yml")
    assert "SUCCESS" in run(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    assert "SUCCESS" in run(promtool, "test", "rules", PROMETHEUS / "alerts_test.yml")


def test_each_alert_is_seen_firing_and_none_in_a_healthy_hour() -> None:
    healthy, *tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    assert all(
        one["expr"] == "ALERTS" and "exp_samples" not in one for one in healthy["promql_expr_test"]
    )
    fired = {
        name
        for test in tests
        for one in test["promql_expr_test"]
        for sample in one.get("exp_samples", ())
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(RULES)
    quiet = {name for one in healthy["input_series"] for name in NAME.findall(one["series"])}
    for name, expression in RULES.items():
        # Else nothing could have fired in it.
        assert set(NAME.findall(expression)) <= quiet or name == "InsuranceFundApiDown", name


def test_alerts_say_how_bad_it_is_and_what_to_look_at() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert f"`{rule['alert']}`" in DOCUMENT


def test_rules_fire_on_what_a_real_service_told_and_are_quiet_before(
    scrapes: Scrapes, promtool: str, tmp_path: Path
) -> None:
    series = []
    for name, well, later in zip(("run", "api"), scrapes.well, scrapes.later, strict=True):
        before, after = well.series(), later.series()
        for one in sorted(before.keys() | after.keys()):
            # As Prometheus keeps it: with where it came from.
            values = [
                f"{format(of[one], 'f')}x{SCRAPES - 1}" if one in of else f"_x{SCRAPES}"
                for of in (before, after)
            ]
            labels = one.replace("{", f'{{instance="{name}", ', 1)
            series.append({"series": labels, "values": " ".join(values)})

    def firing(alert: str, **labels: str) -> dict[str, Any]:
        named = {"alertname": alert, "alertstate": "firing", "ledger": "main", **labels}
        text = ", ".join(f"{key}={json.dumps(value)}" for key, value in named.items())
        return {"labels": f"ALERTS{{{text}}}", "value": 1}

    triggers = "adl_triggers_total"
    reasons = [labels["reason"] for labels in scrapes.later[0].labels(triggers)]
    deleveraged = [one for one in reasons if scrapes.later[0].value(triggers, reason=one)]
    assert deleveraged
    wanted = [
        firing("InsuranceFundRejecting", severity="warning"),
        *(
            firing("InsuranceFundAdlTriggered", severity="warning", reason=reason)
            for reason in deleveraged
        ),
    ]
    names = "InsuranceFundRejecting|InsuranceFundAdlTriggered"
    test = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": f"{SCRAPES - 1}m"},
            {
                "expr": f'ALERTS{{alertstate="firing", alertname=~"{names}"}}',
                "eval_time": f"{SCRAPES + 2}m",
                "exp_samples": wanted,
            },
        ],
    }
    rules = {
        "rule_files": [str(PROMETHEUS / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [test],
    }
    path = tmp_path / "recorded.yml"
    path.write_text(yaml.safe_dump(rules))
    assert "SUCCESS" in run(promtool, "test", "rules", path)


def test_queries_of_the_dashboard_are_well_formed(promtool: str, tmp_path: Path) -> None:
    filled = {
        name: expression.replace("$__rate_interval", "1m")
        .replace("$margin_currency", "USDT")
        .replace("$ledger", ".*")
        for name, expression in QUERIES.items()
    }
    assert not [name for name, expression in filled.items() if "$" in expression]
    rules = [
        {"record": f"query_{number}", "expr": expression}
        for number, expression in enumerate(filled.values())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", path)


def test_panels_of_the_dashboard_stand_side_by_side() -> None:
    taken: dict[tuple[int, int], str] = {}
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            assert x < 24, panel["title"]
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
