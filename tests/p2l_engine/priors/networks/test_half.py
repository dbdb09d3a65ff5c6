"""Networks in 16 bits: what of a change of the text they see, and how near to float32 restorations stay."""

import pytest
import torch
from torch import Tensor

from p2l_engine import LatentDiffusion, load_model, methods, operators, restore
from p2l_engine.priors.computing import memory_format
from p2l_engine.priors.networks import half
from p2l_engine.schedule import posterior_mean
from p2l_engine.tiny import data

HALF = ["bfloat16", "float16"]


@pytest.fixture(scope="module", params=HALF)
def half_model(request: pytest.FixtureRequest) -> LatentDiffusion:
    model: LatentDiffusion = load_model("tiny", dtype=request.param)
    return model


def measurements(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_a_network_sees_what_prompt_tuning_changes_at_the_papers_learning_rate(
    half_model: LatentDiffusion,
) -> None:
    """After one timestep with K = 3: in all keys and values of some prompts, along the exact change of them.

    Of an embedding on a bfloat16's grid, cast to it again, the network would see a hundredth.
    """
    tuning = {"iterations": 3, "learning_rate": 1e-5}
    method = methods.build("p2l", prompt_tuning=tuning, projection=None, guidance=None)
    C = half_model.embed_prompts(["", "a red square"])
    out = restore(half_model, operators.build("denoising"), measurements(16), method, 1, prompt_embeddings=C)
    assert out.prompt_embeddings is not None
    change = out.prompt_embeddings - C
    assert 0 < float(change.abs().max()) <= 3.1e-5
    C = half_model.embed_prompts(sorted(half_model.words())[:16])
    change = change.repeat(8, 1, 1)
    seen = whole = 0.0
    for name, module in half_model._unet.named_modules():
        if name.endswith(half.OF_TEXT):
            exact = change.double() @ module.weight.double().T
            found = module(C + change).double() - module(C).double()
            seen, whole = seen + float((found * exact).sum()), whole + float(exact.square().sum())
    assert 0.95 < seen / whole < 1.05


def test_gradients_are_those_of_float32_and_leave_the_networks_in_it(
    half_model: LatentDiffusion, tiny_model: LatentDiffusion
) -> None:
    def gradients(model: LatentDiffusion) -> tuple[Tensor, ...]:
        drawn = torch.Generator().manual_seed(0)
        z = torch.randn(1, model.latent_channels, 8, 8, generator=drawn).requires_grad_()
        C = tiny_model.embed_prompts(["a red square"]).requires_grad_()
        z0 = posterior_mean(z, model.predict_noise(z, 500, C), float(model.process.alphas_cumprod[500]))
        return torch.autograd.grad((model.encode(model.decode(z0)) - 1).norm(), (z, C))

    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.01}[half_model.dtype]
    for found, exact in zip(gradients(half_model), gradients(tiny_model), strict=True):
        assert found.dtype == torch.float32
        assert float((found - exact).norm() / exact.norm()) < tolerance


def test_small_gradients_pass_through_float16() -> None:
    """Those below its least number, 6e-8, but for the scale."""
    x = torch.ones(2, requires_grad=True)
    found = half.out_of(half.into(x, torch.float16) * 0.5, torch.float32)
    (gradient,) = torch.autograd.grad(found, x, torch.full((2,), 2.0**-26))
    assert gradient.tolist() == [2.0**-27] * 2


def test_restorations_are_as_good_as_in_float32(
    half_model: LatentDiffusion, tiny_model: LatentDiffusion
) -> None:
    """By the paired difference of PSNR of crops; `python -m jobs.benchmark precision` has more of them."""
    drawn = torch.tensor(data.scenes(4, data.HELD_OUT_SEED).images)
    x = drawn.permute(0, 3, 1, 2)[..., :32, :32].float() / 127.5 - 1
    A = operators.build("super_resolution", factor=4)
    method = methods.build("p2l", "tiny", "super_resolution")

    def psnr(model: LatentDiffusion) -> Tensor:
        images = restore(model, A, A(x), method, 4, seeds=[1, 2, 3, 4]).images
        return -10 * (images - x).square().flatten(1).mean(dim=1).log10()

    assert float((psnr(half_model) - psnr(tiny_model)).mean().abs()) < 0.05


def test_weights_are_channels_last_on_gpus_in_half_types_alone() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for dtype in (torch.bfloat16, torch.float16):
        assert memory_format(gpu, dtype) == memory_format(cpu, dtype) == torch.channels_last
    assert memory_format(gpu, torch.float32) == torch.contiguous_format


def test_the_text_encoder_computes_in_float32(
    half_model: LatentDiffusion, tiny_model: LatentDiffusion
) -> None:
    assert torch.equal(half_model.embed_prompts(["a red square"]), tiny_model.embed_prompts(["a red square"]))
