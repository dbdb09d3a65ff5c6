"""What is wrong with PromQL, with a Grafana dashboard, and, where promtool is, with alert rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import grafana_foundation_sdk.cog.plugins as grafana_plugins
import promql_parser
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.infra.documents import Document

# What a run exports, as Prometheus sees it.
COUNTERS = (
    "ray_p2l_images_total",
    "ray_p2l_nfe_total",
    "ray_p2l_steps_total",
    "ray_p2l_storage_retries_total",
)
HISTOGRAM = tuple(f"ray_p2l_image_seconds_{part}" for part in ("bucket", "sum", "count"))
GAUGES = (
    "ray_p2l_gpu_memory_bytes",
    "ray_p2l_rows_planned",
    "ray_p2l_rows_done",
    "ray_p2l_dollars_spent",
    "ray_p2l_dollars_planned",
)
LABELS = ("run", "status", "error", "le", "NodeAddress")
VARIABLES = {"$__rate_interval": "5m", "$run": ".*"}
OF_COUNTERS = ("rate", "increase")
COLUMNS = 24


def query_complaints(query: str) -> list[str]:
    """Whether a query parses, and reads metrics that there are, as their kind is to be read."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    try:
        expression = promql_parser.parse(query)
    except ValueError as error:
        return [f"{query}: {error}"]
    return [f"{query}: {complaint}" for complaint in _readings(expression)]


def metrics(query: str) -> set[str]:
    """The metrics that a query reads."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return {node.name for node in _nodes(promql_parser.parse(query)) if _is_selector(node)}


def dashboard_complaints(dashboard: Document) -> list[str]:
    """Fields that Grafana's types do not keep, kinds of panel that it has not, and panels that overlap."""
    grafana_plugins.register_default_plugins()
    typed = Dashboard.from_json(json.loads(json.dumps(dashboard)))
    found = list(_lost(dashboard, json.loads(JSONEncoder(sort_keys=True).encode(typed)), ""))
    found += [
        f"{panel.title}: there is no panel {panel.type_val!r}"
        for panel in typed.panels or ()
        if _untyped(panel)
    ]
    identities = [panel["id"] for panel in dashboard["panels"]]
    if len(set(identities)) < len(identities):
        found.append("two panels have one id")
    return found + list(_overlaps(dashboard["panels"]))


def queries(dashboard: Document) -> dict[str, str]:
    """Every query of a dashboard by its panel and letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def _readings(expression: Any) -> Iterator[str]:
    rated = {
        node.name
        for call in _nodes(expression)
        if isinstance(call, promql_parser.Call) and call.func.name in OF_COUNTERS
        for argument in call.args
        for node in _nodes(argument)
        if _is_selector(node)
    }
    for node in _nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            yield from (f"label {label}: unknown" for label in node.modifier.labels if label not in LABELS)
        if not _is_selector(node):
            continue
        labels = [matcher.name for matcher in node.matchers.matchers]
        yield from (f"{node.name}: label {label}: unknown" for label in labels if label not in LABELS)
        if node.name not in (*COUNTERS, *HISTOGRAM, *GAUGES):
            yield f"{node.name}: no run exports it"
        elif (node.name in rated) != (node.name not in GAUGES):
            yield f"{node.name}: a counter is read by rate or increase, a gauge is not"


def _nodes(expression: Any) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(expression, found.append)
    return found


def _is_selector(node: Any) -> bool:
    return isinstance(node, promql_parser.VectorSelector)


def _untyped(panel: Any) -> bool:
    return isinstance(panel.options, dict)


def _lost(given: Any, kept: Any, where: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from _lost(value, kept[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}: Grafana knows no such field"
    elif isinstance(given, list) and isinstance(kept, list):
        for index, pair in enumerate(zip(given, kept, strict=True)):
            yield from _lost(*pair, f"{where}.{index}")
    elif given != kept:
        yield f"{where}: got {given!r}, which Grafana reads as {kept!r}"


def _overlaps(panels: Sequence[Document]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{panel['title']}: wider than the page"
        cells = [
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        ]
        if over := {taken[cell] for cell in cells if cell in taken}:
            yield f"{panel['title']}: lies over {', '.join(sorted(over))}"
        taken.update((cell, panel["title"]) for cell in cells)
