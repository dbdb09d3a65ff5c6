"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stores import storage


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
