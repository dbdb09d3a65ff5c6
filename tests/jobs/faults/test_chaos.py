"""The chaos benchmark: it kills a real job on a real cluster, and it finds what it is there to find."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.faults import chaos, traced
from jobs.faults.chaos import Job, Kill
from jobs.faults.traced import Line


def test_the_operator_logs_numbered_images_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(traced.LOG, str(tmp_path / "log"))
    monkeypatch.setenv(traced.SECONDS, "0")
    pixels = np.stack([traced.image(number) for number in (0, 299, 2**24 - 1)])
    images = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    assert torch.equal(traced.traced(images), images)
    traced.traced(images + 0.01)
    traced.traced(torch.randn(4, 3, traced.SIDE, traced.SIDE))
    assert traced.read(tmp_path / "log") == [Line(os.getpid(), n) for n in (0, 299, 2**24 - 1)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """The output of a small job as the benchmark gives it."""
    from pipeline.config import load_config
    from pipeline.run.run import run

    folder = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chaos, "SHARDS", 2)
        patch.setattr(chaos, "ROWS_IN_SHARD", 6)
        chaos.write_input(folder / "input")
    job = load_config(str(chaos.job_file(folder / "output")), ["operator=denoising", "workers=1"])
    assert run(job).ok == 12
    return folder / "output"


def lines(*numbers: int, process: int = 1) -> list[Line]:
    return [Line(process, number) for number in numbers]


def test_an_exact_output_has_no_violation(undisturbed: Path) -> None:
    kills = [Kill("actor", frozenset("0123"), 8)]
    log = [*lines(0, 1, 2, 3), *lines(4, 5, 6, 7, process=2), *lines(4, 5, 6, 7, 8, 9, 10, 11, process=3)]
    assert list(chaos.check(Job(undisturbed, 0, kills=kills), log, undisturbed)) == []


def test_a_committed_image_that_is_restored_again_is_found(undisturbed: Path) -> None:
    kills = [Kill("actor", frozenset("0123"), 8)]
    log = [*lines(*range(8)), *lines(3, process=2)]
    (found,) = chaos.check(Job(undisturbed, 0, kills=kills), log, undisturbed)
    assert found == "restored again though committed at kill 0 (actor): ['3']"


def test_more_than_an_actor_has_in_hand_begun_again_is_found(undisturbed: Path) -> None:
    """Two items of four: one on its device, and one that is measured or committed meanwhile."""
    log = [*lines(*range(9)), *lines(*range(12), process=2)]
    assert list(chaos.check(Job(undisturbed, 0), log[1:], undisturbed)) == []
    (found,) = chaos.check(Job(undisturbed, 0), log, undisturbed)
    assert found == "process 1: 9 of its rows were begun again, more than 2 items"


def test_lost_repeated_and_changed_rows_and_leftovers_are_found(undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(undisturbed, output)
    table = pq.read_table(output / "restored" / "0.parquet")
    changed = table.slice(1, 1).set_column(
        table.schema.get_field_index("residual"), table.schema.field("residual"), pa.array([0.5])
    )
    pq.write_table(
        pa.concat_tables([changed, table.slice(2), table.slice(2, 1)]), output / "restored" / "0.parquet"
    )
    (output / "lease.json").write_text("{}")
    found = list(chaos.check(Job(output, 0), lines(*range(12)), undisturbed))
    for part in ("0: lost", "1: differs", "2: 2 rows", "left behind: lease.json"):
        assert part in found
    assert any(text.startswith("verify: ") for text in found)
