"""What becomes no row is told by every start and in summary.json; an output is no part of its input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_config
from pipeline.input import files
from pipeline.input.files import refuse_inside
from pipeline.input.rows import SourceError
from pipeline.output.commits import remove_leftovers
from pipeline.output.folder import OutputFolder
from pipeline.pictures import kinds
from pipeline.results.report import write_report
from pipeline.results.verify import verify
from pipeline.run.run import run
from pipeline.stores import storage, storage_options
from tests.pipeline.small_jobs import png, write_parquet, write_tar
from tests.stores import Store, make_bucket


def job(source: str, output: Path) -> dict[str, object]:
    free = {"operator": "denoising", "method": "adjoint", "model": "tiny", "size": 64, "workers": 1}
    return free | {"input": source, "output": str(output)}


def test_a_run_tells_what_files_and_members_are_in_no_row(tmp_path: Path, ray_cluster: None) -> None:
    write_tar(tmp_path / "in" / "a.tar", {"x.png": png(1), "x.json": b"{}", "y.png": png(2), "y.json": b"{}"})
    write_tar(tmp_path / "in" / "_bad.tar", {"z.png": png(3)})
    (tmp_path / "in" / "a_stats.json").write_text("{}")
    config = load_config(job(str(tmp_path / "in"), tmp_path / "out"))
    first = run(config)
    counts = {one.reason: one.count for one in first.left_out}
    assert counts == {kinds.TAKEN_OUT: 1, "text": 1, "members of a tar that end in .json": 2}
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())["left_out"]
    assert {one["reason"]: one["count"] for one in stored} == counts
    assert {"reason": "text", "count": 1, "examples": ["a_stats.json"]} in stored
    page = Path(write_report(config.output)).read_text()
    assert "members of a tar that end in .json" in page and "a_stats.json" in page and "x.json" in page

    assert run(config).left_out == first.left_out  # of a finished run, too
    (tmp_path / "in" / "b.csv").write_text("a,b")
    assert {one.reason: one.count for one in run(config).left_out} == counts | {"text": 2}
    (tmp_path / "out" / "summary.json").unlink()
    assert {one.reason: one.count for one in run(config).left_out} == counts | {"text": 2}
    assert verify(config.output) == []
    written = [name.replace("restored/0", "restored/a") for name in files.WRITTEN[:2]]
    assert set(written) <= set(storage.find(config.output))


def test_an_output_in_its_input_is_refused_at_the_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_parquet(folder / "one.parquet", {"a": png(1)})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for source, output in (
        (folder, folder / "out"),
        (folder, folder),
        (folder, tmp_path / "link" / "out"),
        (tmp_path / "link", folder / "a" / "b"),
        (folder, tmp_path / "elsewhere" / "out"),
        (f"{folder}/**/*.parquet", folder / "out"),
        (f"{folder}/*", folder / "out"),
    ):
        with pytest.raises(ConfigError, match="where its files would be read as rows"):
            run(load_config(job(str(source), output)))
        assert not (output / "run.json").exists()


def test_an_output_beside_or_above_its_input_is_allowed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "one.parquet", {"a": png(1)})
    for source, output in (
        ("in", "out"),
        ("in", "input"),
        ("in", "."),
        ("in/*.parquet", "in/out"),
        ("in/one.parquet", "in"),
    ):
        refuse_inside(str(tmp_path / output), [str(tmp_path / source)])


def test_an_output_in_its_input_is_refused_on_a_store(s3_store: Store) -> None:
    storage_options.configure(s3_store.options)
    bucket = make_bucket(s3_store, "inside")
    storage.write_text(f"{bucket}/in/a.png", "")
    for output in (f"{bucket}/in/out", f"{bucket}/in"):
        with pytest.raises(SourceError, match="would be read as rows"):
            refuse_inside(output, [f"{bucket}/in"])
    with pytest.raises(SourceError, match="would be read as rows"):
        refuse_inside(f"{bucket}/in/out", [f"{bucket}/i*"])
    for source in (f"{bucket}/in/a.png", f"{bucket}/in/*.png", "/in"):
        refuse_inside(f"{bucket}/in/out", [source])
    refuse_inside(f"{bucket}/input", [f"{bucket}/in"])
    storage_options.configure({})


def test_tidying_an_output_touches_nothing_of_an_input_below_it(tmp_path: Path) -> None:
    own = (
        ".run.json.12345678.tmp",
        "captions/.a.parquet.12345678.tmp",
        "restored/.a.parquet.12345678.tmp",
        "unfinished/a/.b.parquet.12345678.tmp",
    )
    others = ("photos/.a.png.12345678.tmp", "photos/notes.tmp", "notes.tmp")
    for name in (*own, *others):
        storage.write_text(str(tmp_path / name), "")
    assert remove_leftovers(OutputFolder(str(tmp_path))) == len(own)
    assert storage.find(str(tmp_path)) == sorted(others)
