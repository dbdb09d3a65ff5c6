"""Classifier-free guidance against its formula, and what it costs."""

import pytest
import torch

from p2l_engine import methods, operators, restore
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.solvers.parts.classifier_free import predict_guided


@pytest.mark.parametrize(("scale", "calls"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_a_text_that_does_not_count_is_not_asked_for(
    random_model: LatentDiffusion, scale: float, calls: int
) -> None:
    z = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    C, null = random_model.embed_prompts(["red", "blue"]), random_model.embed_prompts(["", ""])
    without, given = (random_model.predict_noise(z, 500, text) for text in (null, C))
    before = random_model.evaluations
    guided = predict_guided(random_model, z, 500, C, null, scale)
    assert random_model.evaluations - before == calls * len(z)
    torch.testing.assert_close(guided, without + scale * (given - without), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "scale", "nfe"), [("treg", 1.0, 3), ("daps", 1.0, 6), ("daps", 3.0, 12)])
def test_evaluations_are_those_made(random_model: LatentDiffusion, name: str, scale: float, nfe: int) -> None:
    method = methods.build(name, steps=3, guidance_scale=scale)
    assert restore(random_model, operators.build("denoising"), torch.zeros(1, 3, 16, 16), method).nfe == nfe
