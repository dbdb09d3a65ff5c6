"""What a text embedding is near to, in words: texts whose own embeddings lie closest."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from p2l_engine.priors.base import LatentPrior

TEXTS_AT_ONCE = 64


class Near(NamedTuple):
    """A text and its distance: root mean square over the tokens and numbers of both embeddings."""

    text: str
    distance: float


@torch.no_grad()
def distances(prior: LatentPrior, C: Tensor, texts: Sequence[str]) -> Tensor:
    """Root mean square differences (B, N), float64, of embeddings C (B, L, D) and those of N texts."""
    ours = C.detach().flatten(1).double().cpu()
    found = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        theirs = prior.embed_prompts(texts[start : start + TEXTS_AT_ONCE]).flatten(1).double().cpu()
        found.append(torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist"))
    return torch.cat(found, dim=1) / ours.shape[1] ** 0.5


def nearest(prior: LatentPrior, C: Tensor, texts: Sequence[str], count: int) -> list[list[Near]]:
    """For each of B embeddings C (B, L, D) the `count` nearest of the texts, nearest first."""
    closest = distances(prior, C, texts).topk(min(count, len(texts)), largest=False)
    return [
        [Near(texts[i], float(d)) for i, d in zip(places, values, strict=True)]
        for places, values in zip(closest.indices.tolist(), closest.values.tolist(), strict=True)
    ]
