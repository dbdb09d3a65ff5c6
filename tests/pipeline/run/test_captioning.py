"""Captions on real Ray: made once, before restoring, stopped at any moment, and taken by a later run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import ConfigError, JobConfig
from pipeline.run import captioning
from pipeline.run.run import run
from tests.pipeline.small_jobs import job, png, write_parquet
from tests.pipeline.worker.test_captions import P2L

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]


def captions_of(folder: str) -> dict[str, Any]:
    """Of the rows of an output, by key."""
    rows = [
        row for file in Path(folder, "restored").glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    return {row["key"]: row["caption"] for row in rows}


def written(folder: str) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path(folder, "captions").glob("*.parquet")}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, captioner_folder: Path
) -> JobConfig:
    """A run that was stopped when one of its two shards was captioned, and begun again."""
    folder = tmp_path_factory.mktemp("captioned")
    write_parquet(folder / "input" / "a.parquet", {"a-0": png(1, 64), "a-1": png(2, 64)})
    write_parquet(folder / "input" / "b.parquet", {"b-0": png(3, 64), "b-1": b"junk"})
    block = {"model": str(captioner_folder), "from": "measurement"}
    config = job(folder / "input", folder / "output", **P2L, caption=block)

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioning, "SECONDS_BETWEEN_LINES", 0)
        patch.setattr(
            "pipeline.run.run.say", lambda line: stop(line) if line.startswith("captioned") else None
        )
        with pytest.raises(KeyboardInterrupt, match="captioned 1 of 2 shards"):
            run(config)
    before = written(config.output)
    assert before and not Path(config.output, "restored").exists()
    summary = run(config)
    assert (summary.ok, summary.errors) == (3, 1)
    assert before.items() <= written(config.output).items(), "what was captioned is not captioned again"
    return config


def test_each_row_has_the_caption_that_its_prompt_was_made_of(finished: JobConfig) -> None:
    found = captions_of(finished.output)
    stored = {
        row["key"]: row["caption"]
        for name in "ab"
        for row in pq.read_table(Path(finished.output, "captions", f"{name}.parquet")).to_pylist()
    }
    assert found == stored and sorted(found) == ["a-0", "a-1", "b-0", "b-1"]
    assert len({found["a-0"], found["a-1"], found["b-0"]}) == 3 and found["b-1"] is None


def test_a_later_run_takes_the_captions_by_key_and_needs_no_captioner(
    finished: JobConfig, tmp_path: Path
) -> None:
    source, later = Path(finished.input[0]), tmp_path / "later"
    write_parquet(tmp_path / "input" / "a.parquet", {"new": png(9, 64), "a-1": png(2, 64)})
    (tmp_path / "input" / "b.parquet").write_bytes((source / "b.parquet").read_bytes())
    settings = P2L | {"method": P2L["method"] | {"steps": 2}}
    config = job(tmp_path / "input", later, **settings, caption={"from": finished.output})
    summary = run(config)
    assert (summary.ok, summary.errors) == (2, 2) and not written(str(later))
    earlier, found = captions_of(finished.output), captions_of(str(later))
    assert found == {key: earlier.get(key) for key in ("new", "a-1", "b-0", "b-1")}
    (new,) = (
        row for row in pq.read_table(later / "restored" / "a.parquet").to_pylist() if row["key"] == "new"
    )
    assert new["error"] == f"no caption: {finished.output} has none of this key"


def test_a_run_without_captions_lends_none(finished: JobConfig, tmp_path: Path) -> None:
    source = finished.input[0]
    for earlier, said in (
        (tmp_path / "none", "holds no run"),
        (tmp_path / "plain", "a run without captions"),
    ):
        if earlier.name == "plain":
            run(job(Path(source), earlier, size=64))
        config = job(Path(source), tmp_path / "later", **P2L, caption={"from": str(earlier)})
        with pytest.raises(ConfigError, match=said):
            run(config)
