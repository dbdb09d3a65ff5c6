"""Is a run's output whole and true? Every check reads what is stored, a few rows at a time."""

from __future__ import annotations

import io
import math
import os
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import ConfigError, JobConfig, read_back
from pipeline.input import sources
from pipeline.input.files import refuse_inside
from pipeline.input.keys import key_hash
from pipeline.input.rows import SourceError
from pipeline.input.sources import Shard
from pipeline.messages import some
from pipeline.output.columns import METRIC_COLUMNS, METRICS, missing
from pipeline.output.folder import METRICS_FILE, RESTORED, RUN, SUMMARY, UNFINISHED, OutputFolder
from pipeline.output.rows import READERS, all_rows, pick
from pipeline.results import noise
from pipeline.stores import storage_options
from pipeline.worker.measure import against, originals

LIMIT = 1000  # problems listed for one shard; one fault in a large run can touch every row
NAMED = 5  # keys named in one problem
TOLERANCE = 1e-6  # dB and SSIM; the same arithmetic in another version of a library
STATED = ("key", "status", "error", "width", "height", *METRIC_COLUMNS, "fingerprint")
PICTURES = ("key", "image", "reference")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. where: a file or folder. key: of the row, None when it is about more."""

    where: str
    key: str | None
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part is not None)


@dataclass(frozen=True)
class Findings:
    """rows: that there are. in_full: those whose pixels were checked, too. problems: at most 1000 a shard.

    warnings: what is true as it stands, and speaks against the restorations.
    """

    problems: list[Problem]
    rows: int
    in_full: int
    warnings: tuple[str, ...] = ()


def verify(output: str) -> list[Problem]:
    """All problems of the run at the URL `output`, each row checked in full; [] when there is none."""
    return examine(output).problems


def examine(output: str, sample: int | None = None, seed: int = 0) -> Findings:
    """Checks the run at the URL `output`.

    Of all rows: every input key has exactly one, in its shard's order; all columns are there; statuses are
    valid; residuals and times are finite; the fingerprint is that of run.json; metrics.parquet and
    summary.json count the same rows; no shard is unfinished. In full, or of `sample` rows drawn by `seed`:
    images decode to RGB PNG of the stated size; metrics recompute to within 1e-6 from the stored reference,
    or from the input where references are not kept. Residuals that are not those of the noise are warnings.

    Raises FileNotFoundError when there is no run.
    """
    folder = OutputFolder(output)
    folder.check()
    run = folder.json(RUN)
    if not run:
        missing = "is missing, so it is not known what the output should hold"
        return Findings([Problem(RUN, None, missing)], 0, 0)
    try:
        config = read_back(run["config"])
    except ConfigError as error:
        return Findings([Problem(RUN, None, problem) for problem in error.problems], 0, 0)
    storage_options.configure(config.storage)
    try:
        refuse_inside(config.output, config.input)
        shards = sources.list_shards(config.input, config.reading)
    except (SourceError, OSError) as error:
        unknown = f"the input cannot be listed, so no key can be checked: {error}"
        return Findings([Problem(RUN, None, unknown)], 0, 0)
    files = [folder.restored_file(shard) for shard in folder.restored()]
    with ThreadPoolExecutor(max(READERS, os.cpu_count() or 1)) as pool:
        rows = dict(zip(files, pool.map(partial(_rows_in, folder), files), strict=True))
        chosen, hashes = _drawn(rows, sample, seed), dict[str, np.ndarray]()
        check = partial(_check_shard, folder, config, str(run["fingerprint"]), chosen, hashes)
        problems = [problem for found in pool.map(check, shards) for problem in found]
        strange = sorted(set(files) - {folder.restored_file(shard.name) for shard in shards})
        hashes |= zip(strange, pool.map(partial(_hashes, folder), strange), strict=True)
    problems += [Problem(file, None, "no input shard has this name") for file in strange]
    problems += _check_commits(folder)
    problems += _check_counts(folder, sum(rows.values()))
    problems += _check_repeated(folder, hashes)
    return Findings(problems, sum(rows.values()), sum(map(len, chosen.values())), _warnings(folder, config))


def _warnings(folder: OutputFolder, config: JobConfig) -> tuple[str, ...]:
    """Of residuals that are not the noise's; none of a run whose rows cannot be read, which is a problem."""
    try:
        found = noise.check(all_rows(folder, noise.COLUMNS), config.noise)
    except (OSError, pa.ArrowException):
        return ()
    return tuple(found.warnings()) if found else ()


