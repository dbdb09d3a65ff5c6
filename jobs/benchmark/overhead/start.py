"""What passes before a run's first image: the parts of a start, each in a process of its own, and all."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.tables import held_out
from jobs.tables.figures import line

NETWORKS = """
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""
PARTS = {  # what it is: what is there before, and what is timed
    "the command's imports": ("", "import jobs.restore, pipeline.run.run"),
    "Ray": (
        "from pipeline.cluster.session import ray_session; session = ray_session()",
        "session.__enter__()",
    ),
    "an actor's imports": ("import ray", "import ray.data, pipeline.worker.actor"),
    "those of the networks": ("import pipeline.worker.actor", NETWORKS),
    "its model": (
        f"{NETWORKS}from pipeline.config.job import ModelConfig; from pipeline.worker import models",
        "models.load(ModelConfig(id='tiny', device='cpu'))",
    ),
}
PART = """
import gc, time
{before}
gc.disable()
wall, cpu = time.perf_counter(), time.process_time()
{timed}
print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def run() -> Iterator[str]:
    """A table in Markdown: seconds by the clock, and of the CPU, of each part and of `p2l restore`.

    Of Ray the CPU seconds are those of the command alone, and of the whole those of all processes.
    """
    yield line(["", "s", "CPU s"])
    yield line(["---", "---:", "---:"])
    for what, (before, timed) in PARTS.items():
        code = PART.format(before=before, timed=timed)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        yield line([what, *(f"{float(seconds):.1f}" for seconds in done.stdout.split()[-2:])])
    yield line(["**the command to its first image**", *(f"{seconds:.1f}" for seconds in _whole())])


def _whole() -> tuple[float, float]:
    """Seconds until the shipped model's first image is there, after one step; all processes' CPU seconds."""
    with tempfile.TemporaryDirectory(prefix="p2l-start-") as name:
        folder = Path(name)
        held_out.write(str(folder / "in" / "a.parquet"), held_out.photographs(1))
        job = {
            "input": str(folder / "in"),
            "output": str(folder / "out"),
            "model": "tiny",
            "operator": {"name": "super_resolution", "factor": 4},
            "method": {"name": "p2l", "preset": "tiny", "steps": 1},
            "workers": 1,
        }
        (folder / "job.yaml").write_text(json.dumps(job))
        start, cpu = time.perf_counter(), 0.0
        command = [sys.executable, "-m", "jobs.restore", str(folder / "job.yaml")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
            known = psutil.Process(driver.pid)
            while not list((folder / "out").glob("*/**/*.parquet")):
                if driver.poll() is not None:
                    raise RuntimeError(f"the command ended with {driver.returncode} and no image")
                cpu = max(cpu, _cpu_seconds(known))
                time.sleep(0.2)
            seconds = time.perf_counter() - start
        return seconds, cpu


def _cpu_seconds(process: psutil.Process) -> float:
    """Of it and all below it, those that have ended included."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total
