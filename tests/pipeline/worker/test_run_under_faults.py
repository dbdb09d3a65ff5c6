"""A run on a store that fails 5 % of its requests, in bursts, gives the rows of a quiet one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_config
from pipeline.output.folder import SUMMARY, OutputFolder
from pipeline.results.verify import verify
from pipeline.run.run import RunError, run
from pipeline.stores import storage, storage_options
from tests.pipeline.small_jobs import job, png, settings, write_shards
from tests.stores import FAULTS, S3_FAULTS, Proxy, Store, make_bucket, proxied

pytestmark = pytest.mark.e2e

IMAGES = ("key", "source_shard", "status", "image", "measurement", "reference", "psnr", "seed")


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    with proxied(store) as found:
        yield found
    storage_options.configure({})


def copy(folder: Path, url: str) -> None:
    for path in folder.iterdir():
        with storage.write_whole(storage.join(url, path.name)) as file:
            file.write(path.read_bytes())


def rows(output: str) -> list[dict[str, Any]]:
    with_rows = []
    folder = OutputFolder(output)
    for shard in folder.restored():
        with folder.open(folder.restored_file(shard)) as parquet:
            with_rows += parquet.read(columns=list(IMAGES)).to_pylist()
    return with_rows


@pytest.mark.parametrize("store", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True)
def test_every_image_is_exact(
    ray_cluster: None, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_shards(tmp_path / "in", "ab", rows=4)
    run(job(folder, tmp_path / "quiet"))
    storage_options.configure(stores := proxy.store.options)
    bucket = make_bucket(proxy.store, "faults")
    copy(folder, f"{bucket}/in")
    proxy.calls.clear()
    proxy.rate, proxy.burst = 0.035, 2  # 5 % of the requests, in pairs
    faults = (*FAULTS, *(S3_FAULTS if proxy.store.protocol == "s3" else ()))
    # A client that gives up early would count what a busy machine answers late, too.
    proxy.faults = tuple(fault for fault in faults if fault != "read timeout")
    config = load_config(settings(f"{bucket}/in", f"{bucket}/run", storage=stores))  # type: ignore[arg-type]
    summary = run(config)
    assert (summary.rows, summary.ok) == (8, 8)
    assert proxy.broken, "no fault was met"
    proxy.rate = proxy.left = 0
    assert rows(f"{bucket}/run") == rows(str(tmp_path / "quiet"))
    assert verify(f"{bucket}/run") == []
    told = OutputFolder(f"{bucket}/run").json(SUMMARY)["this_start"]["retries"]
    print(f"{proxy.broken.total()} of {proxy.calls.total()} requests failed; retries: {told}")
    assert 0 < sum(told.values()) <= 2 * proxy.broken.total()
    assert storage.find(f"{bucket}/run", ".parquet") == [
        "metrics.parquet",
        *(f"restored/{name}.parquet" for name in "ab"),
    ]


def test_a_store_that_stays_away_ends_the_run_and_marks_no_row(
    ray_cluster: None, s3_store: Store, tmp_path: Path
) -> None:
    """Images of an input that cannot be reached are no errors of their rows."""
    bucket = make_bucket(s3_store, "away")
    storage_options.configure(stores := s3_store.options)
    for name in "ab":
        with storage.write_whole(f"{bucket}/in/{name}.png") as file:
            file.write(png(1))
    config = load_config(settings(f"{bucket}/in", str(tmp_path / "run"), storage=stores))  # type: ignore[arg-type]
    with proxied(s3_store) as proxy:
        broken = config.model_copy(update={"storage": proxy.store.options})
        proxy.planned.extend([("read", "HTTP 403")] * 20)
        with pytest.raises(RunError, match=r"^s3://away/in/a.png: cannot be read: .* there$"):
            run(broken)
    assert not list((tmp_path / "run").rglob("*.parquet"))
    assert run(config).ok == 2
    storage_options.configure({})