def _drawn(rows: Mapping[str, int], sample: int | None, seed: int) -> dict[str, Collection[int]]:
    """The rows of each file that are checked in full, by their place in it."""
    total = sum(rows.values())
    if sample is None or sample >= total:
        return {file: range(count) for file, count in rows.items()}
    drawn = sorted(random.Random(seed).sample(range(total), sample))
    ends = np.cumsum(list(rows.values()))
    chosen: dict[str, Collection[int]] = {}
    for file, end, count in zip(rows, ends, rows.values(), strict=True):
        first = int(end) - count
        chosen[file] = {
            place - first for place in drawn[bisect_left(drawn, first) : bisect_left(drawn, int(end))]
        }
    return chosen


def _check_shard(
    output: OutputFolder,
    config: JobConfig,
    fingerprint: str,
    chosen: Mapping[str, Collection[int]],
    hashes: dict[str, np.ndarray],
    shard: Shard,
) -> list[Problem]:
    """chosen: the rows to check in full, of each file there is. hashes: gains those of the file's keys."""
    file = output.restored_file(shard.name)
    try:
        keys = [str(key) for key in sources.keys(shard)]
        if file not in chosen:
            return [Problem(file, None, f"is missing: {_named(keys)} of {shard.url} have no complete shard")]
        check = _check_file(output, config, fingerprint, shard, keys, chosen[file], hashes)
        return list(islice(check, LIMIT))
    except (OSError, SourceError, pa.ArrowException) as error:
        return [Problem(file, None, f"cannot be read: {error}")]


def _check_file(
    output: OutputFolder,
    config: JobConfig,
    fingerprint: str,
    shard: Shard,
    keys: Sequence[str],
    chosen: Collection[int],
    hashes: dict[str, np.ndarray],
) -> Iterator[Problem]:
    file = output.restored_file(shard.name)
    with output.open(file) as parquet:
        names = parquet.schema_arrow.names
        if absent := missing(names):
            yield Problem(file, None, f"lacks the columns {', '.join(absent)}")
        rows = parquet.read(columns=[name for name in STATED if name in names]).to_pylist()
        stored = [row["key"] for row in rows]
        hashes[file] = _hashed(stored)
        yield from (Problem(file, None, message) for message in _check_keys(keys, stored))
        read: Iterator[tuple[str, np.ndarray | None]] | None = None
        if config.mode == "measure" and "reference" not in config.keep and stored == list(keys):
            wanted = [row["status"] == "ok" and place in chosen for place, row in enumerate(rows)]
            read = originals(config, shard, wanted)
        pictures = pick(parquet, chosen, PICTURES)
        for place, row in enumerate(rows):
            messages = list(_check_stated(row, fingerprint))
            if place in chosen:
                row |= next(pictures)
                original = next(read)[1] if read and row["status"] == "ok" else None
                messages += _check_pictures(row, original)
            yield from (Problem(file, row["key"], message) for message in messages)


def _check_keys(expected: Sequence[str], stored: Sequence[str]) -> Iterator[str]:
    if list(expected) == list(stored):
        return
    counts = Counter(stored)
    missing = [key for key in expected if key not in counts]
    unexpected = sorted(counts.keys() - set(expected))
    repeated = [key for key, count in counts.items() if count > 1]
    if missing:
        yield f"{_named(missing)} of the input have no row"
    if unexpected:
        yield f"{_named(unexpected)} are not in the input"
    if repeated:
        yield f"{_named(repeated)} have more than one row"
    if not (missing or unexpected or repeated):
        yield "the rows are not in the input's order"


def _check_stated(row: dict[str, Any], fingerprint: str) -> Iterator[str]:
    """What a row says of itself."""
    if row.get("fingerprint") != fingerprint:
        yield f"fingerprint is {row.get('fingerprint')}, that of run.json is {fingerprint}"
    if row["status"] == "error":
        if not row.get("error"):
            yield "status is error, but no error is stated"
    elif row["status"] == "ok":
        if row.get("error"):
            yield f"status is ok, but an error is stated: {row['error']}"
        for name in (metric.column for metric in METRICS if not metric.needs_reference):
            if row.get(name) is None or not math.isfinite(row[name]):
                yield f"{name} is {row.get(name)}, expected a finite number"
    else:
        yield f"status is {row['status']!r}; allowed are ok and error"


