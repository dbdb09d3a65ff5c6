"""Weights are read from safetensors only: a pickle in a model's folder is never opened."""

from __future__ import annotations

import importlib.resources
import pickle
import shutil
from pathlib import Path

import pytest

from p2l_engine import load_model

PICKLES = (
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.pt",
    "unet/diffusion_pytorch_model.ckpt",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.pkl",
)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    shipped = importlib.resources.files("p2l_engine").joinpath("tiny", "weights")
    return Path(shutil.copytree(str(shipped), tmp_path / "model"))


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_folder_of_pickled_weights_only_is_refused_unopened(tmp_path: Path, model: Path, name: str) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(tmp_path / "touched")))
    with pytest.raises(ValueError, match=f"only pickled weights are there \\({name}\\)"):
        load_model(str(model))
    assert not (tmp_path / "touched").exists()


def test_pickles_beside_the_weights_are_not_opened(tmp_path: Path, model: Path) -> None:
    for name in (*PICKLES, "text_encoder/pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "model.ckpt"):
        (model / name).write_bytes(pickle.dumps(Trap(tmp_path / "touched")))
    assert load_model(str(model)).embed_prompts(["a"]).isfinite().all()
    assert not (tmp_path / "touched").exists()
