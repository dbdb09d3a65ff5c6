"""Drawn scenes whose captions say what a degradation destroys.

A scene is a shape on a background; each region has a texture in two colours. Phase, period and colours of a
texture follow from its words, so the caption determines the pixels up to the place and size of the shape.
"""

import numpy as np
from numpy.typing import NDArray

SIDE = 64  # pixels
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (20, 20, 24),
    "white": (240, 240, 235),
    "red": (205, 40, 45),
    "green": (40, 150, 60),
    "blue": (40, 75, 190),
    "yellow": (240, 205, 50),
    "orange": (240, 130, 35),
    "purple": (130, 60, 160),
}
PERIODS = {"fine": 16 / 3, "coarse": 8.0}  # pixels
TEXTURES = ("plain", "horizontal stripes", "vertical stripes", "diagonal stripes", "checks", "dots", "grain")
SHAPES = ("disc", "square", "triangle", "star")
SUPERSAMPLING = 2

Image = NDArray[np.uint8]
Plane = NDArray[np.float64]


def draw_scene(generator: np.random.Generator) -> tuple[Image, str]:
    """Draw one scene: an RGB image (64, 64, 3), uint8, and its caption."""
    outline, background = _texture(generator), _texture(generator)
    shape = SHAPES[generator.integers(len(SHAPES))]
    radius = generator.uniform(13, 23)
    centre = generator.uniform(radius * 0.8, SIDE - radius * 0.8, size=2)
    x, y = _coordinates()
    inside = _inside(shape, (x - centre[0]) / radius, (y - centre[1]) / radius)[..., None]
    pixels = np.where(inside, _paint(*outline, x, y), _paint(*background, x, y))
    pixels = pixels.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return pixels.round().astype(np.uint8), f"a {shape} of {_words(*outline)} on {_words(*background)}"


def _coordinates() -> tuple[Plane, Plane]:
    ticks = (np.arange(SIDE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid(ticks, ticks)
    return x, y


def _texture(generator: np.random.Generator) -> tuple[str, str, str, str]:
    """Draw (texture, period, first colour, second colour)."""
    first, second = generator.choice(list(COLOURS), size=2, replace=False)
    texture = TEXTURES[generator.integers(len(TEXTURES))]
    return texture, list(PERIODS)[generator.integers(len(PERIODS))], str(first), str(second)


def _words(texture: str, period: str, first: str, second: str) -> str:
    return f"plain {first}" if texture == "plain" else f"{first} and {second} {period} {texture}"


def _paint(texture: str, period: str, first: str, second: str, x: Plane, y: Plane) -> Plane:
    """RGB values (rows, columns, 3) in [0, 255] of a texture at the points (x, y), in pixels."""
    chosen = _pattern(texture, PERIODS[period], x, y)[..., None]
    return np.where(chosen, np.array(COLOURS[second], float), np.array(COLOURS[first], float))


def _pattern(texture: str, period: float, x: Plane, y: Plane) -> NDArray[np.bool_]:
    def stripe(position: Plane) -> NDArray[np.bool_]:
        return np.floor(2 * position / period) % 2 == 1

    def from_centre(position: Plane) -> Plane:
        return position % period - period / 2

    match texture:
        case "plain":
            return np.zeros(x.shape, bool)
        case "horizontal stripes":
            return stripe(y)
        case "vertical stripes":
            return stripe(x)
        case "diagonal stripes":
            return stripe((x + y) / np.sqrt(2))
        case "checks":
            return stripe(x) ^ stripe(y)
        case "dots":
            return np.hypot(from_centre(x), from_centre(y)) < 0.36 * period
        case "grain":
            return _GRAIN[(2 * y / period).astype(int), (2 * x / period).astype(int)]
    raise ValueError(f"texture is {texture!r}; one of {TEXTURES} is needed")


_GRAIN = (
    np.random.default_rng(0).random((SIDE, SIDE)) < 0.5
)  # the same grain in every scene, as its words are


def _inside(shape: str, x: Plane, y: Plane) -> NDArray[np.bool_]:
    """Where the shape of radius 1 about the origin is; y grows downwards."""
    match shape:
        case "disc":
            return np.hypot(x, y) < 1
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.85
        case "triangle":
            return (y < 0.8) & (abs(x) < 0.55 * (y + 1))
        case "star":
            turn = (np.arctan2(x, -y) * 5 / (2 * np.pi)) % 1
            return np.hypot(x, y) < 1 - 1.1 * np.minimum(turn, 1 - turn)
    raise ValueError(f"shape is {shape!r}; one of {SHAPES} is needed")
