"""Every reader of an output goes by the table of metrics; outputs with a column more are still read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p2l_engine import metrics
from pipeline.output.columns import METRICS, METRICS_SCHEMA, OUTPUT_SCHEMA
from pipeline.output.folder import METRICS_FILE, OutputFolder
from pipeline.results.compare import compare
from pipeline.results.report import write_report
from pipeline.results.verify import verify

COLUMNS = [metric.column for metric in METRICS]


def test_each_metric_of_the_table_is_a_column_a_comparison_and_a_histogram(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    assert {*COLUMNS} <= {*OUTPUT_SCHEMA.names} & {*METRICS_SCHEMA.names}
    assert all(hasattr(metrics, metric.column) for metric in METRICS if metric.needs_reference)
    runs = [write_run({"a": [ok_row(f"k{i}", i) for i in range(3)]}, name=name) for name in ("one", "two")]
    assert [difference.metric for difference in compare(runs).differences] == COLUMNS
    page = Path(write_report(runs[0])).read_text()
    assert [page.count(f"<strong>{metric.title}</strong>") for metric in METRICS] == [1] * len(METRICS)


def test_an_output_with_a_column_that_rows_no_longer_have_is_read_compared_and_verified(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    runs = [write_run({"a": [ok_row("k0"), error_row("k1")]}, name=name) for name in ("before", "now")]
    output = OutputFolder(runs[0])
    for file in (output.restored_file("a"), METRICS_FILE):
        table = pq.read_table(output.at(file))
        place = table.column_names.index("residual")
        pq.write_table(table.add_column(place, "lpips", pa.nulls(2, pa.float64())), output.at(file))
    assert verify(runs[0]) == []
    (psnr, *_) = compare(runs).differences
    assert (psnr.count, psnr.difference) == (1, 0.0)
    assert "LPIPS" not in Path(write_report(runs[0])).read_text()


def test_the_image_columns_are_images_to_the_datasets_library() -> None:
    features = json.loads(OUTPUT_SCHEMA.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == OUTPUT_SCHEMA.names and "lpips" not in features
    assert [name for name, kind in features.items() if kind["_type"] == "Image"] == [
        "image",
        "measurement",
        "reference",
        "deviation",
    ]


def test_an_output_folder_travels_to_other_processes() -> None:
    folder = OutputFolder("gs://bucket/run")
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert folder.at(folder.restored_file("a")) == "gs://bucket/run/restored/a.parquet"
