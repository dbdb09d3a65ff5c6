"""The auto-encoder starts as the linear map that was trained alone."""

import torch

from p2l_engine.tiny.architecture import LATENT_CHANNELS, new_vae
from p2l_engine.tiny.linear_start import decode_linearly, encode_linearly, start_from_linear_map


@torch.no_grad()
def test_the_whole_auto_encoder_starts_as_its_linear_map() -> None:
    torch.manual_seed(0)
    vae, x = new_vae(), torch.rand(2, 3, 32, 32) * 2 - 1
    z = encode_linearly(vae, x)
    decoded = decode_linearly(vae, z)
    assert z.shape == (2, LATENT_CHANNELS, 8, 8) and decoded.shape == x.shape
    before = (vae.encode(x).latent_dist.mean - z).abs().max() / z.std()
    start_from_linear_map(vae)
    assert (vae.encode(x).latent_dist.mean - z).abs().max() < 0.05 * z.std() < before * z.std()
    torch.testing.assert_close(vae.decode(z).sample, decoded, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_posterior_keeps_its_constant_deviation() -> None:
    vae = new_vae()
    start_from_linear_map(vae)
    deviation = vae.encode(torch.rand(1, 3, 32, 32) * 2 - 1).latent_dist.std
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.05))
