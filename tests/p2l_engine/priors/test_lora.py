"""Adapters of a narrow U-Net of Stable Diffusion's parts: fused, they do what A and B do beside W."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from p2l_engine import load_model, methods, operators, restore
from p2l_engine.priors.lora import FILE, check_adapter
from p2l_engine.tiny import architecture

RANK, ALPHA = 4, 2.0  # LCM-LoRA has 64 and 8
# What LCM-LoRA adapts, by the end of its path.
ADAPTED = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """The blocks of Stable Diffusion 1.x."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=architecture.LATENT_CHANNELS,
        out_channels=architecture.LATENT_CHANNELS,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        cross_attention_dim=architecture.TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def folder(unet: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd")
    tokenizer = architecture.train_tokenizer(["a red square"], folder / "tokenizer")
    unet.save_pretrained(folder / "unet")
    architecture.new_vae().save_pretrained(folder / "vae")
    architecture.new_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    schedule = architecture.new_scheduler().config
    DDIMScheduler.from_config(schedule, prediction_type="epsilon").save_pretrained(folder / "scheduler")
    return folder


def modules(unet: UNet2DConditionModel) -> dict[str, Any]:
    return {name: module for name, module in unet.named_modules() if name.endswith(ADAPTED)}


@pytest.fixture(scope="module")
def low_rank(unet: UNet2DConditionModel) -> State:
    """A and B of every part, named as diffusers does."""
    source = torch.Generator().manual_seed(1)
    state: State = {}
    for name, module in modules(unet).items():
        out, *inner = module.weight.shape
        one = (1, 1) if isinstance(module, nn.Conv2d) else ()
        state[f"unet.{name}.lora_A.weight"] = 0.1 * torch.randn(RANK, *inner, generator=source)
        state[f"unet.{name}.lora_B.weight"] = 0.1 * torch.randn(out, RANK, *one, generator=source)
    assert len(state) > 2 * 200
    return state


def save_kohya(state: State, path: Path, alpha: float | None = ALPHA) -> None:
    names = convert_state_dict_to_kohya(state)
    alphas = {name for name in names if name.endswith(".alpha")}
    kept = {name: value.half().contiguous() for name, value in names.items() if name not in alphas}
    save_file(kept | ({name: torch.tensor(alpha).half() for name in alphas} if alpha else {}), path)


def save_diffusers(state: State, path: Path, **metadata: Any) -> None:
    bare = {name.removeprefix("unet."): value.half() for name, value in state.items()}
    StableDiffusionPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers=bare,
        weight_name=path.name,
        unet_lora_adapter_metadata={"r": RANK, **metadata} if metadata else None,
    )


SAVED: dict[str, tuple[Callable[[State, Path], None], float]] = {  # and what alpha is then
    "kohya": (save_kohya, ALPHA),
    "kohya without alpha": (lambda state, path: save_kohya(state, path, None), RANK),
    "diffusers": (lambda state, path: save_diffusers(state, path, lora_alpha=ALPHA), ALPHA),
    "diffusers without metadata": (save_diffusers, RANK),
}


def beside(unet: UNet2DConditionModel, state: State, scale: float) -> list[Any]:
    """Hooks that add scale B A x to what each part makes of x."""

    def hook(A: Tensor, B: Tensor) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if isinstance(module, nn.Conv2d):
                inner = F.conv2d(inputs[0], A, stride=module.stride, padding=module.padding)
                return output + scale * F.conv2d(inner, B)
            return output + scale * inputs[0] @ A.T @ B.T

        return add

    pairs = {
        name: [state[f"unet.{name}.lora_{part}.weight"].half().float() for part in "AB"]
        for name in modules(unet)
    }
    return [module.register_forward_hook(hook(*pairs[name])) for name, module in modules(unet).items()]


@pytest.mark.parametrize("saved", SAVED)
def test_a_fused_adapter_adds_what_it_makes_of_each_layers_input(
    unet: UNet2DConditionModel, folder: Path, low_rank: State, saved: str, tmp_path: Path
) -> None:
    save, alpha = SAVED[saved]
    save(low_rank, tmp_path / "lcm.safetensors")
    model = load_model(str(folder), lora=str(tmp_path / "lcm.safetensors"))
    z = torch.randn(2, architecture.LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(2))
    C = model.embed_prompts(["a red square", ""])
    with torch.no_grad():
        plain = unet(z, torch.tensor(500), C).sample
        hooks = beside(unet, low_rank, alpha / RANK)
        expected = unet(z, torch.tensor(500), C).sample
        for hook in hooks:
            hook.remove()
        found = model.predict_noise(z, 500, C)
    assert float((expected - plain).norm()) > 0.01 * float(plain.norm())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float((expected - plain).abs().max()))


@pytest.fixture
def bucket(low_rank: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    save_kohya(low_rank, tmp_path / FILE)
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tmp_path / FILE), f"/adapters/lcm/{FILE}")
    yield "memory://adapters/lcm"
    filesystem.rm("/adapters", recursive=True)


def test_a_folder_and_a_url_are_the_file_in_them(folder: Path, bucket: str, tmp_path: Path) -> None:
    adapters = [str(tmp_path / FILE), str(tmp_path), bucket, f"{bucket}/{FILE}"]
    z = torch.zeros(1, architecture.LATENT_CHANNELS, 8, 8)
    C = torch.zeros(1, 4, architecture.TEXT_WIDTH)
    with torch.no_grad():
        first, *others = (load_model(str(folder), lora=lora).predict_noise(z, 10, C) for lora in adapters)
    assert all(torch.equal(first, other) for other in others)
    with pytest.raises(OSError, match="memory://adapters/none/"):
        load_model(str(folder), lora="memory://adapters/none")


