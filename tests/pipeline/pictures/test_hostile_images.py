"""Images, masks, kernels and prompts made to harm: an error row each, in little memory and time."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from torch import Tensor

from p2l_engine.operators import LinearOperator
from p2l_engine.restore import Restored
from pipeline import limits
from pipeline.input.rows import InputRow
from pipeline.pictures import pixels
from pipeline.pictures.images import ImageError, decode_image, fit_image
from pipeline.worker import restore
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import SIDE, encoded, job, picture, png


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def restored(folder: Path, row: InputRow, **settings: Any) -> dict:
    (found,) = Restorer(job(folder, folder / "out", **settings), ActorOptions("cpu", 4, 1))([row])
    assert found["key"] == row.key and found["status"] in ("ok", "error")
    return found


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_claiming(shape: str, dtype: str = "<f8") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def png_with(chunk: bytes, content: bytes) -> bytes:
    """A good PNG with one more chunk after its header."""
    whole = encoded(picture(1))
    extra = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    return whole[:33] + extra + whole[33:]


def progressive(side: int, scans: int) -> bytes:
    """A JPEG whose last scan, that refines the picture, stands in it many times."""
    whole = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def tiff(tags: dict[int, tuple[int, int]]) -> bytes:
    """A little-endian TIFF of these tags, each (type, value), and a few hundred bytes of data."""
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(400)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**26))),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))),
        (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26))),
    ],
)
def test_a_bomb_in_a_chunk_of_text_is_never_opened(kind: bytes, content: bytes) -> None:
    tracemalloc.start()
    found = decode_image(png_with(kind, content))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (np.asarray(found) == np.asarray(picture(1))).all()
    assert most < 2**22, "of the 64 MiB that are claimed"


def test_an_animation_that_claims_a_huge_canvas_is_refused() -> None:
    small = encoded(picture(1), "WEBP", save_all=True, append_images=[picture(2)])
    side = struct.pack("<I", 16_383 - 1)[:3]
    with pytest.raises(ImageError, match="image too large"):
        decode_image(small[:24] + side + side + small[30:])


def test_only_the_first_frame_is_decoded() -> None:
    frames = [picture(seed) for seed in range(3)]
    for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (np.asarray(decode_image(data)) == np.asarray(frames[0])).all()


def test_a_tile_larger_than_any_picture_is_refused_whatever_the_size_of_the_picture() -> None:
    """The decoder takes memory for a whole tile: 400 MB for this picture of 16 x 16 pixels."""
    tile = 20_000
    tags = {256: (4, 16), 257: (4, 16), 258: (3, 8), 259: (3, 5), 262: (3, 1), 277: (3, 1)}
    tags |= {322: (4, tile), 323: (4, tile), 324: (4, 200), 325: (4, 100)}
    with pytest.raises(ImageError, match=f"image too large: {tile} x {tile} pixels"):
        decode_image(tiff(tags))


def test_a_jpeg_of_very_many_scans_is_refused_before_one_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan of a few hundred bytes costs a pass over the whole picture: hours of work in a small file."""
    assert decode_image(progressive(64, scans=60)).size == (64, 64)
    monkeypatch.setattr(ImageFile.ImageFile, "load", pytest.fail)
    with pytest.raises(ImageError, match="image too costly: a JPEG of more than 100 scans"):
        decode_image(progressive(64, scans=100))


def test_scans_are_counted_as_a_decoder_does() -> None:
    """Markers inside of metadata, and after the picture's end, are none of its scans."""
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 500
    noted = encoded(picture(1), "JPEG", exif=exif) + b"\xff\xda" * 500
    assert decode_image(noted).size == (SIDE, SIDE)


def test_deep_grey_is_scaled_alike_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(0, 65_536, 60, dtype=np.uint16)[:1092].reshape(26, 42)
    whole = np.asarray(decode_image(encoded(Image.fromarray(values))))
    monkeypatch.setattr(pixels, "AT_ONCE", 100)
    assert (np.asarray(decode_image(encoded(Image.fromarray(values)))) == whole).all()
    assert (whole[..., 0] == np.rint(values / 257)).all()


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1), (3, 16_383)])
def test_thin_and_tiny_pictures_fill_a_size_or_are_refused(size: tuple[int, int]) -> None:
    red = decode_image(encoded(Image.new("RGB", size, "red")))
    for fit in ("crop", "resize"):
        assert (np.asarray(fit_image(red, (32, 48), fit)) == [255, 0, 0]).all()
    if size == (1, 1):
        assert (np.asarray(fit_image(red, (32, 48), "pad"))[:, 8:40] == [255, 0, 0]).all()
    else:  # scaled into the size, nothing would be left of it but the black around
        with pytest.raises(
            ImageError, match=f"image too thin: {size[0]} x {size[1]} pixels padded to 48 x 32"
        ):
            fit_image(red, (32, 48), "pad")


def test_a_picture_of_no_pixels_is_refused() -> None:
    whole = encoded(picture(1), "JPEG")
    size = whole.find(b"\xff\xc0") + 5
    for data in (png(1)[:16] + bytes(4) + png(1)[20:], whole[:size] + bytes(4) + whole[size + 4 :]):
        with pytest.raises(ImageError, match="cannot decode the image"):
            decode_image(data)


def test_pictures_of_their_own_size_are_restored_or_refused_by_it(tmp_path: Path) -> None:
    own = {"size": None, "operator": "denoising"}
    for size in ((1, 1), (1, 300), (300, 1)):
        row = InputRow("a", "s", encoded(Image.new("RGB", size, "red")))
        assert restored(tmp_path, row, **own)["status"] == "ok"
    for size in ((1, 100_000), (100_000, 1), (4097, 4097)):
        found = restored(tmp_path, InputRow("a", "s", encoded(Image.new("RGB", size))), **own)
        assert found["error"].startswith(
            f"image too large to restore: {size[0]} x {size[1]} pixels; at most "
        )


