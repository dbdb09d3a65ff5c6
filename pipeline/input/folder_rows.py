"""Rows of a folder of images: each picture, with the prompt, mask and kernel beside it that carry its name.

They belong together as the members of a tar do (`pipeline.input.tar_samples`): `cat.txt`, `cat.mask.png` and
`cat.kernel.npy` are those of `cat.jpg`, and `cat.jpg.txt` is its own where there is a `cat.png`, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pipeline import limits
from pipeline.input.rows import InputRow, Part, changed, row_of
from pipeline.input.tar_members import Member
from pipeline.input.tar_samples import WITHOUT, samples, sidecar
from pipeline.messages import describe
from pipeline.stores import storage

Paths = tuple[str, ...]
"""Of one row, below the folder: its picture's path, then those of its sidecars."""


def is_sidecar(name: str) -> bool:
    """Whether it is a prompt, a mask or a kernel by its name."""
    # Few names have one of these, and a folder may hold a million.
    return any(mark in name.lower() for mark in (".txt", ".mask.", ".kernel.")) and bool(
        sidecar(_member(name))
    )


def paths_of_rows(
    pictures: Sequence[str], sidecars: Sequence[str]
) -> tuple[list[Paths], list[tuple[str, str]]]:
    """The rows in the order of their pictures, and why and which sidecars are in none."""
    if not sidecars:
        return [(picture,) for picture in pictures], []
    members = [*(_member(name, image=True) for name in pictures), *map(_member, sidecars)]
    beside = {
        sample.members[0][1].name: [member.name for _, member in sample.members[1:]]
        for sample in samples(members)[0]
        if sample.members[0][0] == "image"
    }
    used = {name for found in beside.values() for name in found}
    left = [(WITHOUT, name) for name in sidecars if name not in used]
    return [(picture, *beside.get(picture, ())) for picture in pictures], left


def image_rows(folder: str, shard: str, files: Sequence[Paths], wanted: Sequence[bool]) -> Iterator[InputRow]:
    """The wanted rows; one that cannot be read comes with its error.

    Raises SourceError where there are not as many rows as flags.
    """
    if len(files) != len(wanted):
        raise changed(folder)
    for paths, want in zip(files, wanted, strict=True):
        if want:
            try:
                yield row_of(paths[0], shard, _parts(folder, paths))
            except storage.StorageError:
                raise  # a store out of reach is no fault of the row
            except ValueError as error:
                yield InputRow.failed(paths[0], shard, str(error))
            except OSError as error:
                yield InputRow.failed(paths[0], shard, f"cannot read the file: {describe(error)}")


def _parts(folder: str, paths: Paths) -> list[Part]:
    roles = ["image", *(belongs[1] for name in paths[1:] if (belongs := sidecar(_member(name))))]
    return [(role, name, partial(_data, folder, name)) for role, name in zip(roles, paths, strict=True)]


def _member(name: str, image: bool = False) -> Member:
    return Member(name, offset=0, size=0, plain=True, image=image)


def _data(folder: str, name: str) -> bytes:
    with storage.open_read(storage.join(folder, name)) as file:
        data = file.read(limits.CELL_BYTES + 1)
    if len(data) > limits.CELL_BYTES:
        raise ValueError(f"file too large: {name} has more than {limits.CELL_BYTES:,} bytes")
    return data
