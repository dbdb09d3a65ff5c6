"""Damaged files through the real reading functions, the real actor and a real commit, without Ray.

Each file must become one `ok` or `error` row for each key, or be refused with a sentence where its keys
cannot be known. That is done in a child process with a limit on its memory; a crash or a file that takes too
long ends that process, counts as a failure, and another one goes on.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.faults import mutations

if TYPE_CHECKING:
    from pipeline.input.sources import Shard
    from pipeline.worker.restore import Restorer

MEMORY = 4 * 2**30  # bytes of address space above that of the child at its start
SECONDS = 30.0  # for one file
OUTPUT = "memory://fuzz"  # commits as on a store, without waiting for a disk
START_SECONDS = 120.0  # for a child to import and to build its actors

JOBS: dict[str, dict[str, Any]] = {
    "crop": {"size": 16, "operator": {"name": "super_resolution", "factor": 4}},
    "pad": {"size": [16, 32], "fit": "pad", "operator": {"name": "inpainting", "mask": "random"}},
    "as it is": {"size": None, "operator": "denoising"},
    "measured": {"mode": "restore", "operator": {"name": "super_resolution", "factor": 2}},
    "mask": {"mode": "restore", "operator": {"name": "inpainting", "mask": "given"}},
    "kernel": {"mode": "restore", "operator": "blur"},
}


@dataclass(frozen=True)
class Outcome:
    """Of one file. refused: no row, and a sentence. failure: what must not happen, None where all is well.

    seconds: to read, restore and commit. peak: bytes that the process ever held above its start.
    """

    number: int
    kind: str
    ok: int = 0
    errors: int = 0
    refused: bool = False
    failure: str | None = None
    seconds: float = 0.0
    peak: int = 0


def run(count: int, seed: int) -> list[Outcome]:
    """The outcomes of `count` files, in order."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += _one_child(seed, range(len(outcomes), count))
    return outcomes


def _one_child(seed: int, numbers: Sequence[int]) -> Iterator[Outcome]:
    """Outcomes of as many files as one child process lives to see, the one that it dies of included."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(seed, numbers, sender), daemon=True)
    child.start()
    sender.close()
    try:
        _wait_for_start(receiver)
        for number in numbers:
            failure = None
            try:
                if receiver.poll(SECONDS):
                    yield receiver.recv()
                    continue
                failure = f"not done after {SECONDS:.0f} s"
            except EOFError:
                child.join()
                failure = f"the process ended with status {child.exitcode}"
            yield Outcome(number, mutations.damaged(seed, number)[0], failure=failure, seconds=SECONDS)
            return
    finally:
        child.kill()
        child.join()


def _wait_for_start(receiver: Connection) -> None:
    try:
        if receiver.poll(START_SECONDS):
            receiver.recv()
            return
    except EOFError:
        pass
    raise RuntimeError(f"the child process did not start within {START_SECONDS:.0f} s, or ended before")


def work(seed: int, numbers: Sequence[int], sender: Connection) -> None:
    """The work of a process: sends "ready", and then the outcome of each mutation of these numbers."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        actors = _actors(folder)
        for number, kind in enumerate(mutations.KINDS):  # what loads late is loaded before the limit
            _attempt(folder, number, kind, mutations.files()[kind][0], actors)
        before = _peak()
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        sender.send("ready")
        for number in numbers:
            kind, content = mutations.damaged(seed, number)
            start = time.perf_counter()
            found = _attempt(folder, number, kind, content, actors)
            sender.send(
                Outcome(number, kind, **found, seconds=time.perf_counter() - start, peak=_peak() - before)
            )
    sender.close()


def _actors(folder: Path) -> dict[str, Restorer]:
    from pipeline.config import load_config
    from pipeline.worker.options import ActorOptions
    from pipeline.worker.restore import Restorer

    shared = {"input": str(folder), "output": OUTPUT, "model": "tiny", "method": "adjoint"}
    return {
        name: Restorer(load_config(shared | job), ActorOptions("cpu", 4, 1)) for name, job in JOBS.items()
    }


