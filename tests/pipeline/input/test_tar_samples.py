"""Which members of a tar are one row: names with dots, several pictures, members apart, what is left out."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from pipeline import limits
from pipeline.input import sources
from pipeline.input.cells import npy
from pipeline.input.rows import InputRow
from pipeline.pictures.images import decode_image
from tests.pipeline.reading import everything, only, refusal
from tests.pipeline.small_jobs import encoded, picture, png, write_tar


def rows(path: Path, names: Iterable[str], **others: bytes) -> dict[str, InputRow]:
    """The rows, by key, of a tar in which the member of number n is the picture of seed n."""
    members = {name: png(number) for number, name in enumerate(names)} | others
    return {row.key: row for row in everything(write_tar(path / "x.tar", members))}


def seeds(found: dict[str, InputRow]) -> dict[str, int]:
    """The number of each row's picture."""
    by_picture = {png(number): number for number in range(20)}
    assert all(row.error is None for row in found.values())
    return {key: by_picture[row.image or b""] for key, row in found.items()}


def left_out(path: Path) -> list[str]:
    return [str(one) for one in sources.inventory(only(path)).left_out]


def test_names_with_dots_are_rows_of_their_own(tmp_path: Path) -> None:
    names = ["22.05.png", "22.06.png", "plain.png", "scan v1.2 (front).png", "d.x/IMG_1.2.jpg", ".hidden.png"]
    keys = ["22.05", "22.06", "plain", "scan v1.2 (front)", "d.x/IMG_1.2", ".hidden"]
    assert seeds(rows(tmp_path, names)) == {key: number for number, key in enumerate(keys)}
    assert left_out(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["x.left.png", "x.right.png"], ["x.left", "x.right"]),
        (["x.jpg", "x.left.png"], ["x", "x.left"]),
        (["x.jpg", "x.png"], ["x.jpg", "x.png"]),
        (["x.gif", "x.jpg"], ["x.gif", "x"]),
        (["x.left.png", "x.left.jpg"], ["x.left.png", "x.left.jpg"]),
        (["x.jpg", "x.png", "x.jpg.png"], ["x.jpg", "x.png", "x.jpg.png"]),
        (["x.JPG", "X.jpg"], ["x", "X"]),
    ],
    ids=str,
)
def test_each_of_several_pictures_is_a_row(tmp_path: Path, names: list[str], keys: list[str]) -> None:
    assert seeds(rows(tmp_path, names)) == {key: number for number, key in enumerate(keys)}


def test_a_picture_has_the_sidecars_nearest_to_its_name(tmp_path: Path) -> None:
    kernel = npy(np.ones((3, 3)))
    others = {
        "x.txt": b"both",
        "x.right.txt": b"the right one",
        "x.kernel.npy": kernel,
        "v.2.final.mask.png": png(9),
        "w.mask.v1.png": png(8),
        "y.jpg.txt": b"of the JPEG",
    }
    names = ["x.left.png", "x.right.png", "v.2.final.jpg", "w.png", "y.jpg", "y.png"]
    found = rows(tmp_path, names, **others)
    assert list(found) == ["x.left", "x.right", "v.2.final", "w", "y.jpg", "y.png"]
    assert [row.prompt for row in found.values()] == [
        "both",
        "the right one",
        None,
        None,
        "of the JPEG",
        None,
    ]
    assert [row.kernel for row in found.values()] == [kernel, kernel, None, None, None, None]
    assert [row.mask for row in found.values()] == [None, None, png(9), png(8), None, None]


def test_members_that_stand_apart_are_joined(tmp_path: Path) -> None:
    members = {"a.png": png(1), "b.png": png(2), "b.txt": b"second", "a.mask.png": png(3), "a.txt": b"first"}
    first, second = everything(write_tar(tmp_path / "x.tar", members))
    assert first == InputRow("a", "x", png(1), png(3), None, "first")
    assert second == InputRow("b", "x", png(2), prompt="second")


def test_a_picture_is_known_by_its_ending_or_by_its_first_bytes(tmp_path: Path) -> None:
    jpeg, gif = encoded(picture(1), "JPEG"), encoded(picture(2), "GIF")
    members = {"a.jfif": jpeg, "b.JPE": jpeg, "c.gif": gif, "d": jpeg, "e.data": png(3), "f.heic": b"broken"}
    found = everything(write_tar(tmp_path / "x.tar", members))
    assert [row.key for row in found] == ["a", "b", "c", "d", "e", "f"]
    assert [row.image for row in found] == list(members.values())
    assert (np.asarray(decode_image(found[4].image or b"")) == np.asarray(picture(3))).all()


def test_what_is_in_no_row_is_counted_by_its_ending(tmp_path: Path) -> None:
    members = {"a.png": png(1), "a.json": b"{}", "b.x.json": b"{}", "a.cls": b"3", "LICENSE": b"free"}
    members |= {"._a.png": b"\0\5\x16\7", "a.caption.txt": b"a cat", "a.depth.npy": npy(np.ones((2, 2)))}
    (row,) = everything(write_tar(tmp_path / "x.tar", members))
    assert (row.key, row.image, row.prompt) == ("a", png(1), None)
    assert left_out(tmp_path) == [
        "2 left out, members of a tar that end in .json: a.json, b.x.json",
        "1 left out, members of a tar that end in .cls: a.cls",
        "1 left out, members of a tar without an ending: LICENSE",
        "1 left out, macOS's notes on other files (._NAME): ._a.png",
        "1 left out, members of a tar that end in .npy: a.depth.npy",
        "1 left out, prompts, masks and kernels that no picture has the name of: a.caption.txt",
    ]


def test_a_sample_without_a_picture_is_an_error_row(tmp_path: Path) -> None:
    members = {"a.txt": b"a cat", "a.mask.png": png(1), "b.png": png(2)}
    bad, good = everything(write_tar(tmp_path / "x.tar", members))
    assert bad.error == "no image: there is a.txt, a.mask.png, and no picture of that name"
    assert (bad.key, good.key, good.image) == ("a", "b", png(2))


@pytest.mark.parametrize(
    ("start", "tool"),
    [(None, "gunzip"), (b"BZh9", "bunzip2"), (b"\xfd7zXZ\0", "unxz"), (b"(\xb5/\xfd", "unzstd")],
)
def test_a_compressed_tar_is_refused_with_the_command_that_helps(
    tmp_path: Path, start: bytes | None, tool: str
) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1)})
    path.write_bytes(gzip.compress(path.read_bytes()) if start is None else start + bytes(100))
    assert "it is compressed" in refusal(path) and f"{tool} < FILE > PLAIN.tar" in refusal(path)


def test_the_names_of_a_tar_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS_BYTES", 5000)
    everything(write_tar(tmp_path / "x.tar", {f"{row}.png": png(row) for row in range(5)}))
    many = write_tar(tmp_path / "x.tar", {f"{row}.png": png(row) for row in range(20)})
    assert "its members' names take more than 5,000 bytes; cut it into shards" in refusal(many)
