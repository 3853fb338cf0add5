"""Alerts and the dashboard: that they ask for what is reported, and that alerts fire when they should.

Each check meets mutants that it must find out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.conftest import ROOT

INFRA = ROOT / "infra"
#: What the service reports, with what Ray puts before it.
METRICS = {
    "ray_selfgan_images_per_second": {"run", "recipe"},
    "ray_selfgan_seconds_per_step": {"run", "recipe"},
    "ray_selfgan_data_wait_seconds_per_step": {"run", "recipe"},
    "ray_selfgan_loss_weight": {"run", "recipe", "term"},
    "ray_selfgan_step": {"run", "recipe"},
    "ray_selfgan_attempts": {"run", "recipe"},
}
#: What kube-state-metrics says of what is watched, as its documentation has it.
_OF_JOB, _OF_CRON_JOB = {"namespace", "job_name"}, {"namespace", "cronjob"}
KUBERNETES_METRICS = {
    "kube_job_created": _OF_JOB,
    "kube_job_failed": _OF_JOB | {"condition"},
    "kube_job_owner": _OF_JOB | {"owner_kind", "owner_name", "owner_is_controller"},
    "kube_job_status_active": _OF_JOB,
    "kube_job_status_start_time": _OF_JOB,
    "kube_cronjob_created": _OF_CRON_JOB,
    "kube_cronjob_next_schedule_time": _OF_CRON_JOB,
    "kube_cronjob_status_last_successful_time": _OF_CRON_JOB,
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
    "kube_statefulset_status_replicas_ready": {"namespace", "statefulset"},
}
#: What the rules record, where it is not of runs.
RECORDED = {
    "selfgan:failed_job_created": {"namespace", "job_name", "owner_name"},
    "selfgan:last_success": {"namespace", "cronjob", "owner_name"},
    "selfgan:failed_since_success": {"namespace", "owner_name"},
    "selfgan:retraining_seconds": {"namespace", "job_name"},
}
ALERTS = {
    "SelfganNoProgress",
    "SelfganRestarts",
    "SelfganWaitsForData",
    "SelfganLossWeightZero",
    "SelfganRetrainingFailed",
    "SelfganRetrainingMissed",
    "SelfganRetrainingLate",
    "SelfganNoFirstStep",
    "SelfganMlflowDown",
    "SelfganPostgresDown",
    "SelfganBackupMissing",
    "SelfganIngestFailed",
}


def _selectors(query: Any) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a parsed query asks for, with the labels it is picked by; grouping labels have no metric."""
    if hasattr(query, "matchers"):
        yield query.name, {matcher.name for matcher in query.matchers.matchers}
    if isinstance(query, promql_parser.AggregateExpr) and query.modifier:
        labels = set(query.modifier.labels)
        yield from ((name, labels) for name, _ in list(_selectors(query.expr)))
    parts = [getattr(query, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for part in [*parts, *getattr(query, "args", [])]:
        if part is not None:
            yield from _selectors(part)


def _query_problems(query: str, known: dict[str, set[str]]) -> list[str]:
    try:
        selectors = list(_selectors(promql_parser.parse(query)))
    except ValueError as error:
        return [f"{query}: {error}"]
    found = [f"{query}: {name} is not a metric" for name, _ in selectors if name not in known]
    return found + [
        f"{query}: {name} has no label {label}"
        for name, labels in selectors
        for label in sorted(labels - known.get(name, labels))
    ]


def _rule_problems(text: str) -> list[str]:
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    recorded = {rule["record"]: RECORDED.get(rule["record"], {"run", "recipe"}) for rule in rules if "record" in rule}
    known = METRICS | KUBERNETES_METRICS | recorded
    found = [word for rule in rules for word in _query_problems(rule["expr"], known)]
    alerts = [rule for rule in rules if "alert" in rule]
    for alert in alerts:
        if not {"summary", "description"} <= set(alert.get("annotations", {})) or "severity" not in alert.get(
            "labels", {}
        ):
            found.append(f"{alert['alert']} does not say what to do, or how urgently")
    names = {alert["alert"] for alert in alerts}
    return found + [f"{name} is not in both the rules and the tests" for name in sorted(ALERTS ^ names)]


def test_the_alerts_ask_for_what_the_service_reports() -> None:
    assert _rule_problems((INFRA / "prometheus-rules.yaml").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(ray_selfgan_step[", "(ray_selfgan_steps["),
        ("(ray_selfgan_step[", "(selfgan_step["),
        ("[1h] offset 16m", "[1h] offset fifteen"),
        ("selfgan:data_wait_ratio > 0.3", "selfgan:wait_ratio > 0.3"),
        ("by (run, recipe, term)", "by (run, recipe, name)"),
        ("alert: SelfganRestarts", "alert: Restarts"),
        ("severity: critical", "urgency: critical"),
        ("kube_cronjob_next_schedule_time", "kube_cronjob_next_schedule"),
        ('kube_job_owner{namespace="selfgan", owner_kind', 'kube_job_owner{namespace="selfgan", kind'),
        ("max by (namespace, statefulset)", "max by (namespace, deployment)"),
        ("selfgan:retraining_seconds > 64800", "selfgan:night_seconds > 64800"),
        ("alert: SelfganBackupMissing", "alert: SelfganBackup"),
        ("[1h])", "[1h]"),
    ],
)
def test_a_broken_alert_is_found_out(old: str, new: str) -> None:
    text = (INFRA / "prometheus-rules.yaml").read_text()
    assert old in text
    assert _rule_problems(text.replace(old, new, 1))


@pytest.fixture
def played(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Plays rules through with the cases of infra/prometheus-tests.yaml."""
    if not shutil.which("promtool"):
        pytest.skip("ALERTS NOT PLAYED THROUGH: promtool is not installed (Debian: prometheus); they were only parsed")

    def play(rules: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "prometheus-rules.yaml").write_text(rules)
        cases = shutil.copy(INFRA / "prometheus-tests.yaml", tmp_path)
        return subprocess.run(["promtool", "test", "rules", cases], capture_output=True, text=True, check=False)

    return play


def test_the_alerts_fire_when_they_should(played: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    done = played((INFRA / "prometheus-rules.yaml").read_text())
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("old", "new", "alert"),
    [
        ("> on (namespace, owner_name) max", "< on (namespace, owner_name) max", "RetrainingFailed"),
        ('condition="true"}) == 1', 'condition="true"}) == 0', "RetrainingFailed"),
        ('{owner_name="selfgan-ingest"}', '{owner_name="selfgan-retrain"}', "IngestFailed"),
        ('{namespace="selfgan"}) * 0', '{namespace="selfgan"}) + 9e9', "RetrainingFailed"),
        ("> 5400", "> 6000", "RetrainingMissed"),
        ("> 64800", "> 66000", "RetrainingLate"),
        ('and on (namespace, job_name) kube_job_status_active{namespace="selfgan"} > 0\n', "\n", "RetrainingLate"),
        ("ray_selfgan_step[4h]", "ray_selfgan_step[5h]", "NoFirstStep"),
        (" unless on () count(max_over_time(ray_selfgan_step[4h]))", "", "NoFirstStep"),
        ('deployment="mlflow"}) == 0', 'deployment="mlflow"}) < 0', "MlflowDown"),
        ('"postgres"}) == 0\n        for: 10m', '"postgres"}) == 0\n        for: 1m', "PostgresDown"),
        ("> 129600", "> 132000", "BackupMissing"),
        ('(kube_cronjob_created{namespace="selfgan", cronjob', '(x{namespace="selfgan", cronjob', "BackupMissing"),
    ],
)  # fmt: skip
def test_an_alert_that_fires_at_another_time_is_found_out(
    played: Callable[[str], subprocess.CompletedProcess[str]], old: str, new: str, alert: str
) -> None:
    text = (INFRA / "prometheus-rules.yaml").read_text()
    assert old in text
    done = played(text.replace(old, new, 1))
    assert done.returncode == 1
    assert f"Selfgan{alert}" in done.stdout + done.stderr


def test_the_runbook_says_what_to_do_for_each_alert() -> None:
    """In a table of its own; and of no alert that there is not."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    _, _, table = text.partition("## When an alert fires\n")
    assert set(re.findall(r"^\| `(\w+)` \|", table.partition("\n## ")[0], re.MULTILINE)) == ALERTS


def _dashboard_problems(dashboard: dict[str, Any]) -> list[str]:
    variables = {entry["name"]: entry for entry in dashboard["templating"]["list"]}
    found = [] if variables.get("datasource", {}).get("type") == "datasource" else ["there is no datasource to choose"]
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        found.append("two panels have one id")
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    found += [word for query in queries for word in _query_problems(query.replace("$", ""), METRICS)]
    text = json.dumps(dashboard)
    found += [f"${name} is not a variable" for name in set(re.findall(r"\$\{?(\w+)", text)) - {*variables, "__all"}]
    sources = [part["datasource"]["uid"] for panel in panels for part in [panel, *panel["targets"]]]
    found += [f"datasource {uid} is of one installation" for uid in sources if uid != "${datasource}"]
    return found + [f"{name} is not shown" for name in METRICS if not any(name in query for query in queries)]


def test_the_dashboard_shows_what_the_service_reports() -> None:
    assert _dashboard_problems(json.loads((INFRA / "grafana-dashboard.json").read_text())) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(ray_selfgan_attempts{", "(ray_selfgan_restarts{"),
        ('"uid": "${datasource}"\n      },\n      "gridPos"', '"uid": "PBFA97CFB590B2093"\n      },\n      "gridPos"'),
        ('"type": "datasource"', '"type": "textbox"'),
        ('run=~\\"$run\\"', 'run=~\\"$which\\"'),
        ("by (run, recipe, term)", "by (run, recipe, terms)"),
        ('"id": 2', '"id": 1'),
        ("max by (run, recipe) (", "max by (run, recipe ("),
    ],
)
def test_a_broken_dashboard_is_found_out(old: str, new: str) -> None:
    text = (INFRA / "grafana-dashboard.json").read_text()
    assert old in text
    assert _dashboard_problems(json.loads(text.replace(old, new, 1)))