def _attempt(
    folder: Path, number: int, kind: str, content: bytes, actors: dict[str, Restorer]
) -> dict[str, Any]:
    """Writes the file as a job's input, and does with it what a run does."""
    from pipeline.input import sources
    from pipeline.input.rows import SourceError

    path = _input(folder, number, kind, content)
    names = [kind] if kind in actors else [name for name in actors if name != "kernel"]
    actor = actors[names[number // len(mutations.KINDS) % len(names)]]
    try:
        (shard,) = sources.list_shards([str(path)])
        try:
            keys = sources.keys(shard)
        except SourceError as error:
            return {"refused": True, "failure": None if str(error) else "refused without a reason"}
        if len({repr(key) for key in keys}) < len(keys) or not all(
            isinstance(key, str) and key for key in keys
        ):
            return {
                "refused": True
            }  # by the scan of a run's keys, in the same words as for an undamaged file
        return _restore(shard, [str(key) for key in keys], actor)
    except Exception as error:  # whatever comes out would end a job
        return {"failure": f"{type(error).__name__}: {error}"}
    finally:
        path.unlink()


def _input(folder: Path, number: int, kind: str, content: bytes) -> Path:
    """A shard, an image, or a shard of an image with its mask or kernel."""
    if kind not in ("mask", "kernel"):
        path = folder / f"{number}.{kind}"
        path.write_bytes(content)
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = mutations.files()["png"][0]
    path = folder / f"{number}.parquet"
    pq.write_table(pa.table({"key": ["a", "b"], "image": [image, image], kind: [content, content]}), path)
    return path


def _restore(shard: Shard, keys: Sequence[str], actor: Restorer) -> dict[str, Any]:
    """Reads the rows, restores and commits them, and counts what stands in the commits."""
    from pipeline.input import sources
    from pipeline.output.commits import commit
    from pipeline.output.compact import compact
    from pipeline.output.folder import OutputFolder
    from pipeline.output.rows import metrics_of
    from pipeline.stores import storage

    output = OutputFolder(OUTPUT)
    for rows in actor.stream(sources.rows(shard, [True] * len(keys))):
        commit(output, shard.name, rows)
    if not keys:
        return {}
    compact(output, shard.name, keys)
    statuses = metrics_of(output, shard.name).select(["key", "status"]).to_pydict()
    storage.remove(output.at(output.restored_file(shard.name)))
    failure = None if statuses["key"] == list(keys) else f"rows {statuses['key']} for keys {keys}"
    ok, errors = (statuses["status"].count(status) for status in ("ok", "error"))
    return {"ok": ok, "errors": errors, "failure": failure}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: what became of the files of each kind."""
    lines = [
        "| file | files | refused | ok rows | error rows | failures | slowest, s |",
        "|---|" + "---:|" * 6,
    ]
    for kind in (*mutations.KINDS, "all"):
        of_kind = [outcome for outcome in outcomes if kind in (outcome.kind, "all")]
        figures = (
            len(of_kind),
            sum(outcome.refused for outcome in of_kind),
            sum(outcome.ok for outcome in of_kind),
            sum(outcome.errors for outcome in of_kind),
            sum(outcome.failure is not None for outcome in of_kind),
        )
        slowest = max((outcome.seconds for outcome in of_kind), default=0)
        lines.append(f"| {kind} | {' | '.join(map(str, figures))} | {slowest:.2f} |")
    peak = max((outcome.peak for outcome in outcomes), default=0)
    return "\n".join([*lines, "", f"Peak memory above that of the idle process: {peak / 2**20:.0f} MiB."])


def save(outcomes: Sequence[Outcome], seed: int, folder: Path) -> list[Path]:
    """The files of the failures, to look at."""
    paths = []
    for outcome in outcomes:
        if outcome.failure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(folder / f"{seed}-{outcome.number}.{outcome.kind}")
            paths[-1].write_bytes(mutations.damaged(seed, outcome.number)[1])
    return paths
