"""What a run tells while it works, read from Ray's own /metrics and log folder, and what its workers took."""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from pipeline.cluster import session
from pipeline.config import ConfigError, JobConfig
from pipeline.observe import logs, observer, prometheus
from pipeline.observe.observer import observing
from pipeline.observe.prometheus import ActorMetrics, DriverMetrics
from pipeline.output import usage_json
from pipeline.output.folder import OutputFolder
from pipeline.output.usage_json import StartUsage, Usage
from pipeline.run.run import run
from pipeline.worker.receipts import RECEIPT_SCHEMA
from tests.pipeline.small_jobs import job, png, write_parquet

pytestmark = pytest.mark.usefixtures("ray_cluster")
PRICE = 3.6  # USD an hour: a tenth of a cent a second


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[JobConfig, float]:
    """A finished job of two shards, six rows ok and two that are no images, and its wall-clock seconds."""
    folder = tmp_path_factory.mktemp("observed")
    write_parquet(folder / "input" / "a.parquet", {f"a-{row}": png(row) for row in range(4)})
    images = {"b-0": png(8), "b-1": b"text", "b-2": png(9), "b\n3": b"text"}
    write_parquet(folder / "input" / "b.parquet", images)
    config = job(
        folder / "input",
        folder / "output",
        operator={"name": "linear", "function": "tests.pipeline.small_jobs:no_memory_for_two"},
        seed=20260,  # a fingerprint that no other test has
        price=PRICE,
        budget=5,
    )
    start = time.monotonic()
    assert run(config).exit_status == 3
    return config, time.monotonic() - start


def scraped(run_name: str) -> dict[tuple[str, str], float]:
    """A run's metrics, summed over workers, by name and status, error or bucket, as the node serves them."""
    node = next(node for node in ray.nodes() if node["Alive"])  # other tests had more
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=60) as page:
        families = text_string_to_metric_families(page.read().decode())
    sums: dict[tuple[str, str], float] = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.startswith("ray_p2l_") and sample.labels["run"] == run_name:
            kind = next((sample.labels[tag] for tag in ("status", "error", "le") if tag in sample.labels), "")
            sums[sample.name, kind] = sums.get((sample.name, kind), 0.0) + sample.value
    return sums


def scraped_with(run_name: str, wanted: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """A run's metrics once those wanted are among them: Ray collects from its processes every ten seconds."""
    deadline = time.monotonic() + 120
    while not wanted.items() <= (found := scraped(run_name)).items():
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_the_metrics_of_a_run_are_at_the_nodes_metrics_endpoint(observed: tuple[JobConfig, float]) -> None:
    config, _ = observed
    DriverMetrics(config.fingerprint).retried({"HTTP 503": 2})
    DriverMetrics("by hand").set(planned=3, done=0, spent=None, budget=None)
    by_hand: list[dict[str, Any]] = [
        {"status": "ok", "seconds": 1.0, "nfe": 40},
        {"status": "error", "nfe": 2},
        {"status": "error"},
    ]
    by_actor = ActorMetrics("by hand", "cpu")
    by_actor.committed(by_hand)
    by_actor.stepped(1, 1000)
    by_actor.stepped(2, 1000)
    seconds = [row["seconds"] for row in rows_of(config) if row["status"] == "ok"]
    wanted = {
        ("ray_p2l_images_total", "ok"): 6,
        ("ray_p2l_images_total", "error"): 2,
        ("ray_p2l_image_seconds_count", ""): 6,
        ("ray_p2l_rows_planned", ""): 8,
        ("ray_p2l_rows_done", ""): 8,
        ("ray_p2l_dollars_planned", ""): 5,
        ("ray_p2l_storage_retries_total", "HTTP 503"): 2,
    }
    for bound in prometheus.SECONDS:
        within = sum(second <= bound for second in seconds)
        wanted["ray_p2l_image_seconds_bucket", str(bound)] = within
    found = scraped_with(config.fingerprint, wanted)
    assert found["ray_p2l_dollars_spent", ""] == pytest.approx(summary(config)["cost"]["dollars"], abs=1e-5)
    assert ("ray_p2l_gpu_memory_bytes", "") not in found, "there is no GPU here"
    wanted = {
        ("ray_p2l_rows_planned", ""): 3,
        ("ray_p2l_nfe_total", ""): 42,
        ("ray_p2l_images_total", "error"): 2,
        ("ray_p2l_steps_total", ""): 2,
    }
    found = scraped_with("by hand", wanted)
    assert ("ray_p2l_dollars_spent", "") not in found and ("ray_p2l_dollars_planned", "") not in found


def summary(config: JobConfig) -> dict[str, Any]:
    return json.loads((Path(config.output) / "summary.json").read_text())


def rows_of(config: JobConfig) -> list[dict[str, Any]]:
    return pq.read_table(Path(config.output) / "metrics.parquet").to_pylist()


def test_every_event_of_a_run_is_one_json_line_in_rays_log_folder(observed: tuple[JobConfig, float]) -> None:
    config, _ = observed
    lines = (session.log_folder() / f"p2l-{config.fingerprint}.log").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["run"] for event in events} == {config.fingerprint}
    assert all(event["time"] and event["severity"] and event["node_id"] for event in events)

    told = [event["message"] for event in events]
    assert told[:2] == ["run started", "rows counted"] and told[-1] == "run complete"
    assert sum(event["rows"] for event in events if event["message"] == "commit") == 8
    assert [e["shard"] for e in sorted(of("shard whole", events), key=lambda e: e["shard"])] == ["a", "b"]
    failed = sorted(of("row failed", events), key=lambda event: event["key"])
    assert [(event["shard"], event["key"], event["cause"]) for event in failed] == [
        ("b", "b\n3", "cannot decode the image"),
        ("b", "b-1", "cannot decode the image"),
    ]
    assert {event["severity"] for event in failed} == {"ERROR"}


