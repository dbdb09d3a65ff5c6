"""Images that take much memory: activation checkpointing where it is needed, refusal where nothing helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from p2l_engine import LatentDiffusion, methods
from p2l_engine.counting import count_solver
from p2l_engine.operators import LinearOperator
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.load import without_weights
from p2l_engine.restore import Restored
from pipeline.cluster import devices
from pipeline.input.rows import InputRow
from pipeline.worker import restore
from pipeline.worker.memory import ENOUGH, PROCESS, USABLE, Fit, Memory
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import job, png

SIDE = 64
MIB = 2**20


@pytest.mark.parametrize(("model", "method"), [("tiny", "psld"), ("tiny-pixel", "dps")])
def test_the_most_that_methods_need_is_well_within_enough(model: str, method: str) -> None:
    architecture = read_architecture(model)
    image = (3, SIDE, SIDE)
    found = count_solver(without_weights(architecture), image, image, 1, methods.build(method))
    numbers = found.step_bytes / 4 / SIDE**2 / architecture.features
    assert 50 < numbers < 0.7 * ENOUGH


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tiny_model: LatentDiffusion) -> Callable[[int], None]:
    """Gives this machine so many MiB beside the weights of the shipped model."""

    def set_free(mib: int) -> None:
        total = (PROCESS + tiny_model.weight_bytes + mib * MIB) / USABLE
        monkeypatch.setattr(devices, "memory", lambda device: total)

    return set_free


def restorer(folder: Path, **settings: Any) -> Restorer:
    changed = {"model": "tiny", "method": {"name": "ldps", "steps": 1}, "size": SIDE} | settings
    return Restorer(job(folder, folder / "out", **changed), ActorOptions("cpu", 4, 1))


def rows(*sides: int) -> list[InputRow]:
    return [InputRow(str(number), "s", png(number, side)) for number, side in enumerate(sides)]


def test_what_fits_only_with_checkpointing_is_restored_with_it_and_what_does_not_is_an_error(
    tmp_path: Path, free: Callable[[int], None]
) -> None:
    expected = restorer(tmp_path)(rows(SIDE))[0]["image"]
    free(37)
    worker = restorer(tmp_path, size=None)
    assert not worker.checkpointing
    small, large = worker(rows(SIDE, 2 * SIDE))
    assert small["image"] == expected and worker.checkpointing
    assert large["status"] == "error" and large["error"].startswith(
        "cannot restore the image: too large for the memory here: 128x128 pixels need 0.08"
    )
    assert large["error"].endswith("and there are 0.0361; allowed: at most 80x80")


@pytest.mark.parametrize(("mib", "together"), [(120, [2, 2]), (200, [3, 1])])
def test_no_more_are_restored_together_than_fit(
    tmp_path: Path,
    free: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mib: int,
    together: list[int],
) -> None:
    """By what is counted before: nothing runs out of memory."""
    sizes = []
    genuine = restore.restore

    def listening(model: Any, A: LinearOperator, y: torch.Tensor, **settings: Any) -> Restored:
        sizes.append(len(y))
        return genuine(model, A, y, **settings)

    monkeypatch.setattr(restore, "restore", listening)
    free(mib)
    worker = restorer(tmp_path)
    assert worker.micro_batch == 4
    assert [row["status"] for row in worker(rows(*[SIDE] * 4))] == ["ok"] * 4
    assert sizes == together and not worker.checkpointing
    assert worker.micro_batch == together[0] and "memory ran out" not in caplog.text


def test_what_was_counted_too_low_is_tried_again_with_checkpointing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for a size; the images after the first have it at once."""
    worker = restorer(tmp_path)
    model, genuine, tried = worker.model, restore.restore, list[tuple[int, bool]]()
    assert model is not None
    switch = model.checkpoint_activations

    def switched(on: bool) -> None:
        tried.append((0, on))
        switch(on)

    def limited(prior: Any, A: LinearOperator, y: torch.Tensor, **settings: Any) -> Restored:
        tried[-1] = len(y), tried[-1][1]
        if not tried[-1][1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(prior, A, y, **settings)

    monkeypatch.setattr(model, "checkpoint_activations", switched)
    monkeypatch.setattr(restore, "restore", limited)
    assert [row["status"] for row in worker(rows(SIDE, SIDE))] == ["ok", "ok"]
    assert tried == [(2, False), (1, False), (1, True), (1, True)]
    assert worker.checkpointing


def test_nothing_fits_where_the_weights_alone_do_not(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(-1)
    (row,) = restorer(tmp_path)(rows(SIDE))
    assert row["error"].endswith("and there are 0; allowed: more memory, since no size fits")


def test_a_machine_is_shared_by_its_workers(
    tmp_path: Path, tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 4 * (PROCESS + tiny_model.weight_bytes + 37 * MIB) / USABLE
    monkeypatch.setattr(devices, "memory", lambda device: total)
    config = job(tmp_path, tmp_path / "out", model="tiny", method={"name": "ldps", "steps": 1})
    assert Memory(config, "cpu", share=1).fit((SIDE, SIDE), 8) == Fit(8, False)
    assert Memory(config, "cpu", share=4).fit((SIDE, SIDE), 8) == Fit(1, True)
