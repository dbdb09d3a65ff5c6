"""What the commands that look at a whole output ask of an object store: requests and seconds.

The output is made here, of tiny rows with true metrics, on an S3 server on loopback that logs its requests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.faults.loopback import answers, free_ports
from p2l_engine.metrics import psnr, ssim
from pipeline.config import JobConfig, load_config
from pipeline.output import run_json
from pipeline.output.columns import OUTPUT_SCHEMA, ROWS_IN_GROUP, open_writer
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import with_errors
from pipeline.pictures.images import encode_png
from pipeline.results import summary, verify
from pipeline.stores import storage, storage_options

SIDE = 8  # pixels
OPTIONS: dict[str, Any] = {"key": "env:P2L_BENCHMARK", "secret": "env:P2L_BENCHMARK"}
ERROR_EVERY = 10  # shards with an error row


@dataclass(frozen=True)
class Server:
    """endpoint: http://127.0.0.1:PORT. log: a line for each request."""

    endpoint: str
    log: Path

    @property
    def requests(self) -> int:
        return self.log.read_bytes().count(b"HTTP/1.1")


def run(rows: int, shard_rows: int, sample: int, in_full: bool) -> str:
    """Makes an output of `rows` rows, looks at it, and gives a table in Markdown."""
    with _server() as server:
        client = {"region_name": "us-east-1"}
        stores = {"s3": OPTIONS | {"endpoint_url": server.endpoint, "client_kwargs": client}}
        config = load_config(
            {
                "input": "s3://benchmark/in",
                "output": "s3://benchmark/out",
                "size": SIDE,
                "operator": {"name": "super_resolution", "factor": 4},
                "method": "adjoint",
                "storage": stores,
            }
        )
        storage_options.configure(config.storage)
        storage.split("s3://benchmark")[0].call_s3("create_bucket", Bucket="benchmark")
        shards, output = _write(config, rows, shard_rows), OutputFolder(config.output)
        looks: dict[str, Callable[[], Any]] = {
            "`--retry-errors`: which shards": lambda: with_errors(output, shards),
            f"`verify --sample {sample}`": lambda: verify.examine(config.output, sample),
        }
        if in_full:
            looks["`verify`"] = lambda: verify.examine(config.output)
        lines = [
            f"| {rows:,} rows in {len(shards):,} shards | requests | seconds | of the CPU |",
            "|---|---|---|---|",
        ]
        for name, look in looks.items():
            before, start, cpu = server.requests, time.monotonic(), time.process_time()
            found = look()
            seconds, cpu = time.monotonic() - start, time.process_time() - cpu
            lines.append(f"| {name} | {server.requests - before:,} | {seconds:.1f} | {cpu:.1f} |")
            if isinstance(found, set) and len(found) != -(-len(shards) // ERROR_EVERY):
                raise RuntimeError(f"{len(found)} shards with errors were found")
            if isinstance(found, verify.Findings) and found.problems:
                raise RuntimeError(f"a sound output has problems, the first: {found.problems[0]}")
    return "\n".join(lines)


@contextmanager
def _server() -> Iterator[Server]:
    (port,) = free_ports(1)
    os.environ["P2L_BENCHMARK"] = "loopback"  # the server takes any key
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the S3 server did not start")
                time.sleep(0.1)
            yield Server(f"http://127.0.0.1:{port}", Path(log.name))
        finally:
            process.terminate()
            process.wait()


def _write(config: JobConfig, rows: int, shard_rows: int) -> Sequence[str]:
    """Input, output and its JSON files; the same pictures in each shard, for they are slow to make."""
    output = OutputFolder(config.output)
    made = [_row(config, seed) for seed in range(min(rows, shard_rows))]
    names = [f"{number:06d}" for number in range(-(-rows // shard_rows))]
    for number, name in enumerate(names):
        own = made[: rows - number * shard_rows]
        keyed = [row | {"key": f"{name}-{place}", "source_shard": name} for place, row in enumerate(own)]
        images = {"key": [row["key"] for row in keyed], "image": [row["reference"]["bytes"] for row in keyed]}
        with storage.write_whole(f"{config.input[0]}/{name}.parquet") as file:
            pq.write_table(pa.table(images), file, row_group_size=64, compression="none")
        if number % ERROR_EVERY == 0:
            keyed[-1] = _error(keyed[-1])
        with (
            storage.write_whole(output.at(output.restored_file(name))) as file,
            open_writer(file) as to,
        ):
            to.write_table(pa.Table.from_pylist(keyed, schema=OUTPUT_SCHEMA), ROWS_IN_GROUP)
    run_json.begin(config, "cpu")
    summary.write(config, names, rows, 1.0, {}, ())
    return names


def _row(config: JobConfig, seed: int) -> dict[str, Any]:
    reference, image = np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    pictures = {"image": {"bytes": encode_png(image)}, "reference": {"bytes": encode_png(reference)}}
    measured = {
        "psnr": psnr(reference, image),
        "ssim": ssim(reference, image),
        "residual": 0.0,
        "seconds": 0.0,
    }
    size = {"width": SIDE, "height": SIDE}
    return {"status": "ok", "fingerprint": config.fingerprint} | pictures | measured | size


def _error(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("key", "source_shard", "fingerprint")}
    return kept | {"status": "error", "error": "cannot decode: made to fail"}
