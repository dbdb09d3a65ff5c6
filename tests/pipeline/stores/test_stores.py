"""The pipeline's files on real object stores: exact under faults, streamed, paged, whole or not there."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from pipeline.input import sources
from pipeline.output.commits import commit, committed
from pipeline.output.folder import OutputFolder
from pipeline.run.stop import Stop
from pipeline.stores import retries, storage, storage_options
from tests.stores import FAULTS, S3_FAULTS, Proxy, Store, free_port, make_bucket, proxied

KINDS = ("list", "look up", "read", "write", "delete")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Gives this process the options of a store, and clients that wait so long for an answer."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)

    def configure(store: Store, *, attempts: int = 1, timeout: float = 60) -> None:
        options = store.options
        if store.protocol == "s3":
            options["s3"]["config_kwargs"] = {
                "read_timeout": timeout,
                "retries": {"total_max_attempts": attempts},
            }
        else:
            options["gs"]["requests_timeout"] = timeout
        storage_options.configure(options)

    yield configure
    storage_options.configure({})


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    with proxied(store) as found:
        yield found


@pytest.fixture
def bucket(store: Store, request: pytest.FixtureRequest) -> str:
    return make_bucket(store, f"test-{abs(hash(request.node.name))}")


@pytest.fixture
def hasty_gcsfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs waits for seconds between its tries, and cannot be told otherwise."""
    import asyncio
    import types

    import gcsfs.retry

    async def sleep(_: float) -> None:
        await asyncio.sleep(0.01)

    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=sleep))


def call(kind: str, folder: str) -> None:
    """One function of `storage` that makes requests of one kind, on a folder with one file, `kept`."""
    kept, other = storage.join(folder, "kept"), storage.join(folder, "other")
    if kind == "list":
        assert storage.find(folder) == ["kept"]
    elif kind == "look up":
        assert storage.kind(kept) == "file" and storage.exists(kept)
    elif kind == "read":
        with storage.open_read(kept) as file:
            assert file.seek(-5, 2) and file.read() == b"text "
    elif kind == "write":
        storage.write_text(other, "other")
        assert storage.read_text(other) == "other"
        storage.remove(other)
    else:
        storage.write_text(other, "other")
        storage.remove(other)
        assert not storage.exists(other)
        storage.remove(other)


def test_every_call_works(bucket: str, proxy: Proxy, use: Callable[..., None]) -> None:
    use(proxy.store)
    storage.write_text(f"{bucket}/f/kept", "text " * 1000)
    for kind in KINDS:
        call(kind, f"{bucket}/f")
    assert storage.find(f"{bucket}/f", prefix="k") == ["kept"] and not storage.find(bucket, prefix="k")
    assert storage.read_text(f"{bucket}/f/kept") == "text " * 1000
    assert storage.kind(f"{bucket}/f") == "directory" and not storage.exists(f"{bucket}/nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_meets_any_named_fault_is_made_again(
    kind: str, bucket: str, proxy: Proxy, use: Callable[..., None], hasty_gcsfs: None
) -> None:
    use(proxy.store)
    storage.write_text(f"{bucket}/f/kept", "text " * 1000)
    faults = (*FAULTS, *(S3_FAULTS if proxy.store.protocol == "s3" else ()))
    since = retries.Since()
    for fault in faults:
        use(proxy.store, timeout=0.4 if fault == "read timeout" else 60)
        proxy.planned.append((kind, fault))
        call(kind, f"{bucket}/f")
        assert not proxy.planned, f"{fault} was not met"
    assert {fault for met, fault in proxy.broken if met == kind} == set(faults)
    # An answer without a body cannot be cut, and aiohttp repeats a request on a connection that was idle.
    assert len(since.names()) >= len(faults) - 4


def test_retries_that_clients_make_are_counted(
    bucket: str, proxy: Proxy, use: Callable[..., None], hasty_gcsfs: None
) -> None:
    use(proxy.store, attempts=4)
    storage.write_text(f"{bucket}/file", "text")
    since = retries.Since()
    proxy.planned.extend([("read", "HTTP 503")] * 2)
    assert storage.read_text(f"{bucket}/file") == "text"
    assert since.names() == ["HTTP 503"] * 2


def test_a_burst_longer_than_all_tries_fails_with_the_object_s_name(
    bucket: str, proxy: Proxy, use: Callable[..., None], hasty_gcsfs: None
) -> None:
    use(proxy.store)
    proxy.rate, proxy.faults = 1.0, ("HTTP 503",)
    with pytest.raises(
        storage.StorageError, match=rf"{bucket}/f: cannot be listed: .*HTTP 503.*same command"
    ):
        storage.find(f"{bucket}/f")


