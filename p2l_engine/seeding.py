"""An image's random numbers: a hash of (run seed, key), never its place in a batch, shard or worker."""

import hashlib

import torch

# Measurement noise; masks and motion kernels; the first latent; what a solver draws after it.
PURPOSES = ("noise", "operator", "latent", "solver")


def image_seed(run_seed: int, key: str) -> int:
    """The seed of one image: 63 bits of sha256 over the run's seed and the image's key.

    The same on every machine and Python version, and in whatever order images are restored.
    """
    return _hash63(f"{run_seed}/{key}")


def sample_seed(seed: int, number: int) -> int:
    """The seed of an image's sample of that number; that of number 0 is the image's own."""
    return _hash63(f"{seed}/sample {number}") if number else seed


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose (`PURPOSES`) of one image.

    Streams for different purposes are independent, so a different operator leaves the noise and the first
    latent of an image as they were. Torch's CPU generator keeps 32 bits of a seed, so among ten million
    images about one in four hundred has its noise in common with some other image.

    Raises ValueError for an unknown purpose.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose: got {purpose!r}; allowed: {', '.join(PURPOSES)}")
    return torch.Generator().manual_seed(_hash63(f"{purpose}/{seed}"))


def uniform(source: torch.Generator, low: float, high: float) -> float:
    """One float64 number, uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=source, dtype=torch.float64))


def _hash63(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