def of(message: str, events: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event for event in events if event["message"] == message]


def test_what_a_worker_logs_is_in_its_file_in_rays_log_folder(observed: tuple[JobConfig, float]) -> None:
    config, _ = observed
    lines = [
        line
        for file in session.log_folder().glob("worker-*.err")
        for line in file.read_text().splitlines()
        if config.fingerprint in line
    ]
    first, second = (json.loads(line) for line in lines if "memory ran out" in line)
    assert (first["severity"], first["images"], first["next"]) == ("WARNING", 2, 64)
    event = second
    assert (event["images"], event["next"]) == (2, 1), "it ran out again"
    assert event["run"] == config.fingerprint and event["actor_id"]


def test_the_summary_says_what_the_workers_took_and_cost(observed: tuple[JobConfig, float]) -> None:
    config, wall = observed
    cost = summary(config)["cost"]
    assert cost["usd_per_worker_hour"] == PRICE
    assert 0 < cost["row_seconds"] <= cost["worker_seconds"] < wall
    assert cost["dollars"] == pytest.approx(cost["worker_seconds"] / 1000, abs=1e-5)
    assert cost["dollars_of_rows"] == pytest.approx(cost["row_seconds"] / 1000, abs=1e-5)
    (start,) = usage_json.read(OutputFolder(config.output))
    assert (start.rows, start.workers, start.usd_per_worker_hour) == (8, 1, PRICE)


