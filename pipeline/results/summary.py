"""metrics.parquet and summary.json: what came out of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import messages
from pipeline.config import JobConfig
from pipeline.input.rows import LeftOut
from pipeline.output import usage_json, versions
from pipeline.output.columns import METRIC_COLUMNS, METRICS_SCHEMA, completed, open_writer
from pipeline.output.folder import METRICS_FILE, RUN, SUMMARY, OutputFolder
from pipeline.output.rows import READERS, metrics_of
from pipeline.results.causes import by_cause
from pipeline.stores import storage

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KEYS_SHOWN = 10  # for each cause of errors; metrics.parquet has them all


@dataclass(frozen=True)
class RunSummary:
    """rows, ok, errors: of the shards that were asked for. seconds: of this command.

    warnings: rows by the cause of their warning. left_out: what of the whole input becomes no row.
    """

    output: str
    rows: int
    ok: int
    errors: int
    seconds: float
    warnings: Mapping[str, int]
    left_out: tuple[LeftOut, ...]

    @property
    def exit_status(self) -> int:
        """0 when every row is ok, 3 when some are errors."""
        return 3 if self.errors else 0


def write(
    config: JobConfig,
    planned: Sequence[str],
    restored_now: int,
    seconds: float,
    retried: Mapping[str, int],
    left_out: Sequence[LeftOut],
    stopped: str | None = None,
) -> None:
    """Writes metrics.parquet, then summary.json, which thereby says that both are up to date.

    planned: shards of the input. restored_now: rows that this command restored in `seconds`. retried: how
    often this command tried again, by the name of the error. left_out: what of the input becomes no row.
    stopped: why it ended before it was complete.
    """
    output = OutputFolder(config.output)
    shards = output.restored()
    rows = nfe = 0
    errors = [METRICS_SCHEMA.empty_table()]
    warned = [METRICS_SCHEMA.empty_table()]
    with (
        storage.write_whole(output.at(METRICS_FILE)) as file,
        open_writer(file, METRICS_SCHEMA) as writer,
    ):
        for table in _metrics_by_shard(output, shards):
            writer.write_table(table)
            rows += table.num_rows
            nfe += pc.sum(table.column("nfe")).as_py() or 0
            errors.append(table.filter(pc.equal(table.column("status"), "error")))
            warned.append(table.filter(pc.is_valid(table.column("warning"))))
    failed = pa.concat_tables(errors)
    with output.open(METRICS_FILE) as parquet:  # a column at a time: all of them are gigabytes at 10^7 rows
        metrics = {name: statistics(parquet.read(columns=[name]).column(name)) for name in METRIC_COLUMNS}
    of_rows = metrics["seconds"]["count"] * (metrics["seconds"]["mean"] or 0.0)
    summary = {
        "fingerprint": config.fingerprint,
        "complete": set(planned) <= set(shards),
        "stopped": stopped,
        "shards": {"planned": len(planned), "restored": len(set(planned) & set(shards))},
        "rows": rows,
        "ok": rows - failed.num_rows,
        "error_rows": failed.num_rows,
        "left_out": [asdict(one) for one in left_out],
        "metrics": metrics,
        "errors": [asdict(one) for one in by_cause(failed, "error", KEYS_SHOWN)],
        "warnings": [asdict(one) for one in by_cause(pa.concat_tables(warned), "warning", KEYS_SHOWN)],
        "nfe": nfe,
        "upgrades": versions.upgrades(output.json(RUN).get("starts", [])),
        "cost": usage_json.cost(output, config.price, of_rows),
        "this_start": {
            "rows": restored_now,
            "seconds": round(seconds, 3),
            "images_per_second": round(restored_now / seconds, 4) if seconds else None,
            "retries": dict(retried),
        },
    }
    output.write_json(SUMMARY, summary)


def count(output: OutputFolder, shards: Sequence[str], seconds: float) -> RunSummary:
    """The rows of the given shards, counted in metrics.parquet."""
    names = pa.array(shards, pa.string())
    rows = ok = 0
    warnings: Counter[str] = Counter()
    columns = ["source_shard", "status", "warning"]
    with output.open(METRICS_FILE) as parquet:
        for batch in parquet.iter_batches(columns=columns):
            table = completed(pa.Table.from_batches([batch]), columns)
            counted = table.filter(pc.is_in(table.column("source_shard"), names))
            rows += counted.num_rows
            ok += pc.sum(pc.equal(counted.column("status"), "ok")).as_py() or 0
            warnings.update(map(messages.cause, counted.column("warning").drop_null().to_pylist()))
    return RunSummary(output.url, rows, ok, rows - ok, seconds, warnings, left_out(output))


def left_out(output: OutputFolder) -> tuple[LeftOut, ...]:
    """What of the input becomes no row, as summary.json says."""
    return tuple(map(LeftOut.of, output.json(SUMMARY).get("left_out", ())))


def _metrics_by_shard(output: OutputFolder, shards: Sequence[str]) -> Iterator[pa.Table]:
    """Each shard's rows without images, in order; so many files are read ahead as are opened at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        for some in range(0, len(shards), READERS):
            named = shards[some : some + READERS]
            yield from pool.map(lambda shard: metrics_of(output, shard), named)


def statistics(column: pa.ChunkedArray) -> Mapping[str, Any]:
    """Of the finite values; a perfect image's PSNR is infinite and is counted apart."""
    values = column.drop_null().to_numpy()
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"count": 0, "infinite": len(values), "mean": None, "median": None, "quantiles": None}
    quantiles = {
        str(share): float(value)
        for share, value in zip(QUANTILES, np.quantile(finite, QUANTILES), strict=True)
    }
    return {
        "count": len(finite),
        "infinite": len(values) - len(finite),
        "mean": math.fsum(finite) / len(finite),
        "median": quantiles["0.5"],
        "quantiles": quantiles,
    }
