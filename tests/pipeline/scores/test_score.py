"""Scores of an output: by any number of workers, stopped at any moment, the same as by one process."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from p2l_engine.metrics import NETWORKS, FeatureSums, frechet_distance, kernel_distance, weights_here
from p2l_engine.metrics.networks import packaged
from pipeline.config import ConfigError
from pipeline.output import scores
from pipeline.output.folder import OutputFolder
from pipeline.pictures.images import decode_image
from pipeline.scores import actor
from pipeline.scores import score as scoring
from pipeline.scores.pictures import Picture
from pipeline.scores.request import request
from pipeline.scores.score import ScoringError
from pipeline.scores.sets import FeatureSet
from tests.pipeline.scores.here import Scores, scored_here


def by_name(found: Scores, against: str = "the run's own originals") -> dict[str, float]:
    return {one["name"]: one["value"] for one in found["sets"] if one["against"] == against}


def pixels(cell: dict[str, bytes]) -> np.ndarray:
    return np.asarray(decode_image(cell["bytes"]))


def files_of(run: str) -> dict[str, int]:
    """Every file of scores, with the time of its writing."""
    found = Path(run, "scores").rglob("*.parquet")
    return {path.relative_to(run).as_posix(): path.stat().st_mtime_ns for path in found}


def features_of(pictures: list[np.ndarray]) -> np.ndarray:
    """By one process, one picture after another."""
    file = weights_here("efficientnet")
    assert file is not None
    network = NETWORKS["efficientnet"].load(file)
    assert network.features is not None
    batches = (torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] for picture in pictures)
    return torch.cat([network.features(batch) for batch in batches]).numpy()


@pytest.mark.usefixtures("ray_cluster")
def test_a_pass_interrupted_twice_gives_the_distance_of_one_process(
    write_run: Callable[..., str], ok_row: Any, error_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(14)]
    shards = {"a": rows[:5], "b": [rows[5], error_row("e0")], "c": rows[6:7], "d": rows[7:11], "e": rows[11:]}
    run = write_run(shards)
    monkeypatch.setattr(scoring, "SECONDS_BETWEEN_LINES", 0)
    asked = request(run, (), None, None)

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    before: dict[str, int] = {}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="scored 1 of"):
            scoring.score(request(run, (), None, None), stop)
        now = files_of(run)
        assert before.items() < now.items(), "what was scored is not scored again, and there is more"
        assert not Path(run, "scores.json").exists()
        if len(now) == len(shards):  # a quick machine ends what was under way before the pass stops
            Path(run, now.popitem()[0]).unlink()
        before = now
    told: list[str] = []
    found = scoring.score(asked, told.append)
    assert before.items() < files_of(run).items() and len(files_of(run)) == len(shards)
    assert told[-1] == f"scored {len(told)} of {len(told)} shards" and len(told) < len(shards)

    images, references = (features_of([pixels(row[name]) for row in rows]) for name in ("image", "reference"))
    expected = frechet_distance(FeatureSums.of(images), FeatureSums.of(references))
    values = by_name(found)
    assert values["fd_efficientnet"] == pytest.approx(expected, rel=1e-6)
    assert values["kd_efficientnet"] == pytest.approx(kernel_distance(images, references), rel=1e-4)
    distance = found["metrics"]["perceptual_efficientnet"]
    assert distance["count"] == 14 and 0 < distance["mean"] < 2
    assert found["errors"] == [] and found == json.loads(Path(run, "scores.json").read_text())

    after = files_of(run)
    assert by_name(scoring.score(asked, stop)) == values, "nothing is left to do, and nothing changes"
    assert files_of(run) == after


def test_what_changed_is_scored_again_and_what_cannot_be_is_told(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    """A picture that is damaged, a reference of another size; later a shard with one row more."""
    rows = [ok_row(f"k{i}", i) for i in range(3)]
    broken = ok_row("broken") | {"image": {"bytes": b"\x89PNG none", "path": None}}
    unequal = ok_row("unequal") | {"reference": ok_row("x", side=32)["reference"]}
    run = write_run({"a": rows, "b": [broken, unequal, ok_row("good", 4)]})
    found = scored_here(run)
    assert found["metrics"]["perceptual_efficientnet"]["count"] == 4
    causes = {one["keys"]: one["cause"] for one in found["errors"]}
    assert causes.keys() == {("broken",), ("unequal",)}
    assert causes["unequal",] == "its reference is of another size"
    assert [one["images"] for one in found["sets"]] == [5, 5]

    before = files_of(run)
    file = Path(run, "restored", "a.parquet")
    table = pq.read_table(file)
    more = pa.Table.from_pylist([table.to_pylist()[0] | {"key": "later"}], table.schema)
    pq.write_table(pa.concat_tables([table, more]), file)
    assert scored_here(run)["metrics"]["perceptual_efficientnet"]["count"] == 5
    changed = {name for name, written in files_of(run).items() if before[name] != written}
    assert changed == {"scores/efficientnet/a.parquet"}


def test_the_command_prints_what_stands_and_ends_with_its_status(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    """0 where all images are scored, 3 where some could not be; with nothing left to do, without Ray."""
    rows = [ok_row(f"k{i}", i) for i in range(3)]
    run = write_run({"a": rows})
    values = by_name(scored_here(run))
    shown = CliRunner().invoke(app, ["score", run, "--score", "fd_efficientnet"])
    assert shown.exit_code == 0, shown.output
    assert re.search(rf"fd_efficientnet +{values['fd_efficientnet']:.4g} +3 +3 +the run's own", shown.output)
    assert "kd_efficientnet" in shown.output, "what an earlier command had stays"
    broken = rows[0] | {"key": "broken", "image": {"bytes": b"\x89PNG none", "path": None}}
    failed = write_run({"a": [*rows, broken]}, name="failed")
    scored_here(failed)
    shown = CliRunner().invoke(app, ["score", failed])
    assert shown.exit_code == 3 and "warning 1 images: " in shown.output
    assert "left out: lpips_alex: alexnet-owt-7be5be79.pth is not at hand" in shown.output.replace("\n", " ")


def test_another_set_is_fitted_as_the_run_was_and_earlier_sets_stay(
    write_run: Callable[..., str], ok_row: Any, tmp_path: Path
) -> None:
    """Pictures in a folder, and the restored ones of another output; those that do not decode are told."""
    rows = [ok_row(f"k{i}", i) for i in range(4)]
    run = write_run({"a": rows})
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in rows:
        large = Image.fromarray(pixels(row["reference"])).resize((96, 96), Image.Resampling.NEAREST)
        large.save(pictures / f"{row['key']}.png")
    (pictures / "none.png").write_bytes(b"\x89PNG none")
    found = scored_here(run, str(pictures))
    own, apart = by_name(found)["fd_efficientnet"], by_name(found, str(pictures))["fd_efficientnet"]
    assert apart == pytest.approx(own, rel=0.1)
    assert [one["keys"] for one in found["errors"]] == [("none.png",)]
    same = write_run({"x": rows}, name="same")
    again = scored_here(run, same)
    assert by_name(again, same)["fd_efficientnet"] == pytest.approx(0, abs=1e-3)
    assert by_name(again) == by_name(found)
    assert by_name(again, str(pictures)) == by_name(found, str(pictures))
    file = Path(run, "scores.json")
    file.write_text(json.dumps(again | {"weights": {"efficientnet": "of another"}}))
    assert {one["against"] for one in scored_here(run)["sets"]} == {"the run's own originals"}


def test_a_run_without_originals_is_scored_against_a_set(write_run: Callable[..., str], ok_row: Any) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(4)]
    run = write_run({"a": [row | {"reference": None} for row in rows]}, mode="restore", size=None)
    same = write_run({"x": rows}, name="same")
    found = scored_here(run, same)
    assert by_name(found, same)["fd_efficientnet"] == pytest.approx(0, abs=1e-3)
    assert by_name(found) == {} and found["errors"] == []


def test_a_shard_without_an_image_that_is_ok_is_scored_as_nothing(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(3)]
    found = scored_here(write_run({"a": rows, "b": [error_row("e")]}))
    assert [one["images"] for one in found["sets"]] == [3, 3]


def test_distances_of_a_set_that_has_grown_are_not_kept(write_run: Callable[..., str], ok_row: Any) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(4)]
    run = write_run({"a": rows[:2]})
    assert [one["images"] for one in scored_here(run)["sets"]] == [2, 2]
    grown = write_run({"b": rows[2:]}, name="grown")
    shutil.copy(Path(grown, "restored/b.parquet"), Path(run, "restored"))
    found = scored_here(run, names=["perceptual_efficientnet"])
    assert found["metrics"]["perceptual_efficientnet"]["count"] == 4 and found["sets"] == []


def test_large_pictures_are_scored_fewer_at_a_time() -> None:
    def together(side: int) -> list[int]:
        image = np.zeros((side, side, 3), np.uint8)
        return [len(part) for part in actor._alike([Picture(str(i), image, None) for i in range(20)])]

    assert together(64) == [16, 4]
    assert together(1024) == [4] * 5
    assert together(4096) == [1] * 20


def test_networks_whose_code_is_not_installed_are_left_out_and_refused_by_name(
    write_run: Callable[..., str], ok_row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that torch downloaded for something else lie where they are looked for."""
    monkeypatch.setitem(
        NETWORKS, "alexnet", replace(NETWORKS["alexnet"], modules=("torchmetrics_that_is_not_there",))
    )
    (tmp_path / NETWORKS["alexnet"].file).write_bytes(b"weights")
    run = write_run({"a": [ok_row("k")]})
    asked = request(run, [], str(tmp_path), None)
    told = "lpips_alex: needs the extra `metrics`; not installed: torchmetrics_that_is_not_there"
    assert told in asked.lacking and [of.network for of in asked.weights] == ["efficientnet"]
    with pytest.raises(ConfigError, match="lpips_alex: needs the extra `metrics`"):
        request(run, ["lpips_alex"], str(tmp_path), None)


