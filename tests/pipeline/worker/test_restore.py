"""One model at work on rows: batches shrink when memory runs out, and errors stay with their row."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partialmethod
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch._dynamo.utils import counters

from p2l_engine.operators import LinearOperator
from p2l_engine.restore import Restored
from pipeline.cluster.heartbeat import Heartbeat
from pipeline.input.cells import npy
from pipeline.input.rows import InputRow
from pipeline.pictures.images import decode_image
from pipeline.worker import restore
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import SIDE, encoded, job, picture, png

LIMIT = 2  # images that there is memory for in these tests


def restorer(folder: Path, batch_size: int, **settings: object) -> Restorer:
    return Restorer(job(folder, folder / "out", **settings), ActorOptions("cpu", batch_size, 1))


def input_rows(*images: bytes | None) -> list[InputRow]:
    return [InputRow(str(number), "shard", image) for number, image in enumerate(images)]


def out_of_memory_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def out_of_memory_on_the_cpu() -> None:
    torch.empty(10**15)


@pytest.mark.parametrize("exhaust", [out_of_memory_on_a_gpu, out_of_memory_on_the_cpu])
def test_what_has_no_memory_is_halved_and_the_micro_batch_when_it_fails_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exhaust: Callable[[], None]
) -> None:
    worker = restorer(tmp_path, 8)
    sizes = []

    genuine = restore.restore

    def limited(model: None, A: LinearOperator, y: torch.Tensor, **settings: Any) -> Restored:
        sizes.append(len(y))
        if len(y) > LIMIT:
            exhaust()
        return genuine(model, A, y, **settings)

    monkeypatch.setattr(restore, "restore", limited)
    rows = worker(input_rows(*(png(seed) for seed in range(20))))
    assert [row["status"] for row in rows] == ["ok"] * 20
    assert sizes == [8, 4, 2, 2, 4, 2, 2, *[2] * 6], "4 failed twice"
    assert worker.micro_batch == LIMIT


def test_no_row_is_restored_twice_when_the_micro_batch_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's thread may shrink it as soon as the caller's has asked for it."""
    worker = restorer(tmp_path, 4)
    at_once, calls = worker._at_once, count()

    def shrinking(group: Hashable) -> int:
        if next(calls) == 5:  # one for each row, and one for all of them, found it to be 4
            worker._most = 2
        return at_once(group)

    monkeypatch.setattr(worker, "_at_once", shrinking)
    found = [row["key"] for rows in worker.stream(input_rows(*map(png, range(4)))) for row in rows]
    assert sorted(found) == ["0", "1", "2", "3"]


def test_a_single_image_without_memory_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = restorer(tmp_path, 4)

    def exhausted(*arguments: object, **settings: object) -> None:
        raise MemoryError

    monkeypatch.setattr(restore, "restore", exhausted)
    (row,) = worker(input_rows(png(1)))
    assert (row["status"], row["error"]) == ("error", "out of memory: MemoryError")


def test_images_of_many_sizes_and_bad_ones_share_a_block(tmp_path: Path) -> None:
    worker = restorer(tmp_path, 4, size=None)
    rows = worker(input_rows(png(1), png(2, side=18), b"junk", png(3, side=24), None, png(4)))
    assert [row["key"] for row in rows] == list("012345")
    assert [row["status"] for row in rows] == ["ok", "error", "error", "ok", "error", "ok"]
    assert (
        rows[1]["error"].startswith("cannot restore the image: super_resolution: ")
        and "18" in rows[1]["error"]
    )
    assert (rows[3]["height"], rows[3]["width"]) == (24, 24)


def test_an_image_that_diverges_is_an_error_and_its_neighbours_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = restorer(tmp_path, 4)
    genuine = restore.restore

    def diverging(*arguments: Any, **settings: Any) -> Restored:
        restored = genuine(*arguments, **settings)
        errors = (None, "not-a-number at step 3", None)
        return type(restored)(**vars(restored) | {"errors": errors})

    monkeypatch.setattr(restore, "restore", diverging)
    rows = worker(input_rows(png(1), png(2), png(3)))
    assert [row.get("error") for row in rows] == [None, "restoration diverged: not-a-number at step 3", None]
    assert rows[1].get("image") is None


