"""`p2l shard` from an object store that takes its time to answer: an S3 server on loopback, with a delay."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import typer

SIDE = 16  # pixels
BUCKET = "photographs"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def run(files: int, milliseconds: float, readers: Sequence[int]) -> str:
    """Packs the same pictures with each number of requests at once; a table in Markdown."""
    context = multiprocessing.get_context("spawn")
    ports: Queue[int] = context.Queue()
    server = context.Process(target=_serve, args=(milliseconds / 1000, ports), daemon=True)
    server.start()
    try:
        os.environ |= ACCOUNT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports.get(timeout=120)}"}
        _fill(files)
        lines = ["| requests at once | seconds | files a second |", "|---:|---:|---:|"]
        for count in readers:
            seconds = _pack(count)
            lines.append(f"| {count} | {seconds:.1f} | {files / seconds:.1f} |")
    finally:
        server.kill()
        server.join()
    return "\n".join(lines)


def _fill(files: int) -> None:
    from pipeline.pictures.images import encode_png
    from pipeline.stores import storage

    noise = np.random.default_rng(0)
    fs, _ = storage.split(f"s3://{BUCKET}")
    fs.mkdir(BUCKET)
    fs.pipe(
        {
            f"{BUCKET}/{number:06d}.png": encode_png(noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            for number in range(files)
        }
    )


def _pack(readers: int) -> float:
    """Seconds that the command takes."""
    from jobs import shard

    shard.READS_AT_ONCE = readers
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            shard.shard([f"s3://{BUCKET}"], folder)
        except typer.Exit as end:
            raise RuntimeError(f"p2l shard ended with status {end.exit_code}") from end
        return time.perf_counter() - start


def _serve(delay: float, ports: Queue[int]) -> None:
    """An S3 server whose answers to what reads take `delay` seconds longer."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Not a line for each of so many."""

    store = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            time.sleep(delay)
        return store(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    ports.put(server.port)
    server.serve_forever()
