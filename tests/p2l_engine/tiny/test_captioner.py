"""The shipped captioner says what is on a scene, as far as a measurement shows it; its recipe, in small."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from p2l_engine import metrics, operators
from p2l_engine.priors.captioner import load_captioner
from p2l_engine.priors.fetch import CAPTIONER, local_folder
from p2l_engine.seeding import generator
from p2l_engine.tiny import train_captioner
from p2l_engine.tiny.collection import held_out_photographs
from p2l_engine.tiny.data import held_out_crops, held_out_scenes
from p2l_engine.tiny.train_captioner import DEGRADATIONS, agreement, seen


def told(degradation: dict[str, Any] | None) -> float:
    """The part of words that it tells right of held-out scenes."""
    pool = held_out_scenes()
    pictures = seen(pool.batch(torch.arange(48)), degradation, seed=0)
    texts = load_captioner(CAPTIONER)([metrics.to_uint8(picture) for picture in pictures])
    return float(np.mean([agreement(*pair) for pair in zip(texts, pool.captions, strict=True)]))


def test_it_tells_whole_scenes_and_less_of_those_enlarged_by_8() -> None:
    whole, enlarged = told(None), told({"name": "super_resolution", "factor": 8})
    assert whole > 0.9 and 0.5 < enlarged < whole


def test_it_takes_photographs_for_photographs() -> None:
    texts = load_captioner(CAPTIONER)(list(held_out_crops("test").images))
    assert sum(text.startswith("a photograph") for text in texts) > 0.9 * len(texts)
    assert len(set(texts)) > 10


def test_its_folder_is_below_6_mib() -> None:
    assert sum(path.stat().st_size for path in local_folder(CAPTIONER).iterdir()) < 6 * 2**20


@pytest.mark.parametrize("degradation", [None, *DEGRADATIONS], ids=str)
def test_it_is_trained_on_what_a_run_shows_it(degradation: dict[str, Any] | None) -> None:
    """The measurement as a picture of its own size, which the image processor brings to the network's."""
    x = held_out_scenes().batch(torch.arange(2))
    y = x
    if degradation is not None:
        sources = [generator(i, "operator") for i in range(2)]
        operator = operators.build(**degradation, generators=sources, image_shape=(3, 64, 64))
        y = operator.measure(x, train_captioner.NOISE, [generator(i, "noise") for i in range(2)])
    processor = AutoImageProcessor.from_pretrained(local_folder(CAPTIONER))
    shown = processor(images=[metrics.to_uint8(one) for one in y], return_tensors="pt").pixel_values
    assert (shown - seen(x, degradation, seed=0)).abs().max() < 2 / 127.5  # both round to 8 bits


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a disc of plain red on plain blue", 1.0),
        ("a star of plain red on plain blue", 6 / 7),
        ("a disc of red and blue fine dots on plain blue", 5 / 7),
        ("a photograph", 1 / 7),
    ],
)
def test_words_count_where_they_stand_in_the_shape_or_the_ground(text: str, part: float) -> None:
    assert agreement(text, "a disc of plain red on plain blue") == pytest.approx(part)


def test_a_training_in_miniature_writes_a_captioner_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = list(held_out_photographs("tuning").values())
    monkeypatch.setattr(train_captioner, "training_photographs", lambda _: photographs)
    for name, few in (("EPOCH", 4), ("SCENES", 2), ("CROPS", 2)):
        monkeypatch.setattr(train_captioner, name, few)
    places = ["--packages", ".", "--out", str(tmp_path / "captioner"), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train_captioner", *places, "--steps", "2"])
    train_captioner.main()
    assert "inpainting random 0.8: " in capsys.readouterr().out
    assert json.loads((tmp_path / "captioner" / "training.json").read_text()) == {"step": 2}
    (text,) = load_captioner(str(tmp_path / "captioner"))([np.zeros((8, 8, 3), np.uint8)])
    assert isinstance(text, str)
