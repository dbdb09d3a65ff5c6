"""Ids, folders and fetching. The folders hold real configurations and a few bytes in place of weights."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem
from safetensors.numpy import save

from p2l_engine.priors import fetch, layout

Resolve = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[3]
# The module without the rest of its package, whose import takes seconds.
FETCH_ALONE = """
import sys, types
package = sys.modules["p2l_engine"] = types.ModuleType("p2l_engine")
package.__path__ = ["p2l_engine"]
from p2l_engine.priors import fetch
"""

VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "sample_size": 64,
    "cross_attention_dim": 768,
    "addition_embed_type": None,
}
TEXT_ENCODER = {"model_type": "clip_text_model", "hidden_size": 768}
MODEL = {
    "model_index.json": b"{}",
    "vae/config.json": json.dumps(VAE).encode(),
    "unet/config.json": json.dumps(UNET).encode(),
    "text_encoder/config.json": json.dumps(TEXT_ENCODER).encode(),
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"",
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 1000,
    "unet/diffusion_pytorch_model.safetensors": b"unet" * 1000,
    "text_encoder/model.safetensors": b"text" * 1000,
}
UNUSED = {
    "README.md": b"not a part of the model",
    "v1-5-pruned.safetensors": b"x" * 9999,
    "safety_checker/model.safetensors": b"x" * 9999,
    "unet/diffusion_pytorch_model.bin": b"x" * 9999,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"x" * 9999,
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"x" * 9999,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket() -> Iterator[AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({f"/bucket/sd/{name}": content for name, content in {**MODEL, **UNUSED}.items()})
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without(*endings: str) -> dict[str, bytes]:
    return {name: content for name, content in MODEL.items() if not name.endswith(endings)}


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("./no/such/folder", "no such folder on this machine"),
        ("stable-diffusion", "allowed are 'tiny', 'tiny-pixel', a hub id"),
        ("tiny_pixel", "did you mean 'tiny-pixel'"),
        ("", "got ''"),
        ("gss://bucket/sd", "did you mean gs://"),
    ],
)
def test_an_unknown_id_is_refused_with_what_is_allowed(model_id: str, said: str) -> None:
    (problem,) = fetch.check_model_id(model_id)
    assert said in problem
    with pytest.raises(ValueError, match="model: got"):
        fetch.resolve(model_id)


@pytest.mark.parametrize(
    "model_id", ["CompVis/stable-diffusion-v1-4", "gs://bucket/sd", "memory://bucket/sd"]
)
def test_an_id_that_only_the_network_can_judge_passes(model_id: str) -> None:
    assert fetch.check_model_id(model_id) == []


def test_a_revision_belongs_to_hub_ids_only(tmp_path: Path) -> None:
    assert fetch.check_model_id("CompVis/stable-diffusion-v1-4", "main") == []
    for model_id in ("gs://bucket/sd", str(write(tmp_path / "sd", MODEL))):
        (problem,) = fetch.check_model_id(model_id, "main")
        assert "allowed only with a hub id" in problem


def test_checking_an_id_imports_no_network_library() -> None:
    code = FETCH_ALONE + (
        "fetch.check_model_id('tinny')\n"
        "print({'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "set()"


def test_a_whole_folder_is_taken_where_it_lies(tmp_path: Path) -> None:
    folder = write(tmp_path / "sd", MODEL)
    assert fetch.resolve(str(folder)) == folder


def test_a_folder_of_pickled_weights_says_how_to_convert_it(tmp_path: Path) -> None:
    pickled = {**without("pytorch_model.safetensors"), "unet/diffusion_pytorch_model.bin": b"x"}
    with pytest.raises(
        ValueError, match=r"only pickled weights are there \(.*\.bin\).*converted by.*save_pretrained"
    ):
        fetch.resolve(str(write(tmp_path / "sd", pickled)))


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "sd", without("vocab.json", "scheduler_config.json"))
    problems = fetch.check_model_id(str(folder))
    assert [p.split(": ")[1] for p in problems] == [
        "scheduler/scheduler_config.json is missing",
        "tokenizer/vocab.json is missing",
    ]


def test_a_tokenizer_in_one_file_will_do(tmp_path: Path) -> None:
    files = {**without("vocab.json", "merges.txt"), "tokenizer/tokenizer.json": b"{}"}
    assert fetch.check_model_id(str(write(tmp_path / "sd", files))) == []


def test_half_precision_is_taken_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    half = {
        name.replace(".safetensors", ".fp16.safetensors"): content
        for name, content in MODEL.items()
        if name.startswith("unet/")
    }
    folder = write(tmp_path / "sd", {**without("unet/diffusion_pytorch_model.safetensors"), **half})
    assert fetch.check_model_id(str(folder)) == []
    assert [layout.variant(folder, network) for network in layout.LATENT.weights] == [None, "fp16", None]


@pytest.mark.parametrize(
    ("network", "change", "said"),
    [
        ("unet", {"in_channels": 9}, "unet takes 9 channels, allowed: 4"),
        ("unet", {"cross_attention_dim": 1024}, "width 1024"),
        ("unet", {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ("unet", {"sample_size": None}, "sample_size is None"),
        ("unet", {"_class_name": "UNet2DModel"}, "unet is a UNet2DModel"),
        ("vae", {"_class_name": "VQModel"}, "vae is a VQModel, allowed: AutoencoderKL"),
        ("text_encoder", {"model_type": "t5"}, "text_encoder is a t5"),
    ],
)
def test_another_architecture_is_refused_from_its_configuration(
    tmp_path: Path, network: str, change: dict[str, Any], said: str
) -> None:
    config = {"vae": VAE, "unet": UNET, "text_encoder": TEXT_ENCODER}[network]
    changed = {f"{network}/config.json": json.dumps({**config, **change}).encode()}
    (problem,) = fetch.check_model_id(str(write(tmp_path / "sd", {**MODEL, **changed})))
    assert said in problem


def test_a_damaged_configuration_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    (problem,) = fetch.check_model_id(str(write(tmp_path / "sd", {**MODEL, "vae/config.json": b"{"})))
    assert "not JSON" in problem


def test_a_bucket_s_model_is_copied_with_the_files_it_uses_and_no_others(
    cache: Path, bucket: AbstractFileSystem
) -> None:
    assert files_in(fetch.resolve("memory://bucket/sd")) == MODEL


def test_a_copied_model_is_not_copied_again_until_it_changes(cache: Path, bucket: AbstractFileSystem) -> None:
    first = fetch.resolve("memory://bucket/sd")
    (first / "model_index.json").write_bytes(b"mark")
    assert fetch.resolve("memory://bucket/sd") == first
    assert (first / "model_index.json").read_bytes() == b"mark"
    time.sleep(0.01)
    bucket.pipe("/bucket/sd/vae/diffusion_pytorch_model.safetensors", b"VAE" * 1000)
    assert fetch.resolve("memory://bucket/sd") != first


def test_a_bucket_without_a_model_is_refused_before_anything_is_fetched(
    cache: Path, bucket: AbstractFileSystem
) -> None:
    with pytest.raises(ValueError, match="memory://bucket/none.*is missing"):
        fetch.resolve("memory://bucket/none")
    bucket.rm("/bucket/sd/vae/config.json")
    with pytest.raises(ValueError, match="vae/config.json is missing"):
        fetch.resolve("memory://bucket/sd")
    assert not cache.exists()


SLOW_FETCH = f"""{FETCH_ALONE}
import logging, time, fsspec
from fsspec.implementations.local import LocalFileSystem

