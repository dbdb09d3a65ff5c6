"""The rows of two runs side by side: the images that both have, with the metrics and scores of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output import scores
from pipeline.output.columns import METRIC_COLUMNS
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import all_rows

SECOND = "_second"  # behind a column's name, that of the second run


@dataclass(frozen=True)
class Rows:
    """A run's rows without images. columns: the metrics, then the distances that `p2l score` gave them.

    networks: by which the run is scored.
    """

    run: OutputFolder
    table: pa.Table
    columns: tuple[str, ...]
    networks: tuple[str, ...]


class Pairs(NamedTuple):
    """A metric of the images (N,) that have it, finite, in both runs."""

    metric: str
    keys: pa.ChunkedArray
    first: np.ndarray
    second: np.ndarray


def rows_of(run: OutputFolder) -> Rows:
    """Raises FileNotFoundError for no run."""
    run.check()
    networks = scores.networks(run, run.json(scores.SCORES_FILE))
    distances = scores.distances(run, networks)
    table = all_rows(run, METRIC_COLUMNS).select(["key", "status", *METRIC_COLUMNS])
    columns = [name for name in distances.column_names if name != "key"]
    if columns:
        table = table.join(distances, "key")
    return Rows(run, table, (*METRIC_COLUMNS, *columns), tuple(networks))


def shared(first: Rows, second: Rows) -> int:
    """Keys that both runs have. Raises ValueError when there is none."""
    keys = first.table["key"].combine_chunks()
    found: int = pc.sum(pc.is_in(second.table["key"], keys)).as_py() or 0
    if not found:
        raise ValueError(
            f"{second.run} and {first.run} have no key in common; runs of the same input can be compared"
        )
    return found


def both_ok(first: Rows, second: Rows) -> pa.Table:
    """The rows that are ok in both runs, the second's columns with `SECOND` behind their names."""
    joined = first.table.join(second.table, "key", join_type="inner", right_suffix=SECOND)
    return joined.filter(pc.and_(pc.equal(joined["status"], "ok"), pc.equal(joined[f"status{SECOND}"], "ok")))


def pairs(first: Rows, second: Rows, ok: pa.Table) -> Iterator[Pairs]:
    """Each metric that some image has in both runs."""
    for metric in first.columns:
        if metric not in second.columns:
            continue
        x, y = (_numbers(ok[name]) for name in (metric, f"{metric}{SECOND}"))
        both = np.isfinite(x) & np.isfinite(y)
        if both.any():
            yield Pairs(metric, ok["key"].filter(pa.array(both)), x[both], y[both])


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found
