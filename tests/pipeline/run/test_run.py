"""A run end to end on real Ray and real files: what stands in the output, and what a second start does."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from p2l_engine.metrics import psnr, ssim
from pipeline.config import ConfigError, JobConfig, load_config
from pipeline.input import sources
from pipeline.input.rows import changed
from pipeline.output.columns import METRICS_SCHEMA, OUTPUT_SCHEMA
from pipeline.output.commits import commit
from pipeline.output.folder import OutputFolder
from pipeline.run import graph
from pipeline.run.run import RunError, run
from pipeline.stores import storage
from pipeline.worker.items import Item
from tests.pipeline.small_jobs import SIDE, job, png, settings, write_parquet, write_shards, write_tar

pytestmark = pytest.mark.usefixtures("ray_cluster")


def restored(output: Path, shard: str) -> list[dict]:
    return pq.read_table(output / "restored" / f"{shard}.parquet").to_pylist()


def stored_files(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


def image_of(cell: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """The folder of a finished run, in `output`, of three shards, in `input`."""
    folder = tmp_path_factory.mktemp("finished")
    write_shards(folder / "input")
    summary = run(job(folder / "input", folder / "output"))
    assert (summary.rows, summary.ok, summary.errors, summary.exit_status) == (15, 15, 0, 0)
    return folder


def test_a_size_without_memory_for_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_shards(tmp_path / "input", "a")
    method = {"name": "ldps", "steps": 1}
    huge = job(tmp_path / "input", tmp_path / "output", model="tiny", method=method, size=[16384, 32768])
    with pytest.raises(ConfigError, match=r"size: too large .* 16384x32768 .* allowed: at most (\d+)x(\d+)"):
        run(huge)
    assert not (tmp_path / "output" / "run.json").exists()


def test_every_input_row_has_one_row_in_its_shard_in_the_input_order(finished: Path) -> None:
    for name in "abc":
        assert [row["key"] for row in restored(finished / "output", name)] == [
            f"{name}-{row}" for row in range(5)
        ]
    assert stored_files(finished / "output") == [
        "metrics.parquet",
        "progress.json",
        *(f"restored/{name}.parquet" for name in "abc"),
        "run.json",
        "summary.json",
        "usage.json",
    ]


def test_rows_hold_every_column_of_the_contract_and_true_metrics(finished: Path) -> None:
    path = finished / "output" / "restored" / "a.parquet"
    assert pq.read_schema(path).equals(OUTPUT_SCHEMA, check_metadata=True)
    for row in pq.read_table(path).to_pylist():
        image, reference = image_of(row["image"]), image_of(row["reference"])
        assert image_of(row["measurement"]).shape == (SIDE // 4, SIDE // 4, 3)
        assert (row["height"], row["width"]) == image.shape[:2] == (SIDE, SIDE)
        assert row["psnr"] == psnr(reference, image)
        assert row["ssim"] == ssim(reference, image)
        assert row["residual"] < 0.05 and row["seconds"] > 0 and row["error"] is None
    keys = {row["key"]: image_of(row["reference"]) for row in pq.read_table(path).to_pylist()}
    assert (keys["a-1"] == image_of({"bytes": png(1)})).all()


def test_metrics_are_the_same_rows_without_images(finished: Path) -> None:
    table = pq.read_table(finished / "output" / "metrics.parquet")
    assert table.schema.names == METRICS_SCHEMA.names
    assert table.column("key").to_pylist() == [f"{name}-{row}" for name in "abc" for row in range(5)]


def test_pandas_duckdb_and_datasets_read_the_output(finished: Path, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas

    pattern = str(finished / "output" / "restored" / "*.parquet")
    frame = pandas.read_parquet(finished / "output" / "restored")
    assert len(frame) == 15 and frame["image"][0]["bytes"].startswith(b"\x89PNG")
    query = f"select count(*), count(distinct key), avg(psnr) from read_parquet('{pattern}')"
    counted = duckdb.query(query)
    assert counted is not None
    rows, keys, mean = counted.df().iloc[0]
    assert (rows, keys) == (15, 15) and np.isclose(mean, frame["psnr"].mean())
    table = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    assert isinstance(table.features["image"], datasets.Image)
    assert table[0]["image"].size == (SIDE, SIDE) and table[0]["image"].mode == "RGB"


def test_the_features_are_written_in_words_that_every_version_of_datasets_reads() -> None:
    for schema in (OUTPUT_SCHEMA, METRICS_SCHEMA):
        (said,) = schema.metadata.values()
        assert set(re.findall(r'"_type": "(\w+)"', said.decode())) <= {"Value", "Image", "Sequence"}


def test_a_second_start_of_a_finished_run_does_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts no Ray, and reads neither an input nor a restored image."""
    before = {
        path: (finished / "output" / path).stat().st_mtime_ns for path in stored_files(finished / "output")
    }
    opened: list[str] = []
    open_read = storage.open_read

    def counted(url: str, **how: int) -> BinaryIO:
        opened.append(url)
        return open_read(url, **how)

    monkeypatch.setattr(storage, "open_read", counted)
    monkeypatch.setattr("pipeline.run.run.ray_session", pytest.fail)
    summary = run(job(finished / "input", finished / "output"))
    assert (summary.rows, summary.exit_status) == (15, 0)
    assert [url.rpartition("/")[2] for url in opened] == ["metrics.parquet"]
    assert before == {path: (finished / "output" / path).stat().st_mtime_ns for path in before}