class Slow(LocalFileSystem):
    protocol = "slow"
    def get_file(self, *args, **kwargs):
        super().get_file(*args, **kwargs)
        time.sleep(float(sys.argv[2]))

fsspec.register_implementation("slow", Slow)
logging.basicConfig(level=logging.INFO)
print(fetch.resolve(sys.argv[1]))
"""


def start_fetch(folder: Path, delay: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_FETCH, f"slow://{folder}", str(delay)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_load_at_once_fetch_once(cache: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "sd", MODEL)
    outcomes = [
        (*process.communicate(timeout=240), process.returncode)
        for process in [start_fetch(source, 0.1) for _ in range(3)]
    ]
    assert [code for *_, code in outcomes] == [0, 0, 0], outcomes
    assert sum(log.count("fetching ") for _, log, _ in outcomes) == 1
    (folder,) = {out.strip() for out, _, _ in outcomes}
    assert files_in(Path(folder)) == MODEL


def test_a_fetch_that_was_killed_is_never_taken_for_a_whole_one(cache: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "sd", MODEL)
    killed = start_fetch(source, 600)
    deadline = time.monotonic() + 240
    while not any(path.is_file() for path in cache.glob("*.partial/*/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".partial"]

    out, log = start_fetch(source, 0).communicate(timeout=240)
    assert files_in(Path(out.strip())) == MODEL, log
    assert not list(cache.glob("*.partial"))


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of the hub that fetching a repository takes."""

    repository = {**UNUSED, **MODEL}
    commit = "0" * 40
    fetched: list[str] = []

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/owner/sd/tree/"):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.repository.items()
            ]
            return self.answer(json.dumps(files).encode())
        if self.path.startswith("/api/models/owner/sd/revision/"):
            siblings = [{"rfilename": name} for name in self.repository]
            known = {"id": "owner/sd", "sha": self.commit, "siblings": siblings}
            return self.answer(json.dumps(known).encode())
        if self.path.startswith(f"/owner/sd/resolve/{self.commit}/"):
            name = self.path.split(self.commit + "/")[1]
            if self.command == "GET":
                self.fetched.append(name)
            return self.answer(self.repository[name])
        return self.answer(b"{}", status=404, error="RepoNotFound")

    do_HEAD = do_GET

    def answer(self, body: bytes, status: int = 200, error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{abs(hash(body))}"')
        self.send_header("X-Repo-Commit", self.commit)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Resolve]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.fetched.clear()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)

    def resolve(name: str, ask: str = "fetch.resolve", **extra: str) -> subprocess.CompletedProcess[str]:
        asked = f"from p2l_engine.priors import {ask.partition('.')[0]}\nprint({ask}({name!r}))"
        return subprocess.run(
            [sys.executable, "-c", FETCH_ALONE + asked],
            cwd=ROOT,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=120,
        )

    yield resolve
    server.shutdown()


