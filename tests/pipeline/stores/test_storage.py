"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.stores import storage


class LikeHdfs(MemoryFileSystem):
    """Renames onto a file are left undone without a word, as `fsspec.implementations.webhdfs` leaves them."""

    protocol = "like-hdfs"
    store: ClassVar[dict[str, Any]] = {}  # its own, not that of memory://
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("like-hdfs://").strip("/")

    def mv(self, old: str, new: str, **settings: Any) -> None:
        if not self.exists(new) and "fixed" not in new:
            super().mv(old, new, **settings)


fsspec.register_implementation("like-hdfs", LikeHdfs)


def test_a_file_is_replaced_on_a_store_that_renames_onto_none() -> None:
    url = "like-hdfs://host/folder/run.json"
    for text in ("first", "second"):
        storage.write_text(url, text)
        assert storage.read_text(url) == text
        assert storage.find("like-hdfs://host") == ["folder/run.json"]
    with pytest.raises(storage.StorageError, match="fixed: cannot be written: the store renames no file"):
        storage.write_text("like-hdfs://host/folder/fixed", "text")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    url = str(tmp_path / "folder" / "file")
    storage.write_text(url, "first")
    with pytest.raises(ZeroDivisionError), storage.write_whole(url) as file:
        file.write(b"half")
        assert storage.read_text(url) == "first"
        raise ZeroDivisionError
    assert storage.read_text(url) == "first"
    assert storage.find(str(tmp_path)) == ["folder/file"]


def test_an_object_store_sees_one_upload() -> None:
    url = "memory://uploads/folder/file"
    with pytest.raises(ZeroDivisionError), storage.write_whole(url) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not storage.exists(url)
    storage.write_text(url, "whole")
    assert storage.find("memory://uploads") == ["folder/file"] and storage.read_text(url) == "whole"
    storage.remove(url)
    storage.remove(url)
    assert storage.find("memory://uploads") == storage.find("memory://nowhere") == []
