"""Texts nearest to an embedding."""

import pytest
import torch

from p2l_engine import LatentDiffusion
from p2l_engine.nearest_text import distances, nearest

TEXTS = ["a photograph of a cat", "a disc of plain red on plain blue", "a photograph of a dog"]


def test_a_text_is_nearest_to_its_own_embedding(tiny_model: LatentDiffusion) -> None:
    C = tiny_model.embed_prompts(TEXTS)
    found = nearest(tiny_model, C, TEXTS, count=2)
    assert [one[0].text for one in found] == TEXTS
    assert all(one[0].distance < 1e-6 < one[1].distance for one in found)
    assert found[0][1].text == "a photograph of a dog"


def test_distances_are_root_mean_squares_however_many_texts_are_embedded_at_once(
    tiny_model: LatentDiffusion,
) -> None:
    C = tiny_model.embed_prompts([""]) + 0.5
    texts = ["", *(f"{word} cat" for word in tiny_model.words()[:70])]
    found = distances(tiny_model, C, texts)
    assert found.shape == (1, 71)
    assert float(found[0, 0]) == pytest.approx(0.5, abs=1e-5)
    last = tiny_model.embed_prompts(texts[-1:])
    assert float(found[0, -1]) == pytest.approx(float((C - last).square().mean().sqrt()), abs=1e-5)


def test_words_are_prompts_of_one_token(tiny_model: LatentDiffusion) -> None:
    words = tiny_model.words()
    assert {"red", "disc", "stripes"} <= set(words)
    assert {tiny_model.prompt_tokens(word) for word in words} == {tiny_model.prompt_tokens("red")}
    assert torch.isfinite(tiny_model.embed_prompts(words[:4])).all()