def test_of_a_hub_repository_only_the_used_files_are_fetched_and_then_serve_offline(hub: Resolve) -> None:
    online = hub("owner/sd")
    assert online.returncode == 0, online.stderr
    assert files_in(Path(online.stdout.strip())) == MODEL
    assert not set(Hub.fetched) & set(UNUSED)
    assert hub("owner/sd", HF_HUB_OFFLINE="1").stdout == online.stdout


@pytest.mark.parametrize("precision", ["", ".fp16"])
def test_of_weights_in_several_files_all_are_fetched_and_no_others(
    hub: Resolve, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    shards = [f"diffusion_pytorch_model{precision}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = {"weight_map": {f"tensor {shard}": shard for shard in shards}}
    sharded = {
        **without("unet/diffusion_pytorch_model.safetensors"),
        f"unet/diffusion_pytorch_model.safetensors.index{precision}.json": json.dumps(index).encode(),
        **{f"unet/{shard}": b"part" * 1000 for shard in shards},
    }
    unused = {name: content for name, content in UNUSED.items() if "fp16" not in name}
    monkeypatch.setattr(Hub, "repository", {**unused, **sharded})
    found = hub("owner/sd")
    assert found.returncode == 0, found.stderr
    assert files_in(Path(found.stdout.strip())) == sharded
    assert hub("owner/sd", HF_HUB_OFFLINE="1").stdout == found.stdout


def test_a_repository_that_the_hub_lacks_is_told_from_one_out_of_reach(hub: Resolve) -> None:
    assert "neither a folder on this machine nor a hub repository" in hub("owner/none").stderr
    assert (
        "ConnectionError: model: 'owner/sd' is not in the hub's cache"
        in hub("owner/sd", HF_HUB_OFFLINE="1").stderr
    )


def test_of_an_adapters_files_one_is_fetched(hub: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"down": (2, 4, 3, 3), "up": (8, 2, 1, 1)}
    pair = {f"lora_unet_conv_in.lora_{name}.weight": np.zeros(shape) for name, shape in shapes.items()}
    files = {"pytorch_lora_weights.safetensors": save(pair), "README.md": b"x", "lcm.bin": b"x"}
    monkeypatch.setattr(Hub, "repository", files)
    found = hub("owner/sd", "lora.read_adapter")
    assert found.stdout.startswith("Adapter(name='owner/sd', file=PosixPath("), found.stderr
    assert Hub.fetched == ["pytorch_lora_weights.safetensors"]
    assert "lora: got 'owner/none', neither a folder" in hub("owner/none", "lora.read_adapter").stderr
    monkeypatch.setattr(Hub, "repository", MODEL)
    monkeypatch.setattr(Hub, "commit", "1" * 40)
    assert "which lacks pytorch_lora_weights" in hub("owner/sd", "lora.read_adapter").stderr
