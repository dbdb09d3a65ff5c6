"""Captions of a shard's pictures, and the prompts that its rows are restored with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from p2l_engine.priors.captioner import Captioner
from p2l_engine.restore import Restored
from pipeline.config import JobConfig
from pipeline.input.keys import key_hash
from pipeline.input.rows import InputRow
from pipeline.input.sources import list_shards
from pipeline.observe.prometheus import ActorMetrics
from pipeline.output import captions, lease
from pipeline.output.folder import OutputFolder
from pipeline.pictures.images import decode_image
from pipeline.worker import restore, tries
from pipeline.worker.captions import CaptionShards, captioned, load
from pipeline.worker.items import Work
from pipeline.worker.measure import measurements, prepare, shown
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from pipeline.worker.tries import Try
from tests.pipeline.small_jobs import job, picture, png, write_parquet

P2L: dict[str, Any] = {
    "model": "tiny",
    "size": 64,
    "method": {"name": "p2l", "preset": "tiny", "steps": 1, "prompt_tuning": None},
}
ROWS = [InputRow(str(number), "shard", png(number, 64)) for number in range(3)]


def captioned_job(folder: Path, captioner: Path, source: str = "original", **changed: Any) -> JobConfig:
    block = {"model": str(captioner), "from": source, "template": "see {caption}"}
    return job(folder, folder / "out", **P2L | {"caption": block} | changed)


def restorer(config: JobConfig) -> Restorer:
    return Restorer(config, ActorOptions("cpu", 4, 1))


def pixels(cell: dict[str, bytes]) -> np.ndarray:
    return np.asarray(decode_image(cell["bytes"]))


@pytest.mark.parametrize(
    "operator",
    [
        {"name": "super_resolution", "factor": 4},
        {"name": "inpainting", "mask": "random", "fraction": 0.5},
        {"name": "motion_blur", "size": 9},
    ],
    ids=lambda block: block["name"],
)
def test_the_captioner_is_shown_what_the_solver_gets(
    tmp_path: Path, captioner_folder: Path, operator: dict
) -> None:
    config = job(tmp_path, tmp_path / "out", **P2L, operator=operator, noise=0.2)
    rows = restorer(config)(ROWS)
    for given, row in zip(ROWS, rows, strict=True):
        assert (shown(prepare(given, config), config) == pixels(row["measurement"])).all()
    made = captioned_job(tmp_path, captioner_folder, "measurement", operator=operator, noise=0.2)
    assert made.caption
    found = captioned(ROWS, made, load(made.caption, "cpu"))
    expected = load(made.caption, "cpu")([pixels(row["measurement"]) for row in rows])
    assert [row["caption"] for row in found] == expected


def test_a_measurement_that_is_no_picture_is_shown_back_projected(tmp_path: Path) -> None:
    linear = {"name": "linear", "function": "tests.pipeline.small_jobs:means_of_rows"}
    config = job(tmp_path, tmp_path / "out", **P2L, operator=linear, noise=0)
    image = prepare(ROWS[1], config)
    assert measurements([image], config)[1].shape == (1, 3, 64)
    means = np.asarray(picture(1, 64), float).mean(1, keepdims=True)
    found = shown(image, config)
    assert found.shape == (64, 64, 3) and np.abs(found - means).max() <= 1


def test_originals_are_shown_as_they_are_fitted(tmp_path: Path, captioner_folder: Path) -> None:
    config = captioned_job(tmp_path, captioner_folder, size=32)
    assert config.caption
    captioner = load(config.caption, "cpu")
    (found,) = captioned(ROWS[:1], config, captioner)
    assert found == {"key": "0", "caption": captioner([prepare(ROWS[0], config).pixels])[0]}


def test_a_bad_picture_has_no_caption_and_its_neighbours_have_theirs(
    tmp_path: Path, captioner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = captioned_job(tmp_path, captioner_folder)
    assert config.caption
    captioner = load(config.caption, "cpu")
    fine = [row["caption"] for row in captioned(ROWS, config, captioner)]
    genuine, second = Captioner.__call__, prepare(ROWS[1], config).pixels

    def exhausted(self: Captioner, pictures: Sequence[np.ndarray]) -> list[str]:
        if any((picture == second).all() for picture in pictures):
            raise MemoryError("out of memory")
        return genuine(self, pictures)

    monkeypatch.setattr(Captioner, "__call__", exhausted)
    rows = [InputRow("bad", "shard", b"junk"), *ROWS, InputRow("none", "shard", None)]
    found = captioned(rows, config, captioner)
    assert [row["key"] for row in found] == ["bad", "0", "1", "2", "none"]
    assert [row.get("caption") for row in found] == [None, fine[0], None, fine[2], None]
    assert found[0]["error"].startswith("cannot decode the image")
    assert found[2]["error"] == "cannot be captioned: out of memory"
    assert found[4]["error"] == "no image: the row has no image bytes"


def test_each_batch_that_is_captioned_counts_as_a_step(
    tmp_path: Path, captioner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run would seem to do nothing until the last picture has its caption."""
    monkeypatch.setattr("pipeline.worker.captions.TOGETHER", 2)
    (shard,) = list_shards([str(write_parquet(tmp_path / "a.parquet", {key: png(0, 64) for key in "abc"}))])
    config, steps = captioned_job(tmp_path, captioner_folder), list[tuple[int, int]]()
    monkeypatch.setattr(ActorMetrics, "stepped", lambda self, done, of: steps.append((done, of)))
    with lease.hold(OutputFolder(config.output), take_over=False, lost=print, say=print) as lease_id:
        one = CaptionShards(config, ActorOptions("cpu", 1, 1), lease_id)
        one(pa.Table.from_pylist([Work(shard, 3, b"", 3, b"").item()]))
    assert steps == [(2, 3), (3, 3)]


