"""A disk that is full or read-only, little memory, actors that die or hang: a right result or one message.

The actors of these tests are killed and stopped from outside, as the kernel does it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from torch import Tensor

from pipeline.run.run import RunError, run
from tests.pipeline.small_jobs import committed, encoded, job, picture, slowed, write_parquet, write_shards

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[3]
SLOW = {"name": "linear", "function": "tests.pipeline.small_jobs:slow_identity"}


def deadly(images: Tensor) -> Tensor:
    """A linear operator for configurations that takes its process down with a black image."""
    if bool((images == -1).all(3).all(2).all(1).any()):
        os.kill(os.getpid(), signal.SIGKILL)
    return images * 1.0


BROKEN = Path(tempfile.gettempdir(), f"broken-device-{os.getuid()}")


def breaks_once(images: Tensor) -> Tensor:
    """A linear operator whose device fails in the first actor there is, and from then on in its process."""
    if ray.get_runtime_context().get_actor_id() is None:  # the job is checked by its driver
        return images * 1.0
    time.sleep(0.05)
    with suppress(FileExistsError), BROKEN.open("x") as file:
        file.write(str(os.getpid()))
    if BROKEN.read_text() == str(os.getpid()):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return images * 1.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory with the given options, or changes those of the mounted one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        already = ["remount"] if folder.is_mount() else []
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*already, options]), "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a file system cannot be mounted here: {error}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(
    tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    output = small_disk("size=160k") / "output"
    config = job(write_shards(tmp_path / "input", "a", rows=30), output)
    with pytest.raises(RunError, match=r"no space left \(.*\)\. Free some for .* the same command goes on"):
        run(config)
    before = committed(output)
    assert 0 < len(before) < 30 and not list(output.rglob("*.tmp"))
    small_disk("size=20m")
    assert run(config).ok == 30
    after = committed(output)
    assert {key: after[key] for key in before} == before


def test_a_read_only_output_is_named(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    output = small_disk("ro") / "output"
    with pytest.raises(RunError, match=r"not allowed: .*Read-only.*/disk/output'. Allow it, or choose"):
        run(job(write_shards(tmp_path / "input", "a", rows=1), output))


SMALL_STORE = """
import json, sys
import ray
from pipeline.config import load_config
from pipeline.run.run import run
ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=78 * 2**20)
sys.exit(run(load_config(json.loads(sys.argv[1]))).exit_status)
"""


@pytest.mark.slow
def test_more_images_than_the_object_store_holds_are_restored_all_the_same(tmp_path: Path) -> None:
    """Eight images of one item alone are larger than the store, and none of them passes through it."""
    noise = [encoded(picture(seed, 2000), "TIFF") for seed in range(3)]
    assert 8 * len(noise[0]) > 78 * 2**20
    write_parquet(tmp_path / "input" / "a.parquet", {str(row): noise[row % 3] for row in range(8)})
    config = job(tmp_path / "input", tmp_path / "output", commit_every=8)
    command = [sys.executable, "-c", SMALL_STORE, config.model_dump_json()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(committed(tmp_path / "output")) == 8


@pytest.mark.usefixtures("ray_cluster")
def test_a_row_that_kills_every_actor_becomes_an_error_and_the_run_completes(tmp_path: Path) -> None:
    black = encoded(picture(0).point(lambda value: 0))
    images = {str(row): encoded(picture(row)) for row in range(4)} | {"black": black}
    write_parquet(tmp_path / "input" / "a.parquet", images)
    operator = {"name": "linear", "function": "tests.pipeline.worker.test_faults:deadly"}
    config = job(tmp_path / "input", tmp_path / "output", operator=operator, commit_every=1)
    summary = run(config)
    assert (summary.ok, summary.errors) == (4, 1)
    rows = {row["key"]: row["error"] for row in pq.read_table(tmp_path / "output" / "restored").to_pylist()}
    assert rows == dict.fromkeys("0123") | {"black": "ended its process: 3 times"}
    assert not (tmp_path / "output" / "unfinished").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_device_that_fails_in_one_of_two_actors_costs_no_row(tmp_path: Path) -> None:
    """An actor whose CUDA context is broken fails all it is given, and fast: it would take most rows."""
    write_shards(tmp_path / "input", "ab", rows=12)
    operator = {"name": "linear", "function": "tests.pipeline.worker.test_faults:breaks_once"}
    BROKEN.unlink(missing_ok=True)
    assert run(job(tmp_path / "input", tmp_path / "output", operator=operator, workers=2)).exit_status == 0
    assert BROKEN.exists() and len(committed(tmp_path / "output")) == 24
    BROKEN.unlink()


def actors() -> list[psutil.Process]:
    """The processes of this Ray's actors that restore, the latest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "RestoreAndCommit" in " ".join(process.cmdline()):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time, reverse=True)


@contextmanager
def after_its_first_commit(
    output: Path, act: Callable[[psutil.Process], None]
) -> Iterator[list[psutil.Process]]:
    """Does something to an actor, from another thread, once it has committed; gives whom it was done to."""
    hit: list[psutil.Process] = []
    ended = threading.Event()
    before = len(list(output.glob("unfinished/*/*.parquet")))

    def wait() -> None:
        while not ended.wait(0.02):
            if len(list(output.glob("unfinished/*/*.parquet"))) > before and (found := actors()):
                act(found[0])
                hit.append(found[0])
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield hit
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("ray_cluster")
def test_a_hung_actor_ends_the_run_after_the_time_given_and_nothing_is_lost(tmp_path: Path) -> None:
    output = tmp_path / "output"
    source = write_shards(tmp_path / "input", "a", rows=60)
    for limit in (5, 30, 90):  # a busy machine may need more for an actor's start
        with (
            slowed(),
            after_its_first_commit(output, psutil.Process.suspend) as hung,
            pytest.raises(
                RunError, match=rf"nothing was committed for {limit} s: .* the same command goes on"
            ),
        ):
            run(job(source, output, operator=SLOW, no_progress_seconds=limit))
        if hung:
            break
    before = committed(output)
    assert hung and 0 < len(before) < 60
    assert run(job(source, output, operator=SLOW, commit_every=30)).ok == 60
    after = committed(output)
    assert {key: after[key] for key in before} == before
    with suppress(psutil.NoSuchProcess):  # where Ray has not ended it by now
        hung[0].kill()  # with the Ray of a command it would end; this one lives on