A, B = torch.ones(2, 8), torch.ones(8, 2)
TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PLAIN = {f"unet.{TO_Q}.lora_A.weight": A, f"unet.{TO_Q}.lora_B.weight": B}


@pytest.mark.parametrize(
    ("state", "metadata", "said"),
    [
        (
            {"lora_te_layers_0_mlp_fc1.lora_down.weight": A},
            {},
            "which has 'lora_te_layers_0_mlp_fc1.lora_down.weight'; allowed: parts of the U-Net",
        ),
        (
            PLAIN | {f"unet.{TO_Q}.lora_magnitude_vector": torch.ones(8)},
            {},
            "lora_magnitude_vector'; allowed: parts",
        ),
        ({f"unet.{TO_Q}.lora_A.weight": A}, {}, "attn1_to_q is no pair of (r, in) and (out, r)"),
        (
            {**PLAIN, f"unet.{TO_Q}.lora_B.weight": torch.ones(8, 3)},
            {},
            "attn1_to_q is no pair of (r, in) and (out, r)",
        ),
        ({**PLAIN, f"unet.{TO_Q}.lora_A.weight": torch.tensor(1.0)}, {}, "attn1_to_q is no pair"),
        ({**PLAIN, f"unet.{TO_Q}.lora_B.weight": torch.ones(8, 2, 3, 3)}, {}, "attn1_to_q is no pair"),
        ({}, {}, "an empty file; allowed: 'tiny', a .safetensors file"),
        (PLAIN, {"unet.use_rslora": True}, "with use_rslora; allowed: one alpha"),
        (PLAIN, ["alpha"], "which is no safetensors file"),
    ],
)
def test_a_file_of_other_parts_is_told(state: State, metadata: Any, said: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / FILE, {"lora_adapter_metadata": json.dumps(metadata)})
    (problem,) = check_adapter(str(tmp_path))
    assert problem.startswith(f"lora: got {str(tmp_path)!r}, ") and said in problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.safetensors", "there is no"),
        ("lcm.bin", "pickled weights, which can run anything when read"),
        ("gss://bucket/lcm", "did you mean gs://"),
        (".", f"there is no {FILE}"),
        ("text.safetensors", "which is no safetensors file"),
    ],
)
def test_what_is_no_adapter_is_told_with_what_is_allowed(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.safetensors").write_text("a text and no header")
    (problem,) = check_adapter(name)
    assert problem.startswith(f"lora: got {name!r}") and said in problem
    with pytest.raises(ValueError, match="lora: got"):
        load_model("tiny", lora=name)


def test_a_hub_id_passes_where_only_the_network_can_judge() -> None:
    assert check_adapter("latent-consistency/lcm-lora-sdv1-5") == []


@pytest.mark.parametrize(
    ("model", "changed", "said"),
    [
        ("sd", {}, None),
        ("sd", {f"unet.{TO_Q}.lora_A.weight": torch.ones(2, 9)}, "for a weight (8, 9) where it has (8, 8)"),
        ("sd", {f"unet.{TO_Q}.lora_B.weight": torch.ones(9, 2)}, "for a weight (9, 8) where it has (8, 8)"),
        (
            "sd",
            {"unet.mid.lora_A.weight": A.clone(), "unet.mid.lora_B.weight": B.clone()},
            "of whose 2 parts 1 do not fit the U-Net, such as mid, which it lacks",
        ),
        ("pixel", {}, "for a pixel model; allowed: with a latent model, or null"),
    ],
)
def test_an_adapter_of_another_model_is_refused_before_weights_are_read(
    model: str, changed: State, said: str | None, folder: Path, pixel_folder: Path, tmp_path: Path
) -> None:
    save_file(PLAIN | changed, tmp_path / FILE)
    source = {"sd": folder, "pixel": pixel_folder}[model]
    if said is None:
        assert load_model(str(source), lora=str(tmp_path))
        return
    without = tmp_path / "model"  # weights that cannot be read
    for path in source.rglob("*"):
        if path.is_file():
            target = without / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"" if path.suffix == ".safetensors" else path.read_bytes())
    with pytest.raises(ValueError) as refused:
        load_model(str(without), lora=str(tmp_path))
    assert said in str(refused.value)


def test_a_distilled_network_is_a_model_like_any_other(folder: Path, tmp_path: Path) -> None:
    """With the scheduler of latent consistency models; one that asks for a guidance scale is refused."""
    distilled = tmp_path / "lcm"
    for path in folder.rglob("*"):
        if path.is_file():
            (distilled / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (distilled / path.relative_to(folder)).write_bytes(path.read_bytes())
    scheduler = distilled / "scheduler" / "scheduler_config.json"
    lcm = {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_spacing": "leading"}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | lcm))
    A = operators.build("super_resolution", factor=4)
    y = torch.zeros(1, 3, 8, 8)
    out = restore(load_model(str(distilled)), A, y, methods.build("latino", grid=50), sigma=0.05)
    assert out.errors == (None,) and out.nfe == 8 and float(out.residual) == pytest.approx(0.05, rel=0.2)

    config = distilled / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"time_cond_proj_dim": 256}))
    with pytest.raises(ValueError, match="time_cond_proj_dim 256 .*allowed: null; .* LCM-LoRA"):
        load_model(str(distilled))