def test_another_error_fails_at_once_with_the_object_s_name(
    bucket: str, proxy: Proxy, use: Callable[..., None]
) -> None:
    use(proxy.store)
    proxy.planned.append(("write", "HTTP 403"))
    with pytest.raises(storage.StorageError, match=f"{bucket}/f/x: cannot be written: .*credentials"):
        storage.write_text(f"{bucket}/f/x", "text")
    assert proxy.calls["write"] == 1
    with pytest.raises(FileNotFoundError, match=f"{bucket}/f/x"):
        storage.read_text(f"{bucket}/f/x")
    with pytest.raises(
        storage.StorageError, match="no-such-bucket/x: cannot be written.*make the bucket first"
    ):
        storage.write_text(f"{proxy.store.protocol}://no-such-bucket/x", "text")


def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_one(
    bucket: str, proxy: Proxy, use: Callable[..., None], hasty_gcsfs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec's own isfile and exists say no, whatever went wrong."""
    use(proxy.store)
    storage.write_text(f"{bucket}/f/x.parquet", "text")
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    proxy.rate, proxy.faults = 1.0, ("HTTP 500",)
    for ask in (storage.exists, storage.kind, storage.find):
        with pytest.raises(storage.StorageError):
            ask(f"{bucket}/f/x.parquet")


@pytest.fixture
def broken(bucket: str, proxy: Proxy, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a store that answers no request, as patience goes on where others have given up."""
    use(proxy.store)
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(retries, "PATIENT_WAIT", 0.05)
    proxy.rate, proxy.faults = 1.0, ("HTTP 503",)
    return f"{bucket}/run"


def test_a_commit_outlasts_a_store_that_is_away_and_a_read_does_not(
    broken: str, proxy: Proxy, hasty_gcsfs: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(storage.StorageError):
        storage.read_text(f"{broken}/run.json")
    failed, tried = proxy.broken.total(), threading.Event()

    def come_back() -> None:
        while proxy.broken.total() < 5 * failed:
            time.sleep(0.01)
        tried.set()
        proxy.rate = 0.0

    threading.Thread(target=come_back, daemon=True).start()
    output = OutputFolder(broken)
    commit(output, "s", [{"key": "k", "source_shard": "s", "status": "ok"}])
    assert tried.is_set()
    assert committed(output, "s") == {"k": {"key": "k", "status": "ok", "error": None}}
    assert f"{output.at(output.commit_file('s', ['k']))}: HTTP 503" in caplog.text


def test_sigterm_ends_a_commit_that_waits_for_its_store(broken: str, proxy: Proxy, hasty_gcsfs: None) -> None:
    def terminate() -> None:
        while proxy.broken.total() < 20:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        threading.Thread(target=terminate, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            commit(OutputFolder(broken), "s", [{"key": "k", "source_shard": "s", "status": "ok"}])
    assert stop.reason


def write_rows(url: str, rows: int, size: int, row_group: int) -> list[bytes]:
    """A shard of incompressible images, `size` bytes each."""
    images = [np.random.default_rng(row).bytes(size) for row in range(rows)]
    table = pa.table({"key": [f"k{row}" for row in range(rows)], "image": images})
    with storage.write_whole(url) as file:
        pq.write_table(table, file, row_group_size=row_group, write_batch_size=1, compression="none")
    return images


def test_rows_are_streamed_however_large_a_row_group_is(
    bucket: str, proxy: Proxy, use: Callable[..., None]
) -> None:
    """One row group of 32 MB: the first row costs a few MB, and the rows are never all in memory."""
    use(proxy.store)
    rows, size = 320, 100_000
    images = write_rows(f"{bucket}/in/a.parquet", rows, size, row_group=rows)
    (shard,) = sources.list_shards([f"{bucket}/in"])
    proxy.sent.clear()
    found = sources.rows(shard, [True] * rows)
    assert next(found).image == images[0]
    assert proxy.sent["read"] < rows * size / 3, "more was read than the first rows need"
    tracemalloc.start()
    most = 0
    for row, image in zip(found, images[1:], strict=True):
        assert row.image == image
        most = max(most, pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert most < rows * size / 2
    assert proxy.sent["read"] < 1.5 * rows * size


def test_keys_are_read_without_the_images(bucket: str, proxy: Proxy, use: Callable[..., None]) -> None:
    use(proxy.store)
    write_rows(f"{bucket}/in/a.parquet", 40, 1_000_000, row_group=8)
    (shard,) = sources.list_shards([f"{bucket}/in"])
    proxy.sent.clear()
    assert len(sources.keys(shard)) == 40
    assert proxy.sent["read"] < 200_000


def test_an_upload_that_is_cut_starts_again_from_its_beginning(
    bucket: str, proxy: Proxy, use: Callable[..., None], hasty_gcsfs: None
) -> None:
    use(proxy.store)
    data = np.random.default_rng(0).bytes(6 * 2**20)  # more than gcsfs sends at once
    proxy.planned.extend([("write", "HTTP 503"), ("write", "connection reset")])
    with storage.write_whole(f"{bucket}/file") as file:
        file.write(data)
    with storage.open_read(f"{bucket}/file") as file:
        assert file.read() == data
    assert not proxy.planned


def test_an_upload_in_parts_that_was_never_completed_is_no_file(
    s3_store: Store, use: Callable[..., None]
) -> None:
    """What a writer leaves that dies between two parts; a commit written again takes no note of it."""
    use(s3_store)
    output = OutputFolder(f"{make_bucket(s3_store, 'parts')}/run")
    row = {"key": "k", "source_shard": "s", "status": "ok"}
    url = output.at(output.commit_file("s", ["k"]))
    fs, path = storage.split(url)
    name, key = path.split("/", 1)
    begun = fs.call_s3("create_multipart_upload", Bucket=name, Key=key)
    fs.call_s3(
        "upload_part", Bucket=name, Key=key, PartNumber=1, UploadId=begun["UploadId"], Body=b"half" * 100
    )
    assert storage.find(output.url) == [] and output.unfinished() == {}
    assert list(committed(output, "s")) == []
    commit(output, "s", [row])
    assert output.done_keys("s", count_errors=True) == {"k"}


@pytest.mark.parametrize("upload", [50 * 2**20, 120 * 2**20], ids=["one request", "parts"])
def test_a_large_upload_arrives_whole(s3_store: Store, use: Callable[..., None], upload: int) -> None:
    use(s3_store)
    url = f"{make_bucket(s3_store, f'large-{upload}')}/file"
    block = np.random.default_rng(0).bytes(2**20)
    with storage.write_whole(url) as file:
        for _ in range(upload // len(block)):
            file.write(block)
    with storage.open_read(url) as file:
        assert file.seek(0, 2) == upload
        file.seek(upload - len(block))
        assert file.read() == block


@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_listing_of_many_pages_is_whole_when_pages_fail(count: int, use: Callable[..., None]) -> None:
    """A page has 1,000 objects; the server for Google Cloud Storage answers with all in one page."""
    names = [f"{number:06d}.parquet" for number in range(count)]
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    try:
        objects = s3_backends["123456789012"]["aws"]
        objects.create_bucket("many", "us-east-1")
        for name in names:
            objects.put_object("many", f"in/{name}", b"")
        with proxied(Store("s3", f"http://127.0.0.1:{server._port}")) as proxy:
            use(proxy.store, attempts=4)
            proxy.rate, proxy.faults = 0.05, ("HTTP 503", "HTTP 500", "SlowDown")
            proxy.planned.append(("list", "SlowDown"))
            start = time.monotonic()
            assert storage.find("s3://many/in", ".parquet") == names
            print(f"{count} objects, {proxy.calls['list']} requests, {time.monotonic() - start:.1f} s")
            assert proxy.calls["list"] > count / 1000
            assert len(storage.find("s3://many/in", "9.parquet")) == count / 10
    finally:
        server.stop()
        objects.reset()


class SlowUploads(LocalFileSystem):
    """A store whose uploads grow under their name, as SFTP's and HDFS's do."""

    protocol = "slow-uploads"

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        with Path(lpath).open("rb") as source, Path(self._strip_protocol(rpath)).open("wb") as target:
            while part := source.read(1000):
                target.write(part)
                target.flush()
                time.sleep(0.002)


def test_on_stores_that_show_half_an_upload_a_file_appears_whole(tmp_path: Path) -> None:
    fsspec.register_implementation("slow-uploads", SlowUploads, clobber=True)
    target = tmp_path / "folder" / "file"
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if target.exists():
                seen.add(target.stat().st_size)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        with storage.write_whole(f"slow-uploads://{target}") as file:
            file.write(b"x" * 50_000)
    done.set()
    watcher.join()
    assert seen == {50_000}
    assert [path.name for path in target.parent.iterdir()] == ["file"]