def _check_pictures(row: dict[str, Any], original: np.ndarray | None) -> Iterator[str]:
    if row["status"] == "error" and row.get("image"):
        yield "status is error, but there is an image"
    if row["status"] != "ok":
        return
    try:
        image = _pixels(row.get("image"), "image")
        reference = _pixels(row["reference"], "reference") if row.get("reference") else original
    except ValueError as error:
        yield str(error)
        return
    height, width = image.shape[:2]
    if (row.get("width"), row.get("height")) != (width, height):
        yield f"image is {width} x {height}, the row says {row.get('width')} x {row.get('height')}"
    if reference is None:
        return
    if reference.shape != image.shape:
        yield f"reference is {reference.shape[1]} x {reference.shape[0]}, image is {width} x {height}"
        return
    for name, value in against(reference, image).items():
        if not _agree(row.get(name), value):
            yield f"{name} is stored as {row.get(name)} and recomputes to {value}"


def _agree(stored: float | None, value: float | None) -> bool:
    if stored is None or value is None:
        return stored is value
    return stored == value or abs(stored - value) <= TOLERANCE


def _pixels(cell: dict[str, Any] | None, name: str) -> np.ndarray:
    """The stored image (H, W, 3) uint8. Raises ValueError when it is no whole RGB PNG."""
    if not cell or not cell.get("bytes"):
        raise ValueError(f"{name} is missing")
    try:
        with Image.open(io.BytesIO(cell["bytes"]), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise ValueError(f"{name} is a PNG of mode {image.mode}, expected RGB")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} does not decode as PNG: {error}") from error


def _check_commits(output: OutputFolder) -> list[Problem]:
    message = "holds commits of a run that has not ended"
    return [Problem(f"{UNFINISHED}/{shard}", None, message) for shard in sorted(output.unfinished())]


def _check_counts(output: OutputFolder, rows: int) -> Iterator[Problem]:
    """metrics.parquet and summary.json are written after the rows; they may lag behind or be missing."""
    summary = output.json(SUMMARY)
    try:
        with output.open(METRICS_FILE) as parquet:
            measured = int(parquet.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        yield Problem(METRICS_FILE, None, f"cannot be held against {RESTORED}/: {error}")
        return
    for name, count in {METRICS_FILE: measured, SUMMARY: summary.get("rows")}.items():
        if count != rows:
            yield Problem(name, None, f"counts {count} rows, {RESTORED}/ has {rows}")


def _check_repeated(output: OutputFolder, hashes: Mapping[str, np.ndarray]) -> list[Problem]:
    """Keys in more than one shard, found by a hash of 64 bits: 8 bytes of memory a row."""
    once = {file: np.unique(of_file) for file, of_file in sorted(hashes.items())}
    every = np.concatenate([*once.values(), np.array([], np.uint64)])
    values, counts = np.unique(every, return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return []
    holding = [file for file, of_file in once.items() if np.isin(suspects, of_file).any()]
    known = set(suspects.tolist())
    places = Counter(key for file in holding for key in set(_keys(output, file)) if key_hash(key) in known)
    return [Problem(RESTORED, key, f"stands in {n} shards") for key, n in sorted(places.items()) if n > 1]


def _rows_in(output: OutputFolder, file: str) -> int:
    """0 of a file that cannot be read, which its own check reports."""
    try:
        with output.open(file) as parquet:
            return int(parquet.metadata.num_rows)
    except (OSError, pa.ArrowException):
        return 0


def _hashes(output: OutputFolder, file: str) -> np.ndarray:
    return _hashed(_keys(output, file))


def _hashed(keys: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(key_hash, keys), np.uint64)


def _keys(output: OutputFolder, file: str) -> list[str]:
    """The keys of a file; none of one that cannot be read, which its own check reports."""
    try:
        with output.open(file) as parquet:
            return list(parquet.read(columns=["key"])["key"].to_pylist())
    except (OSError, pa.ArrowException):
        return []


def _named(keys: Sequence[str]) -> str:
    return f"{len(keys)} keys ({some(list(map(repr, keys)), NAMED)})"