def test_changed_settings_are_refused_with_both_values(finished: Path) -> None:
    other = job(finished / "input", finished / "output", noise=0.05, seed=3)
    with pytest.raises(ConfigError) as refused:
        run(other)
    assert "noise: 0.01 -> 0.05" in refused.value.problems and "seed: 0 -> 3" in refused.value.problems


def test_other_columns_than_the_rows_have_are_refused(finished: Path) -> None:
    other = job(finished / "input", finished / "output", keep=["reference"])
    with pytest.raises(ConfigError) as refused:
        run(other)
    assert refused.value.problems[1:] == ['keep: ["measurement", "reference"] -> ["reference"]']
    assert run(job(finished / "input", finished / "output", keep=["reference", "measurement"])).ok == 15


def test_an_input_that_moved_goes_on_and_one_of_other_rows_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "input", tmp_path / "moved")
    assert run(job(tmp_path / "moved", finished / "output")).ok == 15
    write_parquet(tmp_path / "moved" / "b.parquet", {"other": png(0)})
    with pytest.raises(RunError, match="b.parquet: has other rows than the whole shard b was made of"):
        run(job(tmp_path / "moved", finished / "output"))


def test_a_file_that_was_written_over_under_its_name_is_refused_by_the_next_start_with_work(
    tmp_path: Path,
) -> None:
    write_shards(tmp_path / "input", "ab")
    config = job(tmp_path / "input", tmp_path / "output")
    assert run(config, shards="a").ok == 5
    write_parquet(tmp_path / "input" / "a.parquet", {"other": png(0)})
    with pytest.raises(RunError, match="a.parquet: has other rows than the whole shard a was made of"):
        run(config)


def test_a_lost_table_of_metrics_is_written_again(resumed: JobConfig) -> None:
    (Path(resumed.output) / "metrics.parquet").unlink()
    assert run(resumed, shards="[ab]").ok == 10
    assert pq.read_metadata(Path(resumed.output) / "metrics.parquet").num_rows == 10


def test_what_a_worker_says_of_its_shard_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster it comes as an error of Ray's that holds it."""

    @ray.remote
    def worker() -> None:
        raise changed("a.parquet")

    monkeypatch.setattr("pipeline.run.run._restore", lambda *_: ray.get(worker.remote()))
    write_shards(tmp_path / "input", "a")
    with pytest.raises(RunError) as ended:
        run(job(tmp_path / "input", tmp_path / "output"))
    assert str(ended.value) == "a.parquet: has other rows than when the run began"


