"""Fill the page's template and write it: one file with its style, script and images inside."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from p2l_engine import operators
from pipeline.output import scores
from pipeline.output.folder import PROMPTS, REPORT, RUN, SUMMARY, OutputFolder
from pipeline.output.rows import all_rows
from pipeline.output.versions import upgrades
from pipeline.results import noise
from pipeline.results.report import charts, collect, gallery, text
from pipeline.stores import storage

SAMPLE = 12  # images drawn evenly from the whole run, besides the best and the worst
ATTEMPTS = 5  # shards do not become whole faster than this


def write_report(output: str, sample: int = SAMPLE) -> str:
    """Write `report.html` into the output folder at `output` (any fsspec URL) and return its URL.

    Metrics are read for every row; images only for the rows shown: the two ends of the ranking and `sample`
    drawn evenly from the rest. Raises FileNotFoundError when the folder holds no run.
    """
    folder = OutputFolder(output)
    folder.check()
    url = folder.at(REPORT)
    storage.write_text(url, _render_while_it_runs(folder, sample))
    return url


def _render_while_it_runs(output: OutputFolder, sample: int) -> str:
    """The page of a run that may be under way: commits that have become part of a shard are read there."""
    for _ in range(ATTEMPTS - 1):
        try:
            return render(output, sample)
        except FileNotFoundError:
            continue
    return render(output, sample)


def render(output: OutputFolder, sample: int = SAMPLE) -> str:
    """The page as one string."""
    run, summary = output.json(RUN), output.json(SUMMARY)
    config = run.get("config", {})
    rows = all_rows(output, collect.COLUMNS)
    summed_up = output.json(scores.SCORES_FILE)
    networks = scores.networks(output, summed_up)
    distances = scores.distances(output, networks)
    residuals = noise.check(rows, config.get("noise") or 0.0)
    choices = gallery.choose(rows, sample, int(config.get("seed") or 0))
    environment = Environment(
        loader=PackageLoader("pipeline.results.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=_title(config),
        headline=_headline(config),
        counts=collect.counts(rows),
        sections=gallery.show(output, choices),
        histograms=collect.histograms(rows, distances, residuals),
        noise_told=collect.noise_told(config, residuals),
        prompts=collect.prompts(output.json(PROMPTS)),
        sets=collect.sets(summed_up if networks else {}),
        errors=collect.causes(rows),
        left_out=summary.get("left_out", ()),
        throughput=collect.throughput(rows, summary),
        settings=text.pairs(config),
        upgrades=upgrades(run.get("starts", [])),
        versions=text.pairs(run.get("versions", {})),
        fingerprint=run.get("fingerprint"),
        output=output.url,
        number=text.number,
        chart=(charts.WIDTH, charts.HEIGHT),
        style=_asset("style.css"),
        script=_asset("script.js"),
    )


def _asset(name: str) -> Markup:
    return Markup(resources.files("pipeline.results.report").joinpath(name).read_text(encoding="utf-8"))


def _named(block: Any) -> tuple[str, dict[str, Any]]:
    """A configuration block given as a name or as {name, ...}: the name and the other settings."""
    if isinstance(block, Mapping):
        return str(block.get("name") or block.get("id") or ""), {
            k: v for k, v in block.items() if k != "name"
        }
    return str(block or ""), {}


def _title(config: Mapping[str, Any]) -> str:
    """The operator in words, where run.json says which it is."""
    return operators.from_block(config["operator"]).title if "operator" in config else "Restoration"


def _headline(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The settings that a reader asks for first; those that the job lacks are left out."""
    method, settings = _named(config.get("method"))
    preset = settings.get("preset")
    facts = {
        "method": f"{method} ({preset})" if preset else method,
        "steps": settings.get("steps"),
        "model": _named(config.get("model"))[0],
        "noise σ": config.get("noise"),
        "size": " × ".join(map(str, config.get("size") or [])),
        "seed": config.get("seed"),
        "input": text.words(config.get("input", [])),
    }
    return tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))
