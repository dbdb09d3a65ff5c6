"""A JSON file of an output that was damaged ends a start in one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.run.run import RunError, run
from tests.pipeline.small_jobs import job, write_shards


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, content)
            for name in ("run.json", "usage.json", "progress.json")
            for content in ('{"half', "7")
        ),
        *(
            ("run.json", content)
            for content in ("[]", '{"rows": 1}', '{"settings": {}, "versions": {}}', '{"settings": "x"}')
        ),
        *(("usage.json", content) for content in ("{}", '[{"rows": 1}]', "[7]")),
        *(("progress.json", content) for content in ("[]", '{"rows": 1}')),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_restored(tmp_path: Path, name: str, content: str) -> None:
    write_shards(tmp_path / "in", "a", rows=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(
        RunError, match=rf"out/{name}: damaged, or written by another program.*; (put|remove)"
    ):
        run(job(tmp_path / "in", tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
