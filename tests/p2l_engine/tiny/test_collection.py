"""Photographs to train on are read from packages; those held out are shipped and never trained on."""

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2l_engine.tiny.collection import HERE, held_out_photographs, training_photographs
from p2l_engine.tiny.data import crops, held_out_crops
from p2l_engine.tiny.qt_resource import read_resources


def _entry(name: int, flags: int, first: int, second: int = 0) -> bytes:
    return struct.pack(">IHII", name, flags, first, second) + bytes(8)


def _resource(path: Path, stored: bytes, deflated: bytes) -> Path:
    """A collection of version 2: /a holds ``stored`` as it is, /b/c holds ``deflated`` in zlib's format."""
    names = b"".join(struct.pack(">HI", 1, 0) + letter.encode("utf-16-be") for letter in "abc")
    packed = struct.pack(">I", len(deflated)) + zlib.compress(deflated)
    data = struct.pack(">I", len(stored)) + stored + struct.pack(">I", len(packed)) + packed
    tree = _entry(0, 2, 2, 1) + _entry(0, 0, 0, 0)[:6] + struct.pack(">HHI", 0, 0, 0) + bytes(8)
    tree += _entry(8, 2, 1, 3) + _entry(16, 1, 0)[:6] + struct.pack(">HHI", 0, 0, 4 + len(stored)) + bytes(8)
    header = b"qres" + struct.pack(">4I", 2, 20, 20 + len(tree), 20 + len(tree) + len(data))
    path.write_bytes(header + tree + data + names)
    return path


def test_files_of_a_qt_resource_collection_are_read_by_their_path(tmp_path: Path) -> None:
    path = _resource(tmp_path / "x.rcc", b"as it is", b"packed" * 9)
    assert read_resources(path) == {"a": b"as it is", "b/c": b"packed" * 9}


def test_another_file_is_not_taken_for_a_qt_resource_collection(tmp_path: Path) -> None:
    (tmp_path / "x.rcc").write_bytes(b"RIFF" + bytes(40))
    with pytest.raises(ValueError, match="RIFF"):
        read_resources(tmp_path / "x.rcc")


def _table(path: Path, *rows: tuple[str, str, str]) -> Path:
    with path.open("w") as file:
        csv.writer(file).writerows([("package", "file", "subject"), *rows])
    return path


def test_photographs_are_read_from_unpacked_packages_reduced_and_captioned(tmp_path: Path) -> None:
    (tmp_path / "leaves/usr").mkdir(parents=True)
    Image.new("RGBA", (1024, 256), (255, 0, 0, 0)).save(tmp_path / "leaves/usr/oak.png")
    (photograph,) = training_photographs(
        tmp_path, _table(tmp_path / "t.csv", ("leaves", "usr/oak.png", "an oak"))
    )
    assert photograph.caption == "a photograph of an oak"
    assert photograph.pixels.shape == (128, 512, 3)
    assert (photograph.pixels == 255).all()  # what is transparent stands on white


def test_every_missing_package_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    table = _table(
        tmp_path / "t.csv",
        ("leaves", "usr/oak.png", "an oak"),
        ("leaves", "usr/elm.png", "an elm"),
        ("stones", "usr/x.rcc:a.webp", "a stone"),
    )
    with pytest.raises(FileNotFoundError) as caught:
        training_photographs(tmp_path, table)
    for package, path in (
        ("leaves", "leaves/usr/oak.png"),
        ("leaves", "leaves/usr/elm.png"),
        ("stones", "stones/usr/x.rcc"),
    ):
        assert str(tmp_path / path) in str(caught.value)
        assert f"apt-get download {package} && dpkg-deb -x {package}_*.deb" in str(caught.value)


def test_no_photograph_to_train_on_comes_from_a_source_that_is_held_out() -> None:
    rows = list(csv.DictReader((HERE / "training.csv").read_text().splitlines()))
    assert len(rows) > 300 and len({(row["package"], row["file"]) for row in rows}) == len(rows)
    held_out = ("scratch", "lomiri")
    assert not [row for row in rows if row["package"].startswith(held_out)]
    assert all(row["subject"] for row in rows)


def test_held_out_photographs_are_shipped_in_two_halves_of_other_pictures() -> None:
    tuning, test = held_out_photographs("tuning"), held_out_photographs("test")
    assert len(tuning) == len(test) == 14 and len(tuning | test) == 28
    assert {photograph.pixels.shape for photograph in (tuning | test).values()} == {(360, 480, 3)}
    assert len({photograph.pixels.tobytes() for photograph in (tuning | test).values()}) == 28
    assert sum(path.stat().st_size for path in (HERE / "held_out").rglob("*.jpg")) < 1.5 * 2**20


def test_crops_are_the_same_for_the_same_seed_and_reach_the_whole_photograph() -> None:
    photographs = list(held_out_photographs("tuning").values())
    first, again, other = crops(photographs, 20, 3), crops(photographs, 20, 3), crops(photographs, 20, 4)
    assert np.array_equal(first.images, again.images) and first.captions == again.captions
    assert not np.array_equal(first.images, other.images)
    assert held_out_crops("test").images.shape == (42, 64, 64, 3)
