"""A small decoder stands for D in gradients alone, and is refused where it is for other latents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from p2l_engine import methods, operators, restore
from p2l_engine.mistakes import Mistakes
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.networks.small_decoder import Sketching, check_small_decoder, load_small_decoder


def _written(folder: Path, **settings: Any) -> str:
    torch.manual_seed(0)
    widths = settings.pop("widths", (4, 4, 4))
    AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1,) * len(widths),
        num_decoder_blocks=(1,) * len(widths),
        **settings,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written(tmp_path_factory.mktemp("small"))


def test_gradients_are_those_of_the_small_decoder_and_images_are_not(
    random_model: LatentDiffusion, small: str
) -> None:
    prior, z = Sketching(random_model, small), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(prior.decode(z), random_model.decode(z))
    network = AutoencoderTiny.from_pretrained(small, torch_dtype=torch.float64)
    z.requires_grad_()
    found, expected = (
        torch.autograd.grad(f(z).square().sum(), z)[0]
        for f in (prior.sketch, lambda z: network.decode(z).sample)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("p2l", {}),
        ("p2l", {"guidance": None}),
        ("p2l", {"prompt_tuning": None}),
        ("treg", {"guidance": {"step_size": 0.1}}),
        ("resample", {"pixel": {"iterations": 2}, "latent": {"iterations": 2}}),
        ("daps", {"dynamics": {"iterations": 2}}),
        ("latino", {"prompt_tuning": {"iterations": 1, "learning_rate": 0.1}}),
    ],
)
def test_every_method_over_latents_that_differentiates_takes_one(
    random_model: LatentDiffusion, small: str, name: str, settings: dict[str, Any]
) -> None:
    A, y = operators.build("super_resolution", factor=4), torch.rand(1, 3, 4, 4, dtype=torch.float64) * 2 - 1
    with_it, without = (
        restore(random_model, A, y, methods.build(name, steps=3, small_decoder=one, **settings))
        for one in (small, None)
    )
    assert with_it.images.isfinite().all() and with_it.nfe == without.nfe
    assert not torch.equal(with_it.images, without.images)


def test_without_a_gradient_through_the_decoder_it_is_doubted(small: str) -> None:
    assert methods.build("p2l", small_decoder=small).doubts() == []
    for name, settings in (
        ("latino", {}),
        ("p2l", {"guidance": None, "prompt_tuning": None}),
        ("treg", {"negation": {"tower": "tiny"}}),
    ):
        (doubt,) = methods.build(name, small_decoder=small, **settings).doubts()
        assert "no gradient passes through the decoder" in doubt


def test_one_for_other_latents_is_refused(random_model: LatentDiffusion, small: str, tmp_path: Path) -> None:
    assert check_small_decoder(small, 4, 4) == []
    (channels,) = check_small_decoder(small, 6, 4)
    assert "of 4 channels, which it enlarges 4 times; allowed: of 6 channels, enlarged 4 times" in channels
    eightfold = methods.build("p2l", small_decoder=_written(tmp_path / "8", widths=(4, 4, 4, 4)))
    with pytest.raises(Mistakes, match="small_decoder: .* which it enlarges 8 times"):
        restore(random_model, operators.build("denoising"), torch.zeros(1, 3, 16, 16), eightfold)


def test_what_is_none_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    (nowhere,) = check_small_decoder(str(tmp_path / "none"), 4, 4)
    assert "none'; allowed: auto, tiny, a folder of diffusers' AutoencoderTiny" in nowhere
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (other,) = check_small_decoder(str(tmp_path), 4, 4)
    assert "a AutoencoderKL" in other
    (tmp_path / "config.json").write_text("{")
    (damaged,) = check_small_decoder(str(tmp_path), 4, 4)
    assert "is not JSON" in damaged


def test_auto_is_the_one_that_is_known_for_a_models_latents() -> None:
    assert check_small_decoder("auto", 12, 4) == check_small_decoder("auto", 4, 8) == []
    (unknown,) = check_small_decoder("auto", 4, 4)
    assert "got auto, but none is known for 4 channels, enlarged 4 times; allowed: auto, tiny, a" in unknown


def test_counting_without_weights_keeps_those_that_are_loaded(small: str) -> None:
    real, counted = (torch.device(name) for name in ("cpu", "meta"))
    loaded = load_small_decoder(small, real, torch.float32)
    load_small_decoder(small, counted, torch.float32)
    assert load_small_decoder(small, real, torch.float32) is loaded