def test_a_picture_that_ended_three_processes_has_no_caption_and_its_neighbours_have_theirs(
    tmp_path: Path, captioner_folder: Path
) -> None:
    keys = ("a", "b", "c")
    (shard,) = list_shards([str(write_parquet(tmp_path / "s.parquet", {key: png(0, 64) for key in keys}))])
    config = captioned_job(tmp_path, captioner_folder)
    output = OutputFolder(config.output)
    work = Work(shard, 3, b"", 3, np.array([key_hash(key) for key in keys], np.uint64).tobytes())
    whole = work.to_caption()
    with lease.hold(output, take_over=False, lost=print, say=print) as lease_id:
        one = CaptionShards(config, ActorOptions("cpu", 1, 1), lease_id)
        for number in range(1, 4):
            for item in (whole, whole.rows_alone()[1]):
                tries.note(output, item, number, Try(one.worker.node))
        one(pa.Table.from_pylist([work.item()]))
    found = captions.by_key(output, "s")
    assert [found[key]["caption"] is None for key in keys] == [False, True, False]
    assert found["b"]["error"] == "ended its process: 3 times"
    assert tries.before(output, whole) == []


def test_a_caption_is_the_prompt_of_a_row_without_its_own(
    tmp_path: Path, captioner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = captioned_job(tmp_path, captioner_folder)
    output = OutputFolder(config.output)
    made = [
        {"key": "a", "caption": "red sea"},
        {"key": "b", "caption": "blue"},
        {"key": "c", "error": "cannot be captioned: MemoryError"},
    ]
    captions.write(output, "s", made, config.fingerprint)
    seen: list[list[str]] = []
    genuine = restore.restore

    def listening(*arguments: Any, **settings: Any) -> Restored:
        seen.append(settings["prompts"])
        return genuine(*arguments, **settings)

    monkeypatch.setattr(restore, "restore", listening)
    rows = [InputRow(key, "s", png(1, 64)) for key in "acdx"]
    rows[1:1] = [InputRow("b", "s", png(2, 64), prompt="a cat")]
    rows[-1] = InputRow("x", "s", b"junk")
    found = restorer(config)(rows)
    assert seen == [["see red sea", "a cat"]]
    assert [row["status"] for row in found] == ["ok", "ok", "error", "error", "error"]
    assert [row.get("caption") for row in found[:3]] == ["red sea", "blue", None]
    assert found[0]["warning"] is None
    assert found[1]["warning"] == "caption not used: the row has a prompt of its own"
    assert found[2]["error"] == "no caption: cannot be captioned: MemoryError"
    assert found[3]["error"] == f"no caption: {config.output} has none of this key"
    assert found[4]["error"].startswith("cannot decode the image")


def test_captions_count_only_for_the_keys_and_settings_that_they_were_made_of(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    rows = [{"key": "a", "caption": "red"}, {"key": "b", "error": "no image: none"}]
    captions.write(output, "s", rows, "f" * 16)

    def holds(shard: str, keys: str, fingerprint: str, count_errors: bool = True) -> bool:
        return captions.holds(output, shard, list(keys), fingerprint, count_errors=count_errors)

    assert holds("s", "ab", "f" * 16)
    assert not holds("s", "ab", "f" * 16, count_errors=False)
    assert not holds("s", "ab", "e" * 16) and not holds("s", "abc", "f" * 16)
    assert not holds("t", "ab", "f" * 16)
    (tmp_path / "captions" / "s.parquet").write_bytes(b"damaged")
    assert not holds("s", "ab", "f" * 16)