def test_settings_that_change_no_result_may_change(finished: Path) -> None:
    assert run(job(finished / "input", finished / "output", workers=2, commit_every=5)).exit_status == 0


def test_run_json_is_the_whole_job_and_can_be_run_again(finished: Path) -> None:
    stored = json.loads((finished / "output" / "run.json").read_text())
    again = load_config(stored["config"])
    assert again == job(finished / "input", finished / "output")
    assert again.fingerprint == stored["fingerprint"] and stored["versions"]["ray"] == ray.__version__


def test_summary_counts_and_measures(finished: Path) -> None:
    summary = json.loads((finished / "output" / "summary.json").read_text())
    psnrs = pq.read_table(finished / "output" / "metrics.parquet").column("psnr").to_numpy()
    assert summary["complete"] and (summary["rows"], summary["ok"], summary["error_rows"]) == (15, 15, 0)
    assert np.isclose(summary["metrics"]["psnr"]["mean"], psnrs.mean())
    assert np.isclose(summary["metrics"]["psnr"]["quantiles"]["0.25"], np.quantile(psnrs, 0.25))


def test_rows_that_cannot_be_restored_are_error_rows_and_only_they_are_retried(tmp_path: Path) -> None:
    images = {"good": png(1), "empty": b"", "text": b"not an image", "null": None, "cut": png(2)[:60]}
    source = write_parquet(tmp_path / "bad.parquet", images)
    config = job(source, tmp_path / "output")
    summary = run(config)
    assert (summary.rows, summary.ok, summary.errors, summary.exit_status) == (5, 1, 4, 3)
    rows = {row["key"]: row for row in restored(tmp_path / "output", "bad")}
    assert rows["good"]["status"] == "ok" and rows["good"]["error"] is None
    assert all(
        rows[key]["status"] == "error" and rows[key]["image"] is None for key in images if key != "good"
    )
    assert rows["text"]["error"].startswith("cannot decode the image: its 12 bytes are none of JPEG, PNG, ")
    stored = json.loads((tmp_path / "output" / "summary.json").read_text())
    assert {error["cause"]: error["count"] for error in stored["errors"]} == {
        "no image": 2,
        "cannot decode the image": 2,
    }
    assert run(config).exit_status == 3

    write_parquet(source, images | {"text": png(3), "null": png(4)})
    summary = run(config, retry_errors=True)
    assert (summary.ok, summary.errors, summary.exit_status) == (3, 2, 3)
    again = {row["key"]: row for row in restored(tmp_path / "output", "bad")}
    assert list(again) == list(images) and again["good"] == rows["good"]
    assert again["text"]["status"] == again["null"]["status"] == "ok"
    assert not (tmp_path / "output" / "unfinished" / "bad").exists()


def test_a_run_of_many_commits_is_done_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is a Dataset, whose statistics the driver drops before the next."""
    parts = []
    receipts = graph.receipts

    def counted(config: JobConfig, part: Sequence[Item], *more: Any) -> Any:
        parts.append(len(part))
        return receipts(config, part, *more)

    monkeypatch.setattr(graph, "ITEMS_AT_ONCE", 3)  # of two rows or the last of a shard, so a shard
    monkeypatch.setattr(graph, "receipts", counted)
    assert run(job(write_shards(tmp_path / "input", "ab"), tmp_path / "output")).ok == 10
    assert parts == [3, 3]
    keys = [row["key"] for name in "ab" for row in restored(tmp_path / "output", name)]
    assert keys == [f"{name}-{row}" for name in "ab" for row in range(5)]


@pytest.fixture(scope="module")
def resumed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A job whose run was cut short in many places, and went on for shards a and b alone.

    Of a three rows stood in a commit, with an nfe of 12345. Of b the shard was whole, and a commit and a
    temporary file were left, as by a process that is killed while it makes a shard whole. c was missing.
    """
    folder = tmp_path_factory.mktemp("resumed")
    shutil.copytree(finished / "output", folder / "output")
    config = job(finished / "input", folder / "output")
    rows = restored(folder / "output", "a")
    commit(OutputFolder(config.output), "a", [row | {"nfe": 12345} for row in rows[1:4]])
    commit(OutputFolder(config.output), "b", restored(folder / "output", "b")[:2])
    (folder / "output" / "restored" / f".b.parquet.1234{storage.LEFTOVER_SUFFIX}").write_bytes(b"half")
    for name in ("restored/a.parquet", "restored/c.parquet", "summary.json"):
        (folder / "output" / name).unlink()
    assert run(config, shards="[ab]").ok == 10
    return config