def test_a_set_whose_pictures_are_others_by_now_is_scored_again(
    write_run: Callable[..., str], ok_row: Any, tmp_path: Path
) -> None:
    """A run that was made again under its address, or a picture of the same name; and nothing else is."""
    rows = [ok_row(f"k{i}", i) for i in range(3)]
    run, other = write_run({"a": rows}), write_run({"x": rows[:2], "y": rows[2:]}, name="other")
    scored_here(run, other)
    before = files_of(run)
    file = Path(other, "restored/y.parquet")
    again = pa.Table.from_pylist([rows[2] | {"image": rows[0]["image"]}], pq.read_schema(file))
    pq.write_table(again, file)
    scored_here(run, other)
    now = files_of(run)
    assert {name for name, written in now.items() if before[name] != written} == {
        name for name in before if name.endswith("/y.parquet")
    }
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in rows:
        (pictures / f"{row['key']}.png").write_bytes(row["reference"]["bytes"])
    found = scored_here(run, str(pictures))
    (pictures / "k0.png").write_bytes(rows[1]["reference"]["bytes"])
    assert by_name(scored_here(run, str(pictures)), str(pictures)) != by_name(found, str(pictures))


def test_every_mistake_of_a_request_is_named_before_anything_loads(
    write_run: Callable[..., str], ok_row: Any, tmp_path: Path
) -> None:
    run = write_run({"a": [ok_row("k", reference=None)]}, mode="restore", size=None)
    with pytest.raises(ConfigError) as refused:
        request(run, ["fd_eficientnet", "lpips_vgg", "fid"], str(tmp_path), str(tmp_path / "nowhere"))
    told = "\n".join(refused.value.problems)
    assert "got 'fd_eficientnet'" in told and "did you mean fd_efficientnet?" in told
    assert "--score: lpips_vgg needs originals, which a run in mode restore has not" in told
    assert f"--networks: {tmp_path} is and has none of efficientnet-lite0-57934424.pth" in told
    assert "--against: input" in told and "nowhere: there is no such file or folder" in told
    with pytest.raises(ConfigError, match="no originals; allowed: --against"):
        request(run, [], None, None)
    (tmp_path / NETWORKS["alexnet"].file).write_bytes(b"")
    with pytest.raises(ConfigError, match="lpips_vgg: vgg16-397923af.pth is not at hand"):
        request(write_run({"a": [ok_row("k")]}, name="other"), ["lpips_vgg"], str(tmp_path), None)
    with pytest.raises(ConfigError, match="no shard is whole yet"):
        request(write_run({}, {"a/0": [ok_row("k")]}, name="begun"), [], None, None)


