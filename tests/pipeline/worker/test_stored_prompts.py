"""Starting from prompts that an earlier run tuned: each image's own, or one for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from p2l_engine import LatentDiffusion
from pipeline.config import ConfigError, load_config
from pipeline.input.rows import InputRow
from pipeline.output.columns import OUTPUT_SCHEMA, Row
from pipeline.output.folder import OutputFolder
from pipeline.results.report import write_report
from pipeline.results.tuned_prompts import read_prompts
from pipeline.run.run import run
from pipeline.stores.storage import StorageError
from pipeline.worker import stored_prompts
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import png, write_shards

TOKENS, WIDTH = 3, 4


def kept(
    folder: Path,
    embeddings: Mapping[str, np.ndarray | None],
    shard: str = "a",
    prompts: Sequence[str | None] | None = None,
) -> str:
    """An output that kept these embeddings, a row group for every two rows."""
    rows = [
        {"key": key, "status": "ok", "prompt": prompt, "prompt_embedding": None if e is None else e.tolist()}
        for prompt, (key, e) in zip(prompts or [None] * len(embeddings), embeddings.items(), strict=True)
    ]
    (folder / "restored").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA),
        folder / f"restored/{shard}.parquet",
        row_group_size=2,
    )
    OutputFolder(str(folder)).write_json("run.json", {"config": {"keep": ["prompt_embedding"]}})
    return str(folder)


def row(key: str, shard: str = "a") -> InputRow:
    return InputRow(key, shard, png(0))


def test_each_row_gets_the_embedding_of_its_key(tmp_path: Path) -> None:
    made = {f"a-{i}": np.full((TOKENS, WIDTH), i, np.float32) for i in range(5)}
    find = stored_prompts.stored(kept(tmp_path, {**made, "a-5": None}))
    for key in ("a-3", "a-0", "a-4"):
        assert np.array_equal(find(row(key)).numpy(), made[key])
    for missing in (row("a-5"), row("a-6"), row("a-0", shard="b")):
        with pytest.raises(LookupError, match="no prompt embedding: .* has none of this key"):
            find(missing)


def test_an_array_is_the_prompt_of_all(tmp_path: Path) -> None:
    one = np.arange(TOKENS * WIDTH, dtype=np.float64).reshape(TOKENS, WIDTH)
    np.save(tmp_path / "mean.npy", one)
    find = stored_prompts.stored(str(tmp_path / "mean.npy"))
    assert np.array_equal(find(row("x")).numpy(), one.astype(np.float32))


def wrong(tmp_path: Path, name: str) -> str:
    (tmp_path / "no-run").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros(4))
    without = kept(tmp_path / "without", {})
    OutputFolder(without).write_json("run.json", {"config": {"keep": ["reference"]}})
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-run", "holds no run"),
        ("absent.npy", "absent.npy"),
        ("flat.npy", "expected finite numbers"),
        ("without", "keeps none; allowed: a run with prompt_embedding in `keep`, or a .npy file"),
    ],
)
def test_what_holds_no_embedding_is_refused_before_the_run(tmp_path: Path, name: str, says: str) -> None:
    source = write_shards(tmp_path / "in", "a", rows=1)
    job = load_config(
        {
            "input": str(source),
            "output": str(tmp_path / "out"),
            "model": "tiny",
            "method": {"name": "p2l", "preset": "tiny"},
            "prompt_embeddings": wrong(tmp_path, name),
        }
    )
    with pytest.raises(ConfigError, match=f"prompt_embeddings: .*{says}"):
        run(job)
    assert not (tmp_path / "out").exists()


def test_a_store_that_refuses_is_no_error_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are errors stay so; a run that ends goes on once the store answers."""
    method = {"name": "p2l", "preset": "tiny", "steps": 1}
    given = {"input": "in", "output": "out", "model": "tiny", "method": method}
    config = load_config(given | {"prompt_embeddings": str(tmp_path / "earlier")})
    worker = Restorer(config, ActorOptions("cpu", 4, 1))

    def refused(*arguments: object) -> None:
        raise StorageError("s3://earlier: cannot be read: Access Denied")

    monkeypatch.setattr(OutputFolder, "open", refused)
    with pytest.raises(StorageError, match="Access Denied"):
        worker([row("a")])


