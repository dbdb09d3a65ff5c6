"""A name is a name: what is listed is what is read, whatever URL syntax it spells, and nothing else is."""

from __future__ import annotations

import ast
import json
import random
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

import jobs
import pipeline
from pipeline.input import files, sources
from pipeline.pictures import kinds
from pipeline.stores import storage, storage_options
from tests.pipeline.reading import rows_of
from tests.pipeline.small_jobs import write_parquet, write_tar
from tests.stores import Store, make_bucket, proxied

PIECES = (
    *(
        "a",
        "b",
        "B",
        "é",
        "图",
        " ",
        ".",
        "-",
        "_",
        "~",
        "$HOME",
        "{x}",
        "'",
        '"',
        "\\",
        "|",
        "&",
        "=",
        "+",
        ",",
        "@",
    ),
    *(
        "::",
        ":",
        "?",
        "#",
        "%",
        "%2F",
        "%20",
        "%00",
        "[",
        "]",
        "[ab]",
        "*",
        "**",
        "!",
        "<b>",
        "`x`",
        "$(x)",
        "^",
    ),
    *("s3://", "file://", "memory://x", "http://h/", "simplecache::", "zip://", "file:", "~root"),
    *("?versionId=1", "?generation=2", "#3", "?a=b&c"),
)
FOLDERS = ("/", "//", "/./", "/../", "/../../", "///")
FOLDER = "in"  # of the names; "a" beside it must not be touched


def hostile_names(count: int, folders: tuple[str, ...], seed: int) -> list[str]:
    """Names of one to six pieces, no two of which are the same; most end as pictures do."""
    draw = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        parts = draw.choices(PIECES, k=draw.randint(1, 6))
        for place in range(1, len(parts) - 1):
            if draw.random() < 0.3:
                parts[place] = draw.choice(folders)
        names["".join(parts) + draw.choice((".png", ".JPG", ".webp", ""))] = None
    return list(names)


def content(name: str) -> bytes:
    """By its first bytes a picture."""
    return b"\x89PNG\r\n\x1a\n this is " + name.encode()


def put_all(store: Store, names: list[str]) -> None:
    """Objects in the bucket `hostile`, sent by what does not know fsspec."""
    if store.protocol == "s3":
        login = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=store.endpoint, **login)
        for name in names:
            client.put_object(Bucket="hostile", Key=f"{FOLDER}/{name}", Body=content(name))
        return
    for name in names:  # in JSON, where no URL can change a name
        head = json.dumps({"name": f"{FOLDER}/{name}"})
        body = f"--x\r\nContent-Type: application/json\r\n\r\n{head}\r\n--x\r\n\r\n".encode() + content(name)
        url = f"{store.endpoint}/upload/storage/v1/b/hostile/o?uploadType=multipart"
        request = urllib.request.Request(url, body + b"\r\n--x--")
        request.add_header("Content-Type", 'multipart/related; boundary="x"')
        urllib.request.urlopen(request).close()


def put_local(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(name))


@pytest.fixture
def use(store: Store) -> Iterator[None]:
    storage_options.configure(store.options)
    yield
    storage_options.configure({})


def check(url: str, names: list[str]) -> None:
    """That each name is a row with what was stored under it, or is named as left out."""
    shards, left_out, _ = sources.listing([url])
    with ThreadPoolExecutor(8) as pool:
        rows = [row for found in pool.map(rows_of, shards) for row in found]
    assert [row.key for row in rows if row.error or row.image != content(row.key)] == []
    assert {row.key for row in rows} <= set(names) and len(rows) > 0.8 * len(names)
    assert {one.reason for one in left_out} <= {files.OTHER_NAMES, files.FOLDER_MARKS, kinds.OF_SYSTEMS}
    assert len(rows) + sum(one.count for one in left_out) == len(names)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "IMAGES_PER_SHARD", 20)


def test_hostile_names_on_this_machine_are_read_as_themselves(tmp_path: Path) -> None:
    names: list[str] = []
    for name in hostile_names(1500, ("/",), seed=1):
        parts = name.split("/")
        if not {"", ".", ".."} & set(parts) and not any(other.startswith(f"{name}/") for other in names):
            try:
                put_local(tmp_path / FOLDER, name)
                names.append(name)
            except (NotADirectoryError, IsADirectoryError, FileExistsError):
                continue  # one name is a file, and a folder in another
    assert len(names) > 500
    check(str(tmp_path / FOLDER), names)
    check(f"file://{tmp_path}/{FOLDER}", names)