def test_weights_that_are_others_are_refused_before_a_worker_starts(
    write_run: Callable[..., str], ok_row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fetched from where they are, which is a store here; and anew where they were mended."""
    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    url, run = f"memory://networks/{NETWORKS['efficientnet'].file}", write_run({"a": [ok_row("k")]})
    with fsspec.open(url, "wb") as file:
        torch.save({"weight": torch.zeros(1)}, file)
    asked = request(run, ["fd_efficientnet"], "memory://networks", None)
    with pytest.raises(ConfigError, match="not the weights of EfficientNet-Lite0"):
        scoring.score(asked, print)
    brought = packaged("efficientnet")
    assert brought is not None
    with fsspec.open(url, "wb") as file:
        file.write(brought.read_bytes())
    (weights,) = request(run, ["fd_efficientnet"], url, None).weights
    assert weights.place == url and weights.here().read_bytes() == brought.read_bytes()


def test_a_shard_that_cannot_be_read_is_named(write_run: Callable[..., str], ok_row: Any) -> None:
    """Neither one without a footer, nor one with a hole where its pictures are; which leaves no scores."""
    run = write_run({"a": [ok_row("k")]})
    file = Path(run, "restored", "a.parquet")
    whole = file.read_bytes()
    with pq.ParquetFile(file) as parquet:
        place = parquet.schema_arrow.names.index("image")
        hole = parquet.metadata.row_group(0).column(place).data_page_offset
    file.write_bytes(whole[:hole] + bytes(64) + whole[hole + 64 :])
    with pytest.raises(OSError, match="shard a: cannot be scored: "):
        scored_here(run)
    assert files_of(run) == {}
    file.write_bytes(b"PAR1 none")
    with pytest.raises(ScoringError, match=r"restored/a.parquet: cannot be read: "):
        scoring.score(request(run, (), None, None), print)


def test_images_are_never_compared_with_the_originals_of_others(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    """Where the input was written again, in another order or with fewer rows, since it was restored."""
    run = write_run({"a": [ok_row("k", 0), ok_row("l", 1), ok_row("m", 2)]}, keep=[])
    file = Path(f"{run}-input/a.parquet")
    rows = pq.read_table(file)
    for order in ([1, 0, 2], [0, 1]):
        pq.write_table(rows.take(order), file)
        with pytest.raises(OSError, match=r"shard a: cannot be scored: .*a.parquet: has other rows than"):
            scored_here(run)
        assert files_of(run) == {}
    pq.write_table(rows, file)
    assert scored_here(run)["metrics"]["perceptual_efficientnet"]["count"] == 3


def test_a_merged_set_is_the_same_in_whatever_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of all pairs are drawn by their keys, from all of them."""
    monkeypatch.setattr("pipeline.scores.sets.MOST_IN_PAIRS", 6)
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    keys = [f"k{i}" for i in range(20)]
    whole = FeatureSet.of(keys, features)
    a, b, c = (FeatureSet.of(keys[s], features[s]) for s in (slice(0, 4), slice(4, 5), slice(5, 20)))
    for merged in (a + b + c, c + (b + a)):
        assert (merged.hashes == whole.hashes).all() and len(merged.hashes) == 6
        assert (merged.drawn == whole.drawn).all()
        np.testing.assert_allclose(merged.sums.scatter, whole.sums.scatter, rtol=1e-9, atol=1e-12)


def test_scores_of_a_run_before_are_none_of_this_one(write_run: Callable[..., str], ok_row: Any) -> None:
    output = OutputFolder(write_run({"a": [ok_row("k")]}))
    weights = {"efficientnet": "0" * 16}
    assert scores.networks(output, {"fingerprint": "other", "weights": weights}) == []
    fingerprint = output.json("run.json")["fingerprint"]
    assert scores.networks(output, {"fingerprint": fingerprint, "weights": weights}) == ["efficientnet"]