def test_they_are_for_methods_that_read_text_and_no_setting_of_runs_without_them() -> None:
    given: dict[str, Any] = {"input": "in", "output": "out", "model": "tiny"}
    with pytest.raises(ConfigError, match="prompt_embeddings: got them for tv, which reads no text"):
        load_config({**given, "method": {"name": "tv"}, "prompt_embeddings": "x"})
    with pytest.raises(ConfigError, match="keep: got prompt_embedding for tv, which reads no text"):
        load_config({**given, "method": {"name": "tv"}, "keep": ["prompt_embedding"]})
    method = {"method": {"name": "p2l", "preset": "tiny"}}
    assert "prompt_embeddings" not in load_config(given | method).settings
    started = load_config(given | method | {"prompt_embeddings": "x"})
    assert started.settings["prompt_embeddings"].endswith("/x")


@pytest.mark.parametrize("starts", [("", ""), ("a cat", "a dog"), ("a cat", None)])
def test_how_far_a_prompt_moved_is_told_from_the_text_that_it_started_from(
    tiny_model: LatentDiffusion, tmp_path: Path, starts: tuple[str | None, ...]
) -> None:
    tuned = {f"a-{i}": tiny_model.embed_prompts([text or ""])[0].numpy() + 1 for i, text in enumerate(starts)}
    url = kept(tmp_path, tuned, prompts=starts)
    job = {"input": "in", "output": url, "model": "tiny", "method": {"name": "p2l", "preset": "tiny"}}
    OutputFolder(url).write_json("run.json", {"config": load_config(job).model_dump(mode="json")})
    told = read_prompts(url, ["a cat", "a dog"], words=False, images=2)
    for start, of_image in zip(starts, told["images"].values(), strict=True):
        assert of_image.get("moved") == (None if start is None else pytest.approx(1, abs=1e-6))
    alike = len(set(starts)) == 1
    assert ("before" in told) == ("moved" in told["mean"]) == alike
    assert told["prompt"] == (starts[0] if alike else None)


@pytest.mark.usefixtures("ray_cluster")
def test_a_tuned_prompt_is_kept_averaged_read_and_started_from(tmp_path: Path) -> None:
    source = write_shards(tmp_path / "in", "a", rows=2)
    method = {"name": "p2l", "preset": "tiny", "steps": 2, "prompt_tuning": {"iterations": 2}}
    common = {
        "input": str(source),
        "model": "tiny",
        "size": 32,
        "operator": {"name": "super_resolution", "factor": 4},
    }
    tuned = str(tmp_path / "tuned")
    assert (
        run(load_config({**common, "output": tuned, "method": method, "keep": ["prompt_embedding"]})).ok == 2
    )
    stored = stored_prompts.of_table(
        OutputFolder(tuned).read("restored/a.parquet", ("key", "prompt_embedding"))
    )

    captions = tmp_path / "captions.txt"
    captions.write_text("a photograph of a cat\na photograph of a dog\n\n")
    told = CliRunner().invoke(app, ["prompts", tuned, "--captions", str(captions), "--images", "1"])
    assert told.exit_code == 0, told.output
    mean = np.load(tmp_path / "tuned" / "prompt_embedding.npy")
    assert mean == pytest.approx(np.mean(list(stored.values()), axis=0), abs=1e-6)
    found = OutputFolder(tuned).json("prompts.json")
    assert found["rows"] == 2 and list(found["images"]) == ["a-0"]
    assert found["before"]["captions"][0]["text"] in captions.read_text()
    assert found["mean"]["moved"] > 0 and len(found["mean"]["words"]) == 5
    texts = OutputFolder(tuned).read("restored/a.parquet", ("prompt",))["prompt"]
    assert texts.to_pylist() == ["", ""]
    assert "Tuned prompts" in Path(write_report(tuned)).read_text()

    def again(start: str, key: str) -> Row:
        """A row that is not tuned, and so keeps what it started from."""
        method["prompt_tuning"] = None
        keep = ["prompt_embedding"]
        settings = {"output": "out", "method": method, "prompt_embeddings": start, "keep": keep}
        (found,) = Restorer(load_config({**common, **settings}), ActorOptions("cpu", 1, 1))([row(key)])
        return found

    own, of_all = again(tuned, "a-1"), again(f"{tuned}/prompt_embedding.npy", "a-1")
    assert own["status"] == of_all["status"] == "ok"
    assert own.get("prompt") is None, "it began at no text"
    assert np.array_equal(np.float32(own["prompt_embedding"]), stored["a-1"])
    assert np.array_equal(np.float32(of_all["prompt_embedding"]), mean)
    missing = again(tuned, "other")
    assert missing["status"] == "error" and missing["error"].startswith("no prompt embedding: ")
