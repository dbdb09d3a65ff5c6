"""The paper's figures of the shipped model: the numbers behind them, and pictures that open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.tables.paper import world
from jobs.tables.paper.drawn import FIGURES, generation
from jobs.tables.paper.drawn.evolution import SHOWN, evolution
from jobs.tables.paper.drawn.fixed_points import ROUNDS, drift
from jobs.tables.paper.drawn.generation import generate
from p2l_engine import LatentDiffusion, methods, operators, restore
from p2l_engine.restore import pose


class Averaging:
    """An auto-encoder whose decodings are encoded to half of them: z_n = z_0 / 2^n."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z / 2


def test_the_drift_of_an_auto_encoder_is_measured_from_its_first_latent() -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = drift(Averaging(), x, glue=None)  # type: ignore[arg-type]
    assert found.shape == (ROUNDS, 3)
    scale = x.flatten(1).square().mean(dim=1).sqrt() / x.flatten(1).std(dim=1)
    for n in (1, 5, ROUNDS):
        assert found[n - 1] == pytest.approx((scale * (1 - 0.5**n)).numpy())
    assert np.allclose(drift(Averaging(), x, glue=lambda u: 2 * u), 0)  # type: ignore[arg-type]


def test_the_evolution_of_a_method_ends_at_its_restoration(tiny_model: LatentDiffusion) -> None:
    A = operators.build("super_resolution", factor=4)
    colours = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = A(torch.nn.functional.interpolate(colours, size=32, mode="bicubic").clamp(-1, 1))
    solver = methods.build("ldps", preset="tiny", operator="super_resolution", steps=12, finish=None)
    moments = evolution(tiny_model, solver, pose(tiny_model, A, y, seeds=[1]))
    assert len(moments) == SHOWN
    expected = restore(tiny_model, A, y, solver, seeds=[1]).images
    assert torch.equal(moments[-1].clamp(-1, 1), expected)
    errors = [float((A(x) - y).square().mean()) for x in moments]
    assert errors[-1] < errors[0] / 2


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "STEPS", 8)


@pytest.mark.usefixtures("few_steps")
def test_a_caption_leads_generation_the_more_the_stronger_the_guidance(tiny_model: LatentDiffusion) -> None:
    C, null = tiny_model.embed_prompts(["a photograph of a cat"]), tiny_model.embed_prompts([""])
    z = torch.randn(1, tiny_model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    free, plain, strong = (generate(tiny_model, z, C, null, scale) for scale in (0.0, 1.0, 4.0))
    assert torch.equal(free, generate(tiny_model, z, null, null, 1.0))
    assert 0 < float((plain - free).square().mean()) < float((strong - free).square().mean())


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_of_the_images_there_are(name: str, tmp_path: Path) -> None:
    draw, data_set = FIGURES[name]
    here = world.tiny(str(tmp_path), 1)
    quick = replace(here, settings={**here.settings, "method": {"steps": SHOWN}})
    text = draw(quick, data_set, str(tmp_path), 2)
    (picture,) = tmp_path.glob("figure-*.png")
    with Image.open(picture) as image:
        assert min(image.size) >= 200
    assert "±" in text or picture.name in text
    assert ("±" in text) == Path(picture.with_suffix(".csv")).exists()
