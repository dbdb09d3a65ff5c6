"""Seeds: the same everywhere for ever, different for every key and purpose."""

import pytest
import torch

from p2l_engine.seeding import PURPOSES, generator, image_seed, uniform


def test_seeds_are_what_they_always_were() -> None:
    assert image_seed(0, "photo-0001") == 7273221814095311453
    assert float(torch.randn((), generator=generator(0, "noise"))) == pytest.approx(0.7243457436561584)


def test_seeds_have_63_bits_and_differ_by_run_and_key() -> None:
    seeds = {image_seed(run, f"{key}") for run in range(10) for key in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert image_seed(1, "2/3") != image_seed(12, "3")


def test_each_purpose_has_a_stream_of_its_own() -> None:
    draws = {purpose: torch.randn(1000, generator=generator(0, purpose)) for purpose in PURPOSES}
    torch.testing.assert_close(draws["noise"], torch.randn(1000, generator=generator(0, "noise")))
    correlations = torch.corrcoef(torch.stack(list(draws.values()))).fill_diagonal_(0)
    assert correlations.abs().max() < 0.15


def test_an_unknown_purpose_is_refused() -> None:
    with pytest.raises(ValueError, match="purpose: got 'nose'; allowed: noise, operator, latent"):
        generator(0, "nose")


def test_uniform_numbers_fill_their_range() -> None:
    source = generator(0, "operator")
    numbers = [uniform(source, 2, 5) for _ in range(200)]
    assert 2 <= min(numbers) < 2.2
    assert 4.8 < max(numbers) < 5