def test_compiled_blocks_restore_as_they_would_uncompiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what torch records of them, without a compiler."""
    own = UNet2DConditionModel.compile_repeated_blocks
    recorded = partialmethod(own, backend="aot_eager")
    monkeypatch.setattr(UNet2DConditionModel, "compile_repeated_blocks", recorded)
    method = {"name": "p2l", "preset": "tiny", "steps": 1}
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = (
        restorer(tmp_path, 1, model={"id": "tiny", "compile": compile}, method=method)(input_rows(png(1)))[0]
        for compile in (False, True)
    )
    assert 0 < counters["frames"]["ok"] == counters["frames"]["total"]
    before, after = (np.asarray(decode_image(row["image"]["bytes"]), dtype=int) for row in (plain, compiled))
    np.testing.assert_allclose(after, before, atol=1)


def test_a_row_with_a_prompt_uses_it_and_others_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = restorer(tmp_path, 4, prompt="a photograph")
    seen: list[list[str]] = []
    genuine = restore.restore

    def listening(*arguments: Any, **settings: Any) -> Restored:
        seen.append(settings["prompts"])
        return genuine(*arguments, **settings)

    monkeypatch.setattr(restore, "restore", listening)
    worker(
        [
            InputRow("a", "s", png(1), prompt="a cat"),
            InputRow("b", "s", png(2)),
            InputRow("c", "s", png(3), prompt=""),
        ]
    )
    assert seen == [["a cat", "a photograph", ""]]


def test_the_noise_is_drawn_from_the_image_seed(tmp_path: Path) -> None:
    denoising = {"operator": "denoising", "noise": 0.2}
    one, two, other = (
        restorer(tmp_path, 4, **denoising, seed=seed)(input_rows(png(1)))[0] for seed in (0, 0, 1)
    )
    assert one["image"] == two["image"] != other["image"] and one["seed"] != other["seed"]
    assert np.isclose(one["psnr"], 10 * np.log10(4 / 0.2**2), atol=1.5)


def pixels(row: dict) -> np.ndarray:
    return np.asarray(decode_image(row["image"]["bytes"]))


def test_an_image_is_the_same_alone_and_in_any_batch(tmp_path: Path) -> None:
    drawn = {"operator": {"name": "inpainting", "mask": "random", "fraction": 0.5}, "noise": 0.1}
    other = [InputRow("a", "s", png(7)), InputRow("b", "s", png(8)), InputRow("c", "s", png(9))]
    same = InputRow("x", "s", png(1))
    (alone,) = restorer(tmp_path, 1, **drawn)([same])
    among = restorer(tmp_path, 3, **drawn)([*other, same])[3]
    first = restorer(tmp_path, 4, **drawn)([same, *other])[0]
    assert alone["image"] == among["image"] == first["image"]
    assert alone["measurement"] == among["measurement"] and alone["seed"] == among["seed"]


def test_measurements_are_restored_with_the_mask_of_their_row(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[:, ::2] = 1
    rows = [
        InputRow("array", "s", png(1), mask=npy(mask)),
        InputRow("image", "s", png(1), mask=encoded(Image.fromarray((mask * 255).astype(np.uint8)))),
        InputRow("none", "s", png(1)),
        InputRow("small", "s", png(1), mask=npy(np.array([[1, 0]]))),
        InputRow("not a number", "s", png(1), mask=npy(np.array([[np.nan]]))),
        InputRow("nothing", "s", png(1), mask=npy(mask * 0)),
    ]
    given = {"name": "inpainting", "mask": "given"}
    found = restorer(tmp_path, 8, mode="restore", operator=given)(rows)
    for row in found[:2]:
        assert (pixels(row)[:, ::2] == np.asarray(picture(1))[:, ::2]).all()
        assert row.get("psnr") is None and row.get("reference") is None and row["residual"] == 0
    assert [row["error"].split(":")[0] for row in found[2:]] == [
        "no mask",
        *["mask cannot be used"] * 3,
    ]


def test_measurements_are_restored_with_the_kernel_of_their_row(tmp_path: Path) -> None:
    kernels = ([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]], [[1.0, -1.0, 1.0]])
    rows = [InputRow(str(at), "s", png(1), kernel=npy(np.array(kernel))) for at, kernel in enumerate(kernels)]
    good, bad = restorer(tmp_path, 8, mode="restore", operator="blur")(rows)
    assert good["status"] == "ok" and bad["error"].startswith(
        "kernel cannot be used: its values must be 0 or more"
    )


def test_every_step_of_every_micro_batch_is_told(tmp_path: Path) -> None:
    settings = job(tmp_path, tmp_path / "out", model="tiny", method={"name": "ldps", "steps": 3})
    told: list[tuple[int, int]] = []
    beat = Heartbeat(lambda done, steps: told.append((done, steps)))
    worker = Restorer(settings, ActorOptions("cpu", 2, 1), beat)
    assert [row["status"] for row in worker(input_rows(png(1), png(2), png(3)))] == ["ok"] * 3
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_the_deviation_of_samples_is_kept_as_a_picture_where_a_job_asks_for_it(tmp_path: Path) -> None:
    method = {"name": "ldps", "preset": "tiny", "steps": 2, "samples": 2}
    asked = {"model": "tiny", "size": 32, "method": method}
    rows = input_rows(png(1))
    (kept,) = restorer(tmp_path, 1, **asked, keep=["deviation"])(rows)
    (plain,) = restorer(tmp_path, 1, **asked)(rows)
    assert kept["status"] == "ok" and kept["nfe"] == 4
    deviation = decode_image(kept["deviation"]["bytes"])
    assert deviation.size == (32, 32) and 0 < np.asarray(deviation).mean() < 128
    assert plain.get("deviation") is None and plain["image"] == kept["image"]
    with pytest.raises(ValueError, match="keep: got deviation of a single sample"):
        job(tmp_path, tmp_path / "out", method="adjoint", keep=["deviation"])


def test_a_row_says_how_many_numbers_were_measured(tmp_path: Path) -> None:
    """By which its residual is held against the noise: three channels, without the holes of a mask."""
    hole = np.ones((SIDE, SIDE), np.uint8)
    hole[:3, :5] = 0
    (pooled,) = restorer(tmp_path, 1)(input_rows(png(1)))
    assert pooled["measured"] == 3 * (SIDE // 4) ** 2
    masked = InputRow("masked", "shard", png(1), mask=npy(hole))
    (row,) = restorer(tmp_path, 1, operator={"name": "inpainting", "mask": "given"})([masked])
    assert row["measured"] == 3 * (SIDE**2 - 15), row["error"]
