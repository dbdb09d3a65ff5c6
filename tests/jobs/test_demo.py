"""`p2l demo` as a newcomer runs it, from an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.e2e

LONGEST = 240  # seconds: what a newcomer is promised


def test_the_demo_restores_photographs_and_makes_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 photographs restored" in done.stdout
    assert "mansion-whole" in done.stdout and "report.html" in done.stdout
    (shard,) = (tmp_path / "p2l-demo" / "restored" / "restored").iterdir()
    rows = pq.read_table(shard, columns=["status", "psnr"]).to_pylist()
    assert all(row["status"] == "ok" and row["psnr"] > 15 for row in rows)
    assert Image.open(tmp_path / "p2l-demo" / "photo.png").size == (480, 360), "what the README restores next"
    assert (tmp_path / "p2l-demo" / "restored" / "report.html").stat().st_size > 100_000
