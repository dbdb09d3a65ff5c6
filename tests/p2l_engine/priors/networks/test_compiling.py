"""Compiled blocks compute what the blocks do, and pass their gradients on."""

import copy

import pytest
import torch
from torch import Tensor, nn

from p2l_engine import load_model
from p2l_engine.priors.networks.compiling import compile_blocks
from p2l_engine.tiny.architecture import TEXT_LENGTH, TEXT_WIDTH
from tests.networks import narrow_unet


def _noise_and_gradients(unet: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, C = (
        torch.randn(2, *shape, generator=generator).requires_grad_()
        for shape in ((4, 4, 4), (TEXT_LENGTH, TEXT_WIDTH))
    )
    noise = unet(z, 500, C).sample
    return [noise, *torch.autograd.grad(noise.square().sum(), (z, C))]


@pytest.mark.e2e  # a C++ compiler takes its time
def test_noise_and_its_gradients_are_those_of_the_blocks() -> None:
    torch.manual_seed(0)
    plain = narrow_unet(4, channels=4).eval().requires_grad_(False)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    for found, expected in zip(*map(_noise_and_gradients, (compiled, plain)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_is_compiled_where_it_is_asked_for() -> None:
    model = load_model("tiny", compile=True)
    compiled = {type(module).__name__ for module in model._unet.modules() if module._compiled_call_impl}
    assert compiled == {"BasicTransformerBlock"}


def test_a_machine_without_a_compiler_and_a_pixel_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="compile: got true for 'tiny-pixel', a pixel model; allowed: false"):
        load_model("tiny-pixel", compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no no-such-compiler; allowed: with a C"):
        load_model("tiny", compile=True)
