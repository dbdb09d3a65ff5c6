"""The shipped adapter makes of the U-Net one that takes a path to its end in a step."""

import pytest
import torch

from p2l_engine import LatentDiffusion, load_model
from p2l_engine.priors.fetch import beside_tiny
from p2l_engine.priors.lora import FOLDER, SHIPPED
from p2l_engine.schedule import ddim_step, posterior_mean
from p2l_engine.tiny.data import held_out_crops
from p2l_engine.tiny.distill import Distillation


@torch.no_grad()
@pytest.mark.parametrize("begin", [399, 999])
def test_a_step_is_nearer_to_where_the_path_ends(tiny_model: LatentDiffusion, begin: int) -> None:
    """From noised crops of photographs that no training saw, the path that of the U-Net without it."""
    times = list(range(begin, 0, -1000 // Distillation().grid))
    a = [tiny_model.process.alphas_cumprod[t].item() for t in times]
    z = tiny_model.encode(held_out_crops("tuning").batch(torch.arange(4)))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    C = tiny_model.embed_prompts([""] * len(z))
    z = first = ddim_step(z, noise, a[0])
    for t, before, after in zip(times, a, [*a[1:], 1.0], strict=True):
        eps = tiny_model.predict_noise(z, t, C)
        z = ddim_step(posterior_mean(z, eps, before), eps, after)
    with_it, without = (
        (posterior_mean(first, model.predict_noise(first, begin, C), a[0]) - z).square().mean().sqrt()
        for model in (load_model("tiny", lora=SHIPPED), tiny_model)
    )
    assert float(with_it) < 0.6 * float(without)


def test_its_weights_are_below_6_mib() -> None:
    assert sum(path.stat().st_size for path in beside_tiny(FOLDER).iterdir()) < 6 * 2**20