def test_what_is_committed_is_not_restored_again(resumed: JobConfig) -> None:
    assert [row["nfe"] for row in restored(Path(resumed.output), "a")] == [0, 12345, 12345, 12345, 0]


def test_a_shard_left_between_its_file_and_its_commits_is_tidied(resumed: JobConfig, finished: Path) -> None:
    assert restored(Path(resumed.output), "b") == restored(finished / "output", "b")
    names = stored_files(Path(resumed.output))
    assert not [name for name in names if "unfinished" in name or ".tmp" in name]


def test_only_the_named_shards_are_restored(resumed: JobConfig) -> None:
    assert OutputFolder(resumed.output).restored() == ["a", "b"]
    assert not json.loads((Path(resumed.output) / "summary.json").read_text())["complete"]
    with pytest.raises(RunError, match="matches none of a, b, c"):
        run(resumed, shards="d*")


def test_bad_keys_are_all_named_before_anything_is_restored(tmp_path: Path) -> None:
    write_parquet(tmp_path / "input" / "a.parquet", {"x": png(0), "y": png(1)})
    write_parquet(tmp_path / "input" / "b.parquet", {"x": png(2), "z": png(3)})
    write_parquet(tmp_path / "input" / "c.parquet", {7.5: png(4)})
    write_parquet(tmp_path / "input" / "d.parquet", {"w": png(5), None: png(6), "": png(7)})
    with pytest.raises(RunError) as refused:
        run(job(tmp_path / "input", tmp_path / "output"))
    message = str(refused.value)
    assert "1 keys occur more than once: 'x' (a row 0, b row 0)" in message
    assert "c.parquet: 1 keys that are not text: 7.5 (float, row 0)" in message
    assert "d.parquet: 2 rows without a key: rows 1, 2" in message
    assert not (tmp_path / "output" / "restored").exists()


def test_tars_folders_of_images_and_empty_shards_give_one_output_shard_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "IMAGES_PER_SHARD", 3)
    write_tar(tmp_path / "tars" / "t.tar", {f"{row}.png": png(row) for row in range(3)})
    folder = tmp_path / "photos"
    for row in range(5):
        (folder / str(row % 2)).mkdir(parents=True, exist_ok=True)
        (folder / str(row % 2) / f"{row}.png").write_bytes(png(10 + row))
    write_parquet(tmp_path / "empty.parquet", {})
    inputs = [str(tmp_path / "tars"), str(folder), str(tmp_path / "empty.parquet")]
    config = job(tmp_path, tmp_path / "output", input=inputs)
    assert run(config).ok == 8
    assert restored(tmp_path / "output", "empty") == []
    assert [row["key"] for row in restored(tmp_path / "output", "t")] == ["0", "1", "2"]
    assert [row["key"] for row in restored(tmp_path / "output", "photos-00000")] == [
        "0/0.png",
        "0/2.png",
        "0/4.png",
    ]
    assert [row["key"] for row in restored(tmp_path / "output", "photos-00001")] == ["1/1.png", "1/3.png"]

    (folder / "1" / "2.png").write_bytes(png(99))
    with pytest.raises(
        RunError,
        match="1 shards, the first photos-00001, were restored, or an earlier version read fewer; undo that",
    ):
        run(config)


def test_missing_input_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunError, match="nothing: the folder is empty"):
        run(load_config(settings(tmp_path / "nothing", tmp_path / "output")))
