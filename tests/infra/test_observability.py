"""The dashboard and the alerts: Grafana's types, PromQL, the metrics that there are, and promtool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.documents import INFRA, ROOT, Document, changed, tool
from tests.infra.observability_checks import (
    COUNTERS,
    GAUGES,
    HISTOGRAM,
    dashboard_complaints,
    metrics,
    queries,
    query_complaints,
)

FOLDER = INFRA / "observability"
DASHBOARD: Document = json.loads((FOLDER / "dashboard.json").read_text())
ALERTS = {
    rule["alert"]: rule for rule in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
}

needs_promtool = pytest.mark.skipif(
    tool("promtool") is None, reason="no promtool on this machine; Debian's package prometheus has it"
)


def test_the_metrics_that_are_checked_are_those_that_a_run_exports() -> None:
    source = (ROOT / "pipeline" / "observe" / "prometheus.py").read_text()
    exported = {f"ray_{name}" for name in re.findall(r'"(p2l_\w+)"', source)}
    assert {*COUNTERS, *GAUGES, HISTOGRAM[0].removesuffix("_bucket")} == exported


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = tool("promtool")
    assert program
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)


# The dashboard.


def test_grafana_keeps_every_field_of_the_dashboard() -> None:
    assert dashboard_complaints(DASHBOARD) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("titel", "P2L", ".titel: Grafana knows no such field"),
        ("panels 0 fieldConfig default", {}, "default: Grafana knows no such field"),
        ("panels 0 fieldConfig defaults units", "s", "units: Grafana knows no such field"),
        ("panels 0 options showThresholdLabel", True, "showThresholdLabel: Grafana knows no such field"),
        ("panels 0 targets 0 legend", "x", "legend: Grafana knows no such field"),
        ("panels 5 fieldConfig defaults custom fill", 1, "fill: Grafana knows no such field"),
        ("panels 0 type", "gauges", "Done: there is no panel 'gauges'"),
        ("panels 1 id", 1, "two panels have one id"),
        ("panels 1 gridPos x", 3, "Rows left: lies over Done"),
        ("panels 4 gridPos w", 9, "Will cost: wider than the page"),
    ],
)
def test_a_mistake_in_the_dashboard_is_named(path: str, value: Any, complaint: str) -> None:
    assert any(complaint in found for found in dashboard_complaints(changed(DASHBOARD, path, value)))


def test_the_dashboard_shows_everything_that_a_run_exports() -> None:
    shown = {name for query in queries(DASHBOARD).values() for name in metrics(query)}
    assert shown == {*COUNTERS, *HISTOGRAM, *GAUGES}


# Queries.


@pytest.mark.parametrize("query", queries(DASHBOARD).values(), ids=queries(DASHBOARD))
def test_a_query_of_the_dashboard_reads_metrics_that_there_are(query: str) -> None:
    assert query_complaints(query) == []


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_reads_metrics_that_there_are(alert: str) -> None:
    assert query_complaints(ALERTS[alert]["expr"]) == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(ray_p2l_nfe_total[5m])", "unclosed left parenthesis"),
        ("ray_p2l_rows_done[$__rate_intervall]", "bad number or duration"),
        ("sum by (run) ray_p2l_rows_done", "invalid promql query"),
        ("ray_p2l_row_done", "ray_p2l_row_done: no run exports it"),
        ("rate(ray_p2l_image_seconds[5m])", "ray_p2l_image_seconds: no run exports it"),
        ("ray_p2l_nfe_total", "a counter is read by rate or increase"),
        ("rate(ray_p2l_rows_done[5m])", "a gauge is not"),
        ("sum by (node) (ray_p2l_rows_done)", "label node: unknown"),
        ('increase(ray_p2l_images_total{state="ok"}[1h])', "label state: unknown"),
    ],
)
def test_a_mistake_in_a_query_is_named(query: str, complaint: str) -> None:
    (found,) = query_complaints(query)
    assert complaint in found


def test_no_progress_errors_and_cost_raise_alerts_that_say_what_to_do() -> None:
    assert {"P2LNoProgress", "P2LErrorRate", "P2LBudgetNearlySpent"} <= set(ALERTS)
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "for" in rule


# Prometheus' own tool.


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    done = promtool(FOLDER, "check", "rules", "alerts.yaml")
    assert done.returncode == 0, done.stderr


@needs_promtool
def test_the_alerts_pass_their_unit_tests() -> None:
    done = promtool(FOLDER, "test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_scrape_configuration(tmp_path: Path) -> None:
    """Debian's promtool is built without Kubernetes discovery, so that block alone is replaced for it."""
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = configuration["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["p2l"]}}]
    job["static_configs"] = [{"targets": ["127.0.0.1:8080"]}]
    (tmp_path / "alerts.yaml").write_bytes((FOLDER / "alerts.yaml").read_bytes())
    for name, content, code in (("good", {}, 0), ("bad", {"scrape_intervall": "15s"}, 1)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(configuration | content))
        done = promtool(tmp_path, "check", "config", f"{name}.yaml")
        assert done.returncode == code, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    "mistake",
    [
        lambda text: text.replace("for: 45m", "for: 3h"),
        lambda text: text.replace("for: 45m", "for: 15m"),
        lambda text: text.replace("ray_p2l_steps_total[15m]", "ray_p2l_steps_total[2h]"),
        lambda text: re.sub(r"unless sum .+", "", text),
        lambda text: re.sub(r"unless max .+", "", text),
        lambda text: text.replace("> 0.05 *", "> 0.5 *"),
        lambda text: text.replace(">= 20", ">= 2"),
        lambda text: text.replace("> 0.9 *", "> 0.5 *"),
        lambda text: re.sub(r"< max by .run. .ray_p2l_dollars_spent.+", "< 1", text),
        lambda text: text.replace("> 1.1 *", "> 0.9 *"),
        lambda text: text.replace("0.05 * max", "0.5 * max"),
    ],
)
def test_the_unit_tests_catch_a_changed_alert(mistake: Callable[[str], str], tmp_path: Path) -> None:
    good = (FOLDER / "alerts.yaml").read_text()
    bad = mistake(good)
    assert bad != good
    (tmp_path / "alerts.yaml").write_text(bad)
    (tmp_path / "alerts_test.yaml").write_bytes((FOLDER / "alerts_test.yaml").read_bytes())
    assert promtool(tmp_path, "check", "rules", "alerts.yaml").returncode == 0
    assert promtool(tmp_path, "test", "rules", "alerts_test.yaml").returncode == 1


@needs_promtool
def test_promtool_names_a_wrong_field(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text((FOLDER / "alerts.yaml").read_text().replace("expr:", "exp:", 1))
    assert "field exp not found" in promtool(tmp_path, "check", "rules", "alerts.yaml").stderr
