"""Captions are what the vendor's model says of a picture, and what is no captioner is refused first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from p2l_engine.priors.captioner import TOKENS, check_captioner, load_captioner
from tests.captioners import save_blip, save_blip2, save_git, save_pix2struct

PICTURES = [np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8) for seed in range(4)]


def greedy(folder: Path, picture: np.ndarray) -> str:
    """One token after another by the network alone, of one picture."""
    network = transformers.VisionEncoderDecoderModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = torch.tensor(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    tokens = torch.tensor([[tokenizer.bos_token_id]])
    for _ in range(TOKENS):
        with torch.no_grad():
            scores = network(pixel_values=pixels, decoder_input_ids=tokens).logits[:, -1]
        tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], 1)
        if tokens[0, -1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))


def test_a_caption_is_the_likeliest_token_at_a_time(captioner_folder: Path) -> None:
    captions = load_captioner(str(captioner_folder))(PICTURES)
    assert captions == [greedy(captioner_folder, picture) for picture in PICTURES]
    assert len(set(captions)) == len(PICTURES)


@pytest.mark.parametrize("save", [save_blip, save_blip2, save_git, save_pix2struct])
def test_a_model_with_a_processor_captions_as_its_vendor_does(
    tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    folder = save(tmp_path)
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    expected = []
    for picture in PICTURES:
        inputs = processor(images=Image.fromarray(picture), return_tensors="pt")
        (tokens,) = network.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        expected.append(" ".join(processor.decode(tokens, skip_special_tokens=True).split()))
    captions = load_captioner(str(folder))(PICTURES)
    assert captions == expected and len(set(captions)) > 1


def test_a_picture_of_four_rows_is_no_picture_of_four_channels(captioner_folder: Path) -> None:
    captioner = load_captioner(str(captioner_folder))
    flat, sized = np.full((4, 4, 3), 9, np.uint8), np.full((16, 16, 3), 9, np.uint8)
    assert captioner([flat, PICTURES[0]]) == captioner([sized]) + captioner([PICTURES[0]])


def test_a_captioner_comes_from_a_url_as_any_model(
    captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path))
    fsspec.filesystem("memory").put(str(captioner_folder), "/captioners/small", recursive=True)
    assert check_captioner("memory://captioners/small") == []
    found = load_captioner("memory://captioners/small")(PICTURES)
    assert found == load_captioner(str(captioner_folder))(PICTURES)


def of_another_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_another_type, "its network is of type gpt2, allowed: a transformers model that captions a pic"),
        (without("preprocessor_config.json"), "preprocessor_config.json or processor_config.json is missing"),
        (without("tokenizer.json"), "tokenizer.json or vocab.json or vocab.txt or spiece.model"),
        (without("model.safetensors"), "model.safetensors is missing"),
    ],
)
def test_what_is_no_captioner_is_refused_before_its_weights_are_read(
    captioner_folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = Path(shutil.copytree(captioner_folder, tmp_path / "changed"))
    weights = folder / "model.safetensors"
    weights.write_bytes(b"no weights")
    change(folder)
    with pytest.raises(ValueError, match=said):
        load_captioner(str(folder))
    fsspec.filesystem("memory").put(str(folder), f"/captioners/{tmp_path.name}", recursive=True)
    if "type" in said:
        (problem,) = check_captioner(f"memory://captioners/{tmp_path.name}")
        assert said in problem


def test_other_models_are_no_captioners(pixel_folder: Path) -> None:
    (of_noise,) = check_captioner(str(pixel_folder))
    assert "its network is of type None, allowed: a transformers model that captions" in of_noise
    for name in ("tiny", "tiny-pixel", "no-such-folder"):
        (unknown,) = check_captioner(name)
        assert unknown.startswith(
            f"model: got {name!r}, allowed are 'tiny-captioner', a hub id (owner/name) of "
        )
