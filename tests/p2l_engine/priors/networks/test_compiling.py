"""Compiled blocks compute what the blocks do, and pass their gradients on."""

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from p2l_engine import load_model
from p2l_engine.priors.networks import half
from p2l_engine.priors.networks.checkpointing import checkpoint_blocks
from p2l_engine.priors.networks.compiling import compile_blocks, obstacles
from p2l_engine.tiny.architecture import TEXT_LENGTH, TEXT_WIDTH
from tests.networks import narrow_unet


def _unet() -> nn.Module:
    torch.manual_seed(0)
    return narrow_unet(4, channels=4).eval().requires_grad_(False)


def _noise_and_gradients(unet: nn.Module, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, C = (
        torch.randn(2, *shape, generator=generator).requires_grad_()
        for shape in ((4, 4, 4), (TEXT_LENGTH, TEXT_WIDTH))
    )
    noise = half.out_of(unet(half.into(z, dtype), 500, C).sample, torch.float32)
    return [noise, *torch.autograd.grad(noise.square().sum(), (z, C))]


@pytest.mark.e2e  # a C++ compiler takes its time
def test_noise_and_its_gradients_are_those_of_the_blocks() -> None:
    plain = _unet()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    for found, expected in zip(*map(_noise_and_gradients, (compiled, plain)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("without_a_compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_half_type_and_checkpointing_pass_through_compiled_blocks(checkpointing: bool) -> None:
    plain, dtype = _unet(), torch.bfloat16
    half.convert(plain, torch.device("cpu"), dtype)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    for unet in (plain, compiled):
        checkpoint_blocks(unet, checkpointing)
    for found, expected in zip(
        *(_noise_and_gradients(unet, dtype) for unet in (compiled, plain)), strict=True
    ):
        most = float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * most)
    assert 0 < counters["frames"]["ok"] == counters["frames"]["total"]


@pytest.mark.usefixtures("without_a_compiler")
def test_another_thread_than_the_loading_one_compiles_as_many_sizes_of_batch() -> None:
    unet = _unet()
    compile_blocks(unet)

    @torch.no_grad()
    def predict(batch: int) -> None:
        unet(torch.zeros(batch, 4, 4, 4), 500, torch.zeros(batch, TEXT_LENGTH, TEXT_WIDTH))

    with ThreadPoolExecutor(1) as device:
        list(device.map(predict, range(1, 6)))
    assert counters["frames"] == {"total": 10, "ok": 10}, "two widths of five sizes; torch's own limit is 8"
    assert not counters["unimplemented"]


def test_a_model_is_compiled_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")  # to be set back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    model = load_model("tiny", compile=True)
    compiled = {type(module).__name__ for module in model._unet.modules() if module._compiled_call_impl}
    assert compiled == {"BasicTransformerBlock"}
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")


def test_a_machine_without_a_compiler_and_a_pixel_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="compile: got true for 'tiny-pixel', a pixel model; allowed: false"):
        load_model("tiny-pixel", compile=True)
    monkeypatch.setenv("CC", "no-such-cc")
    assert obstacles(gpu=False) == []
    (problem,) = obstacles(gpu=True)
    assert "this machine has no no-such-cc; allowed: with a C and a C++ compiler" in problem
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no no-such-compiler; allowed: with a C"):
        load_model("tiny", compile=True)