def test_a_measurement_whose_restoration_would_be_huge_is_refused(tmp_path: Path) -> None:
    enlarged = {"mode": "restore", "operator": {"name": "super_resolution", "factor": 256}}
    assert restored(tmp_path, InputRow("a", "s", png(1, side=2)), **enlarged)["status"] == "ok"
    found = restored(tmp_path, InputRow("a", "s", png(1, side=100)), **enlarged)
    assert "image too large to restore: 25600 x 25600 pixels" in found["error"]


def test_prepared_pictures_are_held_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block may hold many pictures of sizes of their own; not all of them are decoded at once."""
    worker = Restorer(job(tmp_path, tmp_path / "out"), ActorOptions("cpu", 64, 1))
    sizes = []
    genuine = restore.restore

    def counting(model: None, A: LinearOperator, y: Tensor, **settings: Any) -> Restored:
        sizes.append(len(y))
        return genuine(model, A, y, **settings)

    monkeypatch.setattr(restore, "restore", counting)
    monkeypatch.setattr(limits, "RESTORED_PIXELS", 3 * SIDE**2)
    rows = worker([InputRow(str(row), "s", png(row)) for row in range(7)])
    assert sizes == [3, 3, 1] and [row["key"] for row in rows] == list("0123456")


GOOD = np.full((SIDE, SIDE), 1.0)


@pytest.mark.parametrize(
    ("mask", "cause"),
    [
        (npy_claiming("(1000000, 1000000)"), "an array of shape"),
        (npy_claiming("(-1, 8)"), "an array of shape"),
        (npy_claiming("(8,)", "|O"), "an array of object; allowed: real numbers"),
        (npy_claiming("(8,)", "<c8"), "an array of complex64; allowed: real numbers"),
        (npy_claiming("(((((" * 200), ""),
        (npy(GOOD * np.nan), "expected finite numbers"),
        (npy(GOOD * np.inf), "expected finite numbers"),
        (npy(GOOD * 1e300), "expected finite numbers"),
        (npy(GOOD * 0), "no pixel is observed"),
        (npy(-GOOD), "no pixel is observed"),
        (npy(np.ones((2, 3, 4, 5))), "expected finite numbers"),
        (npy(np.ones((0, 0))), "expected finite numbers"),
        (npy(GOOD)[:-1], "an array of shape"),
        (npy(GOOD)[:30], ""),
        (b"\x93NUMPY\x07\x00", "version 7.0"),
        (b"GIF89a", "cannot decode the image"),
        (b"", "no image"),
    ],
)
def test_masks_that_are_no_masks_are_errors(tmp_path: Path, mask: bytes, cause: str) -> None:
    given = {"mode": "restore", "operator": {"name": "inpainting", "mask": "given"}}
    found = restored(tmp_path, InputRow("a", "s", png(1), mask=mask), **given)
    assert found["error"].startswith("mask cannot be used: ") and cause in found["error"]


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [
        (npy(np.zeros((3, 3))), "a sum above 0"),
        (npy(-np.ones((3, 3))), "0 or more"),
        (npy(np.full((3, 3), np.nan)), "expected finite numbers"),
        (npy(np.ones((2, 2))), "odd height and width"),
        (npy(np.ones((101, 101))), "take a smaller kernel"),
        (npy(np.ones((0, 0))), "expected finite numbers"),
    ],
)
def test_kernels_that_are_no_kernels_are_errors(tmp_path: Path, kernel: bytes, cause: str) -> None:
    found = restored(tmp_path, InputRow("a", "s", png(1), kernel=kernel), mode="restore", operator="blur")
    assert found["status"] == "error" and cause in found["error"]


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "touched"
    mask = npy(np.array([Trap(trap)], dtype=object), allow_pickle=True)
    assert pickle.dumps(Trap(trap))[:2] in mask, "the file does hold a pickle"
    given = {"mode": "restore", "operator": {"name": "inpainting", "mask": "given"}}
    assert restored(tmp_path, InputRow("a", "s", png(1), mask=mask), **given)["status"] == "error"
    assert not trap.exists()


def test_a_prompt_is_bounded(tmp_path: Path) -> None:
    for prompt, status in (("a\0b", "ok"), ("a" * 10_000, "ok"), ("a" * 1_000_000, "error")):
        found = restored(tmp_path, InputRow("a", "s", png(1), prompt=prompt))
        assert found["status"] == status
    assert found["error"] == "prompt too long: 1,000,000 characters; at most 10,000"


@pytest.mark.filterwarnings("ignore:a prompt of")
def test_the_longest_prompts_allowed_are_cut_as_any_other(tiny_model: Any) -> None:
    for text in ("\0", "a", "\U0001f600", " ", "a\u0301", "a cat "):
        prompt = (text * limits.PROMPT_CHARACTERS)[: limits.PROMPT_CHARACTERS]
        cut = prompt[: 8 * tiny_model.prompt_length]  # longer than it reads, too
        assert tiny_model.embed_prompts([prompt]).equal(tiny_model.embed_prompts([cut]))


def test_messages_are_stored_whatever_they_quote(tmp_path: Path) -> None:
    """An error may quote a name that is no text, or megabytes; the row must still fit its column."""
    row = InputRow("a", "s", error="cannot read \udcff " + "x" * 10**6)
    found = restored(tmp_path, row)
    assert found["error"].encode() and found["error"].startswith("cannot read \\udcff x")
    assert len(found["error"]) < limits.MESSAGE_CHARACTERS
