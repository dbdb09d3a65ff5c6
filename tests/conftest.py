"""Fixtures every folder shares: one local Ray cluster and one small model a test process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import pipeline.stores.storage_options  # noqa: F401  chooses gcsfs's class, before a test imports gcsfs
from tests.stores import SECRET, Store, served

if TYPE_CHECKING:
    from p2l_engine.priors.latent import LatentDiffusion

# Ray's workers and the commands that tests start inherit these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15, other tests would keep workers from running
os.environ.setdefault(
    "RAY_num_workers_soft_limit", "8"
)  # idle processes that are kept: starts are what costs
os.environ |= {"P2L_TEST_KEY": "loopback", "P2L_TEST_SECRET": SECRET}
os.environ["P2L_TEST_SLOWED"] = f"{tempfile.gettempdir()}/p2l-slowed-{os.getpid()}"  # see small_jobs.slowed
# A GPU has no room for so many processes; with CUDA_VISIBLE_DEVICES=0 the tests that can use it do.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that use Ray come first, so that those that two processes end with are short."""
    on_ray = {item.path for item in items if {"ray_cluster", "head"} & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: item.path not in on_ray)


@pytest.fixture(autouse=True)
def the_same_random_numbers() -> None:
    """In every run: what a test draws without a generator of its own."""
    torch.manual_seed(0)


@pytest.fixture
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torch would compile, it records and runs as it is."""
    from diffusers import UNet2DConditionModel
    from torch._dynamo.utils import counters

    recorded = partialmethod(UNet2DConditionModel.compile_repeated_blocks, backend="aot_eager")
    monkeypatch.setattr(UNet2DConditionModel, "compile_repeated_blocks", recorded)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local cluster; its logical CPUs leave room for reads and writes beside the actors."""
    import ray

    from pipeline.cluster import ray_start

    ray_start.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_store() -> Iterator[Store]:
    """An S3 server on loopback."""
    with served("s3") as store:
        yield store


@pytest.fixture(scope="session")
def gs_store() -> Iterator[Store]:
    """A Google Cloud Storage server on loopback."""
    with served("gs") as store:
        yield store


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each of the two stores."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture(scope="session")
def tiny_model() -> LatentDiffusion:
    """The shipped model on the CPU in float32."""
    from p2l_engine import load_model

    return load_model("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def pixel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network over 16x16 pixels that asks for one of four labels, saved alone."""
    from tests.networks import narrow_pixel_unet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pixel")
    narrow_pixel_unet(16, num_class_embeds=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def captioner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random image-to-text network over 16x16 pixels that says another thing of each picture."""
    from tests.captioners import save_encoder_decoder

    return save_encoder_decoder(tmp_path_factory.mktemp("captioner"))


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built here without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(
        build, cwd=Path(__file__).resolve().parents[1], check=True, capture_output=True, timeout=120
    )
    (path,) = folder.glob("*.whl")
    return path
