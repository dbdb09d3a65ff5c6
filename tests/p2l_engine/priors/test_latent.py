"""The adapter, on random networks of Stable Diffusion's layout that take milliseconds."""

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2l_engine.priors import latent
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.computing import DTYPES
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.load import load_model, with_random_weights
from p2l_engine.priors.published import PUBLISHED
from p2l_engine.schedule import ddim_step, posterior_mean

LENGTH, WIDTH = 12, 32
SCHEDULER = PUBLISHED["CompVis/stable-diffusion-v1-4"]["scheduler"]


def make_tokenizer(**settings: Any) -> CLIPTokenizer:
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], **{"model_max_length": LENGTH, **settings})


def make_parts(**unet_settings: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    return {
        "vae": AutoencoderKL(
            block_out_channels=(16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.5,
        ),
        "unet": UNet2DConditionModel(
            **{
                "sample_size": 8,
                "block_out_channels": (32, 32, 64),
                "layers_per_block": 1,
                "norm_num_groups": 8,
                "attention_head_dim": 8,
                "cross_attention_dim": WIDTH,
                "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                **unet_settings,
            }
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=len(tokenizer) - 2,
                eos_token_id=len(tokenizer) - 1,
            )
        ),
        "tokenizer": tokenizer,
        "scheduler_config": SCHEDULER,
    }


def save(folder: Path, parts: dict, variant: str | None = None) -> Path:
    for name in ("vae", "unet"):
        parts[name].save_pretrained(folder / name, variant=variant)
    parts["text_encoder"].save_pretrained(folder / "text_encoder")
    if variant:
        stem = folder / "text_encoder" / "model"
        stem.with_suffix(".safetensors").rename(stem.with_suffix(f".{variant}.safetensors"))
    parts["tokenizer"].save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(parts["scheduler_config"]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "small", make_parts())


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentDiffusion:
    return load_model(str(folder))


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_loaded_folder_computes_what_its_networks_compute(model: LatentDiffusion) -> None:
    parts = make_parts()
    vae, unet, text_encoder = parts["vae"].eval(), parts["unet"].eval(), parts["text_encoder"].eval()
    x = images(2, 3, 32, 48)
    with torch.no_grad():
        tokens = parts["tokenizer"](
            ["a disc", ""], padding="max_length", max_length=LENGTH, return_tensors="pt"
        )
        C = text_encoder(tokens.input_ids).last_hidden_state
        z = vae.encode(x).latent_dist.mean * 0.5
        torch.testing.assert_close(model.embed_prompts(["a disc", ""]), C)
        torch.testing.assert_close(model.encode(x), z)
        torch.testing.assert_close(model.decode(z), vae.decode(z / 0.5).sample)
        torch.testing.assert_close(model.predict_noise(z, 321, C), unet(z, 321, C).sample)


def test_what_solvers_ask_of_a_model(model: LatentDiffusion, folder: Path) -> None:
    assert (model.factor, model.latent_channels, model.image_multiple, model.native_size) == (4, 4, 16, 32)
    assert (model.name, model.device, model.dtype) == (str(folder), torch.device("cpu"), torch.float32)
    assert model.process.alphas_cumprod.shape == (1000,)
    assert (model.process.set_alpha_to_one, model.process.steps_offset) == (False, 1)
    assert model.embed_prompts(["a", "b", "c"]).shape == (3, LENGTH, WIDTH)


def test_a_model_in_memory_is_the_model_in_a_folder(model: LatentDiffusion) -> None:
    x = images(1, 3, 32, 32)
    torch.testing.assert_close(LatentDiffusion(**make_parts()).encode(x), model.encode(x))


def test_a_model_walks_the_path_of_diffusers_own_ddim(model: LatentDiffusion) -> None:
    schedule = model.schedule(50)
    theirs = DDIMScheduler.from_config({**SCHEDULER, "_class_name": "DDIMScheduler", "clip_sample": False})
    theirs.set_timesteps(50)
    C = model.embed_prompts(["a disc"])
    ours = reference = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for row, t in enumerate(theirs.timesteps.tolist()):
            eps = model.predict_noise(ours, int(schedule.timesteps[row]), C)
            z0 = posterior_mean(ours, eps, schedule.alpha_bar[row])
            ours = ddim_step(z0, eps, schedule.alpha_bar_prev[row])
            reference = theirs.step(model.predict_noise(reference, t, C), t, reference).prev_sample
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3)