def test_a_second_start_adds_its_cost_and_logs_to_standard_error_when_told(
    observed: tuple[JobConfig, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = observed
    first = summary(config)["cost"]
    (Path(config.output) / "restored" / "a.parquet").unlink()
    monkeypatch.setenv("P2L_LOG", "json")
    assert run(config.model_copy(update={"price": 36.0})).rows == 8
    shown = capsys.readouterr().err.splitlines()
    events = [json.loads(line) for line in shown if line.startswith("{")]
    assert len(of("commit", events)) == 2 and of("run complete", events)
    assert [line for line in shown if line.startswith("restored 8 of 8 rows")], "progress stays"
    second = summary(config)["cost"]
    added = second["worker_seconds"] - first["worker_seconds"]
    assert [start.rows for start in usage_json.read(OutputFolder(config.output))] == [8, 4] and added > 0
    assert second["dollars"] == pytest.approx(first["dollars"] + added / 100, abs=1e-4), (
        "each at its own price"
    )


@pytest.mark.parametrize(
    ("error", "told", "severity", "said"),
    [
        (OSError("the disk is full"), "run failed", "ERROR", "the disk is full"),
        (KeyboardInterrupt(), "run stopped", "WARNING", "KeyboardInterrupt"),
    ],
)
def test_how_a_run_ended_early_is_logged_away_from_the_terminal(
    error: BaseException,
    told: str,
    severity: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = job(tmp_path, tmp_path / "output", prompt=told, price=PRICE)
    with pytest.raises(type(error)), observing(config) as observer:
        observer.counted(7, 3)
        observer.committed(receipts(("x", 100.0), source_shard="a", status="ok"))
        raise error
    last = (session.log_folder() / f"p2l-{config.fingerprint}.log").read_text().splitlines()[-1]
    event = json.loads(last)
    assert (event["message"], event["severity"], event["error"]) == (told, severity, said)
    assert (event["rows"], event["done"], event["dollars"]) == (7, 4, pytest.approx(0.1))
    assert usage_json.read(OutputFolder(config.output))[0].worker_seconds == 100
    assert "run " not in capsys.readouterr().err


def test_gauges_are_set_again_and_again_between_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets one that was not set for twenty seconds, and an alert on it could never come."""
    told: list[tuple[int, int]] = []
    third = Event()

    def listening(self: DriverMetrics, *, planned: int, done: int, **others: Any) -> None:
        told.append((planned, done))
        if len(told) == 3:
            third.set()

    monkeypatch.setattr(DriverMetrics, "set", listening)
    monkeypatch.setattr(observer, "SECONDS_BETWEEN_GAUGES", 0.01)
    with observing(job(tmp_path, tmp_path / "output")) as one:
        assert not third.wait(0.1) and told == [], "rows are not counted yet"
        one.counted(7, 3)
        assert third.wait(60)
    assert set(told) == {(7, 3)}


def receipts(*workers: tuple[str, float], **columns: str) -> pa.Table:
    rows = [{"actor": worker, "actor_seconds": seconds} | columns for worker, seconds in workers]
    return pa.Table.from_pylist(rows, schema=RECEIPT_SCHEMA)


def test_workers_are_counted_to_their_last_commit_and_a_restarted_one_apart(tmp_path: Path) -> None:
    counted = Usage(OutputFolder(str(tmp_path)), price=None)
    for table in (receipts(("x", 10.0), ("x", 10.0)), receipts(("y", 5.0)), receipts(("x", 30.0))):
        counted.committed(table)
    assert counted.dollars is None and not (tmp_path / "usage.json").exists()
    counted.write()
    assert usage_json.read(OutputFolder(str(tmp_path))) == counted.starts
    assert (counted.starts[0].rows, counted.starts[0].workers, counted.starts[0].worker_seconds) == (
        4,
        2,
        35.0,
    )


def test_a_long_start_writes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_json, "SECONDS_BETWEEN_WRITES", 0.0)
    Usage(OutputFolder(str(tmp_path)), price=1.0).committed(receipts(("x", 3600.0)))
    assert usage_json.cost(OutputFolder(str(tmp_path)), None, 1800.0) == {
        "usd_per_worker_hour": None,
        "gpu_seconds": 0.0,
        "worker_seconds": 3600.0,
        "dollars": 1.0,
        "row_seconds": 1800.0,
        "dollars_of_rows": None,
    }


def test_a_start_without_a_price_takes_the_one_given_later() -> None:
    starts = [StartUsage("", 1, 1, 3600.0, None), StartUsage("", 1, 1, 1800.0, 4.0)]
    assert usage_json.dollars(starts, 3.0) == 5.0 and usage_json.dollars(starts, None) is None


def test_retries_are_counted_once(ray_cluster: None) -> None:
    metrics = DriverMetrics("retries")
    assert metrics.retried({"SlowDown": 2}) == {"SlowDown": 2}
    assert metrics.retried({"SlowDown": 2, "HTTP 500": 1}) == {"HTTP 500": 1}
    assert metrics.retried({"SlowDown": 5, "HTTP 500": 1}) == {"SlowDown": 3}


@pytest.fixture
def package_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("pipeline")
    logger.handlers.clear()  # of actors that other tests made in this process
    yield logger
    logger.handlers.clear()


def test_values_from_data_cannot_make_two_lines_or_a_long_one(
    package_logger: logging.Logger, tmp_path: Path
) -> None:
    with logs.of_driver("abc", tmp_path):
        logging.getLogger("pipeline.x").error(
            "row failed", extra={"key": 'a"\n{"run": "fake"}' + "k" * 10**6}
        )
    (line,) = (tmp_path / "p2l-abc.log").read_text().splitlines()
    event = json.loads(line)
    assert event["run"] == "abc" and event["key"].startswith('a"\n{') and len(event["key"]) == logs.LONGEST
    assert not package_logger.handlers


def test_another_value_of_the_log_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2L_LOG", "text")
    with (
        pytest.raises(ConfigError, match="P2L_LOG: got 'text'; allowed: json"),
        logs.of_driver("abc", tmp_path),
    ):
        pass
