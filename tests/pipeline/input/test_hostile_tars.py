"""Tars made to harm: error rows, or a refusal in time, in little memory."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest

from pipeline.input import sources
from pipeline.input.rows import InputRow, SourceError
from pipeline.input.sources import list_shards
from pipeline.stores import storage
from tests.pipeline.reading import everything, refusal
from tests.pipeline.small_jobs import png, write_tar


def header(name: str, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes, **fields: Any) -> bytes:
    return header(name, size=len(content), **fields) + content + bytes(-len(content) % 512)


END = bytes(1024)


class Counted:
    """A file; `reads` gets the bytes of each read."""

    def __init__(self, file: BinaryIO, reads: list[int]) -> None:
        self._file, self._reads = file, reads

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self._reads.append(len(found))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_error_rows(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret.png").write_bytes(png(5))
    linked = header("a.png", type=kind, linkname=str(tmp_path / "secret.png"))
    bad, good = everything(write(tmp_path / "x.tar", linked, member("b.png", png(1)), END))
    assert bad.image is None and str(bad.error).startswith(
        "no plain file: a.png is a link, a device or sparse"
    )
    assert good.image == png(1)


def test_sparse_members_are_error_rows_and_hide_none_behind_them(tmp_path: Path) -> None:
    """A sparse member claims the size of the file that it stands for: gigabytes in a few bytes."""
    sparse = bytearray(member("a.png", png(1), type=tarfile.GNUTYPE_SPARSE))
    sparse[386:410] = b"%011o\0%011o\0" % (0, len(png(1)))
    sparse[483:495] = b"77777777777\0"
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * 32 + sum(sparse[156:512]))
    bad, good = everything(write(tmp_path / "x.tar", bytes(sparse), member("b.png", png(2)), END))
    assert str(bad.error).startswith("no plain file: a.png") and good.image == png(2)


def test_a_member_that_claims_gigabytes_is_an_error_row(tmp_path: Path) -> None:
    claims = write(tmp_path / "x.tar", member("a.png", png(1)), header("b.png", size=10**12), png(2), END)
    first, second = everything(claims)
    assert first.image == png(1)
    assert second.error == "tar member too large: b.png has 1,000,000,000,000 bytes; at most 67,108,864"


@pytest.mark.parametrize(
    "parts",
    [
        (header("x", type=tarfile.GNUTYPE_LONGNAME, size=8 * 2**30), bytes(512)),
        (header("x", type=tarfile.XHDTYPE, size=8 * 2**30), bytes(512)),
        (header("x", type=tarfile.XGLTYPE, size=2**60), bytes(512)),
        (member("a.png", png(1)), header("b.png", size=-(2**40))),
        (
            member("a.json", b"{}"),
            member("x", b"20 size=-1000000000\n", type=tarfile.XHDTYPE),
            member("b.json", b""),
        ),
        (member("x", b"name\0", type=tarfile.GNUTYPE_LONGNAME) * 3000, member("a.png", png(1))),
        (member("x", b"9" * 60_000, type=tarfile.XHDTYPE), member("a.png", png(1)), b"junk" * 128),
    ],
    ids=["long name", "pax", "global pax", "negative", "negative pax", "nested names", "digits"],
)
def test_headers_that_lie_are_refused_and_no_byte_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    file = write(tmp_path / "x.tar", *parts, END)
    reads: list[int] = []
    open_read = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda url, **how: Counted(open_read(url, **how), reads))
    assert "cannot be read as tar: " in refusal(file)
    assert 0 < sum(reads) <= 2 * file.stat().st_size + sources.kinds.HEAD


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ((member("a.png", png(1)), bytes(512), member("b.png", png(2)), END), "more follows its end"),
        ((member("a.png", png(1)), END, member("b.png", png(2)), END), "more follows its end"),
        ((member("a.png", png(1)),), "the blocks that end a tar are missing"),
        ((member("a.png", png(1)), member("b.json", bytes(5000))[:2000]), "it is cut short in b.json"),
    ],
    ids=["cleared header", "two tars", "cut between members", "cut in a member of no row"],
)
def test_a_tar_whose_rows_may_be_lost_is_refused(
    tmp_path: Path, parts: tuple[bytes, ...], cause: str
) -> None:
    assert cause in refusal(write(tmp_path / "x.tar", *parts))


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    raw = member("aXb.png", png(1)).replace(b"aXb", b"a\xffb", 1)
    raw = raw[:148] + b"%06o\0 " % (sum(raw[:148]) + 8 * 32 + sum(raw[156:512])) + raw[156:]
    (row,) = everything(write(tmp_path / "x.tar", raw, END))
    assert row.key == "a\\xffb" and row.image == png(1)
    assert InputRow.table([row]).column("key").to_pylist() == ["a\\xffb"]
    (tmp_path / "photos").mkdir()
    Path(str(tmp_path / "photos" / "a\udcff.png")).write_bytes(png(1))
    with pytest.raises(SourceError, match=r"the names of 1 files are no UTF-8 text, such as a\\udcff.png"):
        list_shards([str(tmp_path / "photos")])


def test_a_key_of_very_many_members_is_one_error_row(tmp_path: Path) -> None:
    many = (member("a.png", b"") * 5000, member("b.png", png(1)), END)
    first, second = everything(write(tmp_path / "x.tar", *many))
    assert str(first.error).startswith("two files for one image") and second.image == png(1)


def test_a_prompt_in_a_tar_that_is_no_utf8_is_an_error_row(tmp_path: Path) -> None:
    first, second = everything(
        write_tar(tmp_path / "x.tar", {"a.png": png(1), "a.txt": b"\xff", "b.png": png(2)})
    )
    assert str(first.error).startswith("prompt is no UTF-8 text") and second.error is None