def test_velocity_becomes_noise(model: LatentDiffusion) -> None:
    """With the same network read as v: z_0 and eps from diffusers' own conversion."""
    parts = make_parts()
    parts["scheduler_config"] = {**SCHEDULER, "prediction_type": "v_prediction"}
    velocity = LatentDiffusion(**parts)
    theirs = DDIMScheduler.from_config(
        {**parts["scheduler_config"], "_class_name": "DDIMScheduler", "clip_sample": False}
    )
    theirs.set_timesteps(50)
    z, C, t = torch.randn(1, 4, 8, 8), model.embed_prompts([""]), 501
    with torch.no_grad():
        v = model.predict_noise(z, t, C)
        eps = velocity.predict_noise(z, t, C)
    clean = theirs.step(v, t, z).pred_original_sample
    torch.testing.assert_close(
        posterior_mean(z, eps, model.process.alphas_cumprod[t]), clean, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_networks_compute_in_their_dtype_and_hand_out_float32_or_float64(
    folder: Path, model: LatentDiffusion, dtype: str
) -> None:
    outer = torch.float64 if dtype == "float64" else torch.float32
    converted = load_model(str(folder), dtype=dtype)
    assert converted.dtype == DTYPES[dtype]
    x = images(1, 3, 32, 32)
    z, C = converted.encode(x), converted.embed_prompts(["a"])
    out = converted.decode(z), converted.predict_noise(z, 10, C)
    assert {part.dtype for part in (z, C, *out)} == {outer}
    tolerance = {"float16": 0.02, "bfloat16": 0.1}.get(dtype, 1e-5)
    torch.testing.assert_close(z.float(), model.encode(x), rtol=tolerance, atol=tolerance)


def test_gradients_reach_every_input_and_no_parameter(model: LatentDiffusion) -> None:
    z = images(1, 4, 8, 8).requires_grad_()
    C = model.embed_prompts([""]).requires_grad_()
    x = images(1, 3, 32, 32).requires_grad_()
    total = model.decode(z).sum() + model.predict_noise(z, 10, C).sum() + model.encode(x).sum()
    for gradient in torch.autograd.grad(total, (z, C, x)):
        assert gradient.abs().sum() > 0
    parts = make_parts()
    taken = LatentDiffusion(**parts)
    networks = [parts[name] for name in ("vae", "unet", "text_encoder")]
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert not any(network.training for network in networks)
    assert not taken.embed_prompts([""]).requires_grad


def test_half_precision_files_alone_will_do(tmp_path: Path, model: LatentDiffusion) -> None:
    parts = make_parts()
    for name in ("vae", "unet", "text_encoder"):
        parts[name].half()
    loaded = load_model(str(save(tmp_path / "half", parts, variant="fp16")))
    x = images(1, 3, 32, 32)
    torch.testing.assert_close(loaded.encode(x), model.encode(x), rtol=0.02, atol=0.02)


def test_a_model_is_loaded_from_a_bucket(
    tmp_path: Path, folder: Path, model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("P2L_CACHE", str(tmp_path))
    fsspec.filesystem("memory").put(str(folder), "/bucket/small", recursive=True)
    x = images(1, 3, 32, 32)
    loaded = load_model("memory://bucket/small")
    assert loaded.name == "memory://bucket/small"
    torch.testing.assert_close(loaded.encode(x), model.encode(x))


def test_an_image_that_does_not_fit_is_refused(model: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="30x32 pixels: allowed are multiples of 4"):
        model.encode(images(1, 3, 30, 32))


def test_a_prompt_is_embedded_once_while_it_is_among_the_last(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_kept", {})
    monkeypatch.setattr(latent, "KEPT", 2)
    embed, asked = model._embed, list[str]()

    def told(prompts: list[str]) -> torch.Tensor:
        asked.extend(prompts)
        return embed(prompts)

    monkeypatch.setattr(model, "_embed", told)
    C = model.embed_prompts(["", "", ""])
    C.fill_(7)
    for prompt in ("", "a", "", "b", "", "a"):
        torch.testing.assert_close(model.embed_prompts([prompt, prompt])[1:], embed([prompt]))
    assert asked == ["", "a", "b", "a"]
    model.embed_prompts(["", "a"])
    assert asked[4:] == ["", "a"]


def test_the_text_encoder_waits_on_the_cpu_and_lends_a_gpu_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's device without data, in a GPU's place."""
    own = LatentDiffusion(**make_parts())
    assert own._text_place == torch.device("cpu")
    monkeypatch.setattr(own, "device", torch.device("meta"))
    assert own._text_place == torch.device("meta")
    monkeypatch.setattr(own, "device", torch.device("cuda"))
    assert own._text_place == torch.device("cpu")
    monkeypatch.setattr(own, "device", torch.device("meta"))
    weights = [weight.data_ptr() for weight in own._text_encoder.parameters()]
    assert own.embed_prompts(["a", "b"]).is_meta
    assert [weight.data_ptr() for weight in own._text_encoder.parameters()] == weights != [0] * len(weights)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(model: LatentDiffusion) -> None:
    with pytest.warns(UserWarning, match="a prompt of 22 tokens is cut at 12"):
        assert model.embed_prompts(["a" * 20]).shape == (1, LENGTH, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed_prompts(["a" * 10])


def test_a_tokenizer_that_knows_no_length_takes_the_text_encoder_s() -> None:
    parts = make_parts()
    parts["tokenizer"] = make_tokenizer(model_max_length=None)
    assert parts["tokenizer"].model_max_length > 10**6
    assert LatentDiffusion(**parts).embed_prompts(["a"]).shape == (1, LENGTH, WIDTH)


def test_the_padding_of_a_saved_tokenizer_is_kept(tmp_path: Path) -> None:
    """Stable Diffusion 2 pads with "!" where 1 pads with the end of text."""
    parts = make_parts()
    parts["tokenizer"] = make_tokenizer(pad_token="!")
    loaded = load_model(str(save(tmp_path / "padded", parts)))
    torch.testing.assert_close(
        loaded.embed_prompts(["a"]), LatentDiffusion(**parts).embed_prompts(["a"]), rtol=1e-4, atol=1e-5
    )
    assert not torch.equal(loaded.embed_prompts(["a"]), LatentDiffusion(**make_parts()).embed_prompts(["a"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dtype": "half"}, "dtype: got 'half', allowed: float32, float64, float16, bfloat16"),
        ({"device": "gpu"}, "device: got 'gpu'"),
        ({"revision": "main"}, "revision: got 'main', allowed only with a hub id"),
    ],
)
def test_impossible_arguments_are_refused(folder: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_model(str(folder), **arguments)


def test_an_unknown_scheduler_is_refused_before_any_weights_are_read(tmp_path: Path) -> None:
    parts = {**make_parts(), "scheduler_config": {**SCHEDULER, "beta_schedule": "sigmoid"}}
    folder = save(tmp_path / "odd", parts)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="beta_schedule is 'sigmoid'"):
        load_model(str(folder))


def test_the_tensor_names_of_the_first_releases_are_understood(
    tmp_path: Path, model: LatentDiffusion
) -> None:
    """Stable Diffusion v1.4 was published before diffusers and transformers renamed these."""
    folder = save(tmp_path / "old", make_parts())
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    text_encoder = folder / "text_encoder" / "model.safetensors"
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(vae).items():
        for new, old in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        tensors[name] = tensor
    save_file(tensors, vae, metadata={"format": "pt"})
    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in load_file(text_encoder).items()
    }
    tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(tensors, text_encoder, metadata={"format": "pt"})

    loaded = load_model(str(folder))
    x = images(1, 3, 32, 32)
    torch.testing.assert_close(loaded.encode(x), model.encode(x))
    torch.testing.assert_close(loaded.embed_prompts(["a"]), model.embed_prompts(["a"]))


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
        ("text_encoder/model.safetensors", "final_layer_norm.weight"),
    ],
)
def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, file: str, tensor: str) -> None:
    folder = save(tmp_path / "thin", make_parts())
    tensors = load_file(folder / file)
    kept = {name: value for name, value in tensors.items() if not name.endswith(tensor)}
    assert len(kept) == len(tensors) - 1
    save_file(kept, folder / file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack 1 tensors .*{tensor}"):
        load_model(str(folder))


def test_random_weights_are_the_same_at_each_call_and_leave_torch_s_own_numbers_alone() -> None:
    before = torch.get_rng_state()
    one, other = (with_random_weights(read_architecture("tiny"), dtype="float64") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(one, LatentDiffusion) and isinstance(other, LatentDiffusion)
    z, C = torch.ones(1, one.latent_channels, 8, 8), torch.ones(1, *one.embedding_shape)
    eps = one.predict_noise(z, 500, C)
    assert torch.equal(eps, other.predict_noise(z, 500, C)) and eps.dtype == torch.float64
    assert eps.std() > 0
    with pytest.raises(ValueError, match="prompts: random weights has no tokenizer; allowed: prompt_embed"):
        one.embed_prompts(["a disc"])


def test_modules_that_are_no_stable_diffusion_are_refused() -> None:
    with pytest.raises(ValueError, match="unet takes 9 channels, allowed: 4"):
        LatentDiffusion(**make_parts(in_channels=9))


def test_loading_leaves_the_process_as_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(folder))
    assert gc.isenabled()
    assert capfd.readouterr() == ("", "")


def test_a_model_is_loaded_without_drawing_a_number(folder: Path) -> None:
    """Large networks would take minutes to be filled with numbers that their weights replace."""
    before = torch.get_rng_state()
    load_model("tiny")
    load_model(str(folder))
    assert torch.equal(torch.get_rng_state(), before)
