"""What there is to do: the keys of every shard, checked, and which of them have no row yet.

Runs as Ray Data tasks, one a shard, that read keys and never images; few shards are looked at here, in less
time than a task's process takes to start. A shard leaves one bit and one 64-bit hash a row, so that the
driver holds about 8 bytes a row at any scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from pipeline.cluster.ray_start import TASK_CPUS
from pipeline.input import sources
from pipeline.input.keys import Place, bad_keys, key_hash, repeated_keys
from pipeline.input.rows import LeftOut, SourceError, merged, replaced
from pipeline.input.sources import Shard
from pipeline.messages import readable
from pipeline.output import captions, rows
from pipeline.output.folder import OutputFolder
from pipeline.stores import retries, storage, storage_options
from pipeline.stores.storage_options import Options
from pipeline.worker.items import Work

FEW_SHARDS = 4
LEAVE_OUT = (
    "mend the file, or leave it out: begin its name with _ (it is then counted as left out), or list the "
    "others as `input`"
)

Row = dict[str, Any]
Look = Callable[[pa.Table], pa.Table]

_LEFT_OUT = pa.struct([("reason", pa.string()), ("count", pa.int64()), ("examples", pa.list_(pa.string()))])
_SCANNED = pa.schema(
    [
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("wanted", pa.binary()),
        ("left", pa.int64()),
        ("hashes", pa.binary()),
        ("problems", pa.list_(pa.string())),
        ("retries", retries.NAMES),
        ("left_out", pa.list_(_LEFT_OUT)),
        ("captioned", pa.bool_()),
    ]
)


class Scanned(NamedTuple):
    """work: what is left of the open shards. rows: of each shard by name. retries: the error of each.

    left_out: what of all shards becomes no row. uncaptioned: those of the work whose captions are to be made.
    """

    work: list[Work]
    rows: dict[str, int]
    retries: list[str]
    left_out: tuple[LeftOut, ...]
    uncaptioned: list[Work]


def scan(
    shards: Sequence[Shard],
    output: OutputFolder,
    *,
    retry_errors: bool,
    open_shards: set[str],
    stores: Options,
    captions_of: str | None = None,
) -> Scanned:
    """The work of the shards named in `open_shards`; the keys of all shards are checked.

    A whole file's have to be those of its output (of folders, `run_json.refuse_changed_input` sees to it).

    captions_of: the fingerprint of the settings that captions are made with; None where none are made.

    Raises SourceError naming every key that is missing, not text, or there twice in the run.
    """
    whole = set(output.restored())
    items = [
        Work(shard, 0, b"", 0, b"").item()
        | {"open": shard.name in open_shards, "whole": shard.name in whole and shard.kind != "images"}
        for shard in shards
    ]
    look = partial(
        _scan_shard, output=output, retry_errors=retry_errors, stores=stores, captions_of=captions_of
    )
    found = _looked_at_here(items, look) if len(items) <= FEW_SHARDS else _looked_at_by_tasks(items, look)
    by_name = {str(item["name"]): item for item in found}
    mistakes = [text for shard in shards for text in by_name[shard.name]["problems"]]
    hashes = [np.frombuffer(by_name[shard.name]["hashes"], np.uint64) for shard in shards]
    mistakes += _repeated(shards, hashes)
    if mistakes:
        raise SourceError(*mistakes)
    work = [
        Work(shard, item["rows"], item["wanted"], item["left"], item["hashes"])
        for shard in shards
        if shard.name in open_shards and (item := by_name[shard.name])
    ]
    return Scanned(
        work,
        {name: item["rows"] for name, item in by_name.items()},
        [name for item in found for name in item["retries"]],
        merged(LeftOut.of(one) for shard in shards for one in by_name[shard.name]["left_out"]),
        [one for one in work if one.left and not by_name[one.shard.name]["captioned"]],
    )


def _looked_at_by_tasks(items: list[Row], look: Look) -> list[Row]:
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    return dataset.map_batches(look, batch_size=1, batch_format="pyarrow", num_cpus=TASK_CPUS).take_all()


def _looked_at_here(items: list[Row], look: Look) -> list[Row]:
    """The driver counts its own retries."""
    found = [row for item in items for row in look(pa.Table.from_pylist([item])).to_pylist()]
    return [row | {"retries": []} for row in found]


def _scan_shard(
    batch: pa.Table, output: OutputFolder, retry_errors: bool, stores: Options, captions_of: str | None
) -> pa.Table:
    storage_options.configure(stores)
    retried = retries.Since()
    item = batch.to_pylist()[0]
    shard = Work.of(item).shard
    try:
        found = sources.inventory(shard)
        keys, left_out = found.keys, found.left_out
        problems = bad_keys(shard, keys)
        if item["whole"] and not problems and keys != rows.keys_of(output, shard.name):
            problems = [str(replaced(shard.url, shard.name))]
    except storage.StorageError:
        raise  # a store out of reach is no fault of the shard
    except (SourceError, OSError) as error:
        keys, left_out = [], ()
        problems = [f"{readable(str(error))}; {LEAVE_OUT}"]
    count_errors = not retry_errors
    done = output.done_keys(shard.name, count_errors=count_errors) if item["open"] else set()
    wanted = np.array([not isinstance(key, str) or key not in done for key in keys], dtype=bool)
    summary = {
        "name": shard.name,
        "rows": len(keys),
        "wanted": np.packbits(wanted).tobytes(),
        "left": int(wanted.sum()),
        "hashes": np.array([key_hash(key) for key in keys], dtype=np.uint64).tobytes(),
        "problems": problems,
        "retries": retried.names(),
        "left_out": [asdict(one) for one in left_out],
        "captioned": captions_of is None
        or not item["open"]
        or captions.holds(output, shard.name, keys, captions_of, count_errors=count_errors),
    }
    return pa.Table.from_pylist([summary], schema=_SCANNED)


def _repeated(shards: Sequence[Shard], hashes: Sequence[np.ndarray]) -> list[str]:
    """Names the keys that occur twice, reading again only the shards that hold one of their hashes."""
    values = np.concatenate(hashes)
    values.sort()
    suspects = np.unique(values[1:][values[1:] == values[:-1]])
    if not len(suspects):
        return []
    places: dict[str, list[Place]] = {}
    for shard, of_shard in zip(shards, hashes, strict=True):
        rows = np.flatnonzero(np.isin(of_shard, suspects))
        if len(rows):
            keys = sources.keys(shard)
            for row in rows.tolist():
                if isinstance(keys[row], str) and keys[row]:
                    places.setdefault(str(keys[row]), []).append((shard.name, row))
    return repeated_keys(places)