def test_hostile_names_on_a_store_are_read_as_themselves(store: Store, use: None, tmp_path: Path) -> None:
    """The emulator of Google's resolves dots and empty parts by itself, and ends a name at `;`: not these."""
    private = tmp_path / "private.png"
    private.write_bytes(b"of this machine")
    if store.protocol == "s3":
        names = hostile_names(150, FOLDERS, seed=2)
        names += [
            f"evil/{private}",
            str(private),
            f"file://{private}",
            "..",
            "../a",
            "a/..",
            "a//",
        ]
    else:
        names = [
            name for name in hostile_names(250, ("/",), seed=2) if not {"", ".", ".."} & set(name.split("/"))
        ]
    url = make_bucket(store, "hostile")
    put_all(store, names)
    check(f"{url}/{FOLDER}", names)


@pytest.mark.parametrize("protocol", ["s3", "gs", "memory", "http"])
def test_a_path_is_taken_letter_by_letter_by_every_client(protocol: str) -> None:
    storage_options.configure({"gs": {"token": "anon"}, "s3": {"anon": True}})
    folder = f"{protocol}://store/folder"
    fs, root = storage.split(folder)
    for name in hostile_names(300, FOLDERS, seed=3):
        if not storage.unreadable(folder, [name]):
            assert storage.split(storage.join(folder, name)) == (fs, f"{root}/{name}")
            assert fs._strip_protocol(f"{root}/{name}") == f"{root}/{name}"
            if hasattr(fs, "split_path"):
                assert fs.split_path(f"{root}/{name}")[:2] == ("store", f"folder/{name}")
        else:
            assert protocol not in ("s3", "gs") or "?versionId=" in name or name.endswith("/")


@pytest.mark.parametrize("url", ["simplecache::s3://b/k", "zip://a.png::s3://b/k.zip"])
def test_chains_of_protocols_are_refused(url: str) -> None:
    with pytest.raises(storage.StorageError, match="chains of protocols"):
        storage.split(url)


@pytest.mark.parametrize("ending", ["parquet", "tar"])
def test_shards_of_hostile_names_are_read_as_themselves(s3_store: Store, tmp_path: Path, ending: str) -> None:
    private = tmp_path / f"private.{ending}"
    (write_parquet if ending == "parquet" else write_tar)(private, {"private.png": b""})
    names = [
        "a::b",
        "s3://other/x",
        f"evil/{private}",
        "a?b",
        "a#b",
        "a%2Fb",
        "a/../b",
        "[a]*",
        "//x",
        "a b",
    ]
    storage_options.configure(s3_store.options)
    url = make_bucket(s3_store, f"hostile-{ending}")
    fs = storage.split(url)[0]
    for number, name in enumerate(names):
        write = write_parquet if ending == "parquet" else write_tar
        data = write(tmp_path / "shard", {f"{number}.png": name.encode()}).read_bytes()
        fs.call_s3("put_object", Bucket=f"hostile-{ending}", Key=f"in/{name}.{ending}", Body=data)
    found = {row.image for shard in sources.list_shards([f"{url}/in"]) for row in rows_of(shard)}
    assert found == {name.encode() for name in names}
    storage_options.configure({})


def test_only_files_whose_name_says_nothing_cost_a_store_a_request(s3_store: Store) -> None:
    url = make_bucket(s3_store, "requests")
    storage_options.configure(s3_store.options)
    for name in ("a.jpg", "b.PNG", "c.heic", "d.txt", "e.json", "f.bak"):
        storage.write_text(f"{url}/in/{name}", content(name).decode("latin-1"))
    with proxied(s3_store) as proxy:
        storage_options.configure(proxy.store.options)
        sources.listing([f"{url}/in"])
        assert proxy.calls["read"] == 1 and sum(proxy.calls.values()) < 8
    storage_options.configure({})


def test_one_function_makes_addresses_and_one_reads_them() -> None:
    """But for `pipeline.stores.storage`, nothing joins paths or has fsspec parse what might hold a name."""
    forbidden = {"url_to_fs", "open_files", "urljoin", "urlsplit", "urlparse", "filesystem", "get_mapper"}
    found = set()
    for package in (Path(pipeline.__file__).parent, Path(jobs.__file__).parent):
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in forbidden:
                    found.add((path.relative_to(package).as_posix(), node.attr))
    assert found == {("stores/storage.py", "url_to_fs"), ("stores/retries.py", "url_to_fs")}
