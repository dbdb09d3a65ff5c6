"""Photographs for training and, apart from them, whole photographs that training never sees."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HELD_OUT = {  # shipped inside scikit-image
    "astronaut.png": "a photograph of a person",
    "chelsea.png": "a photograph of a cat",
    "coffee.png": "a photograph of a cup",
    "rocket.jpg": "a photograph of a rocket",
}
TRAINING_SCIKIT_IMAGE = {
    "brick.png": "brick",
    "camera.png": "a man",
    "coins.png": "coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "stars",
    "ihc.png": "tissue",
    "moon.png": "the moon",
    "motorcycle_left.png": "a motorcycle",
    "retina.jpg": "an eye",
}
TRAINING_SCIKIT_LEARN = {"china.jpg": "a temple", "flower.jpg": "a flower"}
TRAINING_MATE = {
    "Aqua.jpg": "water",
    "Blinds.jpg": "blinds",
    "Dune.jpg": "sand",
    "FreshFlower.jpg": "a flower",
    "Garden.jpg": "a garden",
    "GreenMeadow.jpg": "a meadow",
    "LadyBird.jpg": "a beetle",
    "RainDrops.jpg": "drops",
    "Storm.jpg": "a storm",
    "TwoWings.jpg": "a butterfly",
    "Wood.jpg": "wood",
    "YellowFlower.jpg": "a flower",
}
MATE_FOLDER = Path("/usr/share/backgrounds/mate/nature")  # of Debian's package mate-backgrounds
LONGEST_SIDE = 1000  # pixels; larger photographs are reduced, so that a crop shows something

Photograph = NDArray[np.uint8]


def held_out_photographs() -> dict[str, tuple[Photograph, str]]:
    """The photographs that training never sees, by name: RGB (H, W, 3) uint8 and a caption."""
    return {
        name.split(".")[0]: (_read(_scikit_image() / name), caption) for name, caption in HELD_OUT.items()
    }


def training_photographs(mate_folder: Path) -> list[tuple[Photograph, str]]:
    """The photographs of the recipe, RGB (H, W, 3) uint8, each with its caption.

    Raises FileNotFoundError, saying what to install, when one of the collections is missing.
    """
    return [
        (_read(folder / name), f"a photograph of {subject}")
        for folder, names in (
            (_scikit_image(), TRAINING_SCIKIT_IMAGE),
            (_scikit_learn(), TRAINING_SCIKIT_LEARN),
            (_existing(mate_folder), TRAINING_MATE),
        )
        for name, subject in names.items()
    ]


def random_crop(photograph: Photograph, generator: np.random.Generator, side: int) -> Photograph:
    """A random square of 1 to 6.25 times ``side`` pixels, reduced to (side, side, 3)."""
    height, width = photograph.shape[:2]
    extent = int(generator.integers(side, min(height, width, side * 25 // 4) + 1))
    top, left = generator.integers(height - extent + 1), generator.integers(width - extent + 1)
    square = Image.fromarray(photograph[top : top + extent, left : left + extent])
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))


def _read(path: Path) -> Photograph:
    with Image.open(path) as image:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        return np.asarray(image.convert("RGB"))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: install Debian's package mate-backgrounds, or name a folder that holds "
            f"{', '.join(TRAINING_MATE)} with --mate-photographs"
        )
    return folder


def _scikit_image() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data"


def _scikit_learn() -> Path:
    try:
        import sklearn
    except ImportError as error:
        raise FileNotFoundError(
            "training takes two photographs from scikit-learn: pip install scikit-learn"
        ) from error
    return Path(sklearn.__file__).parent / "datasets" / "images"
