"""Rows of a WebDataset tar: the members of one sample are one row; see `tar_samples` for which these are.

Nothing is unpickled, and nothing is written anywhere: a name is only ever part of a key, whatever path it
spells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from pipeline import limits
from pipeline.input.rows import InputRow, Inventory, SourceError, changed, row_of
from pipeline.input.tar_members import MEMBER_BYTES, Member, data_of, members
from pipeline.input.tar_samples import Sample, is_part, samples
from pipeline.messages import describe
from pipeline.stores import storage

Samples = list[Sample]


def tar_inventory(url: str) -> Inventory:
    """The keys in order, and the members that are in no row.

    Raises SourceError where the file is no whole tar, or its members' names are beyond KEYS_BYTES.
    """
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        found, without = samples(_bounded(file, url))
    return Inventory([sample.key for sample in found], without)


def tar_samples(url: str) -> Samples:
    """The key and the members of each row, by which `tar_rows` finds it without reading what is before it."""
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        return samples(_bounded(file, url))[0]


def tar_rows(
    url: str, shard: str, wanted: Sequence[bool], samples: Callable[[str], Samples] = tar_samples
) -> Iterator[InputRow]:
    """The wanted rows. samples: `tar_samples`, or what remembers its results for the next rows of the tar.

    Raises SourceError where there are not as many rows as flags.
    """
    found = samples(url)
    if len(found) != len(wanted):
        raise changed(url)
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        for sample, want in zip(found, wanted, strict=True):
            if want:
                try:
                    yield _row(file, sample, shard)
                except storage.StorageError:
                    raise  # a store out of reach is no fault of the row
                except (ValueError, OSError) as error:
                    yield InputRow.failed(sample.key, shard, describe(error))


def _bounded(file: BinaryIO, url: str) -> Iterator[Member]:
    size = 0
    for member in members(file, url, is_part):
        size += len(member.name) + MEMBER_BYTES
        if size > limits.KEYS_BYTES:
            raise SourceError(
                f"{url}: its members' names take more than {limits.KEYS_BYTES:,} bytes; cut it into shards"
            )
        yield member


def _row(file: BinaryIO, sample: Sample, shard: str) -> InputRow:
    parts = [(role, member.name, partial(data_of, file, member)) for role, member in sample.members]
    return row_of(sample.key, shard, parts)
