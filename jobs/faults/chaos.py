"""Kill a real job at random moments, and prove that nothing was lost, repeated or changed by it.

`p2l restore` runs on a cluster of a head and two worker nodes, restoring numbered images with the method
`adjoint` and an operator that logs every image it measures. Again and again something of it is killed; a
command that died of it is given again. A job that ends is followed by the next one, until all kills are
spent. Every output is then held against that of a run that nobody disturbed, and against the log.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.faults import traced
from jobs.faults.loopback import LOSSES_SEEN_AT_ONCE, Loopback
from jobs.faults.traced import Line
from pipeline.output import folder as names
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import all_rows
from pipeline.pictures.images import encode_png
from pipeline.results.verify import verify
from pipeline.run.pool import IN_FLIGHT

KINDS = {
    "driver": "SIGKILL to `p2l restore`",
    "actor": "SIGKILL to an actor's process",
    "node": "SIGKILL to all processes of a worker node; another one joins",
    "cluster": "SIGKILL to all processes of all nodes; they are started again",
    "drain": "SIGTERM to a worker node, SIGKILL after its grace period; another one joins",
}
SILENCE = {"silence": "SIGSTOP to all processes of a worker node, which answers no more; another one joins"}
PREEMPTIONS = [*["drain"] * 18, "node", "silence"]  # machines alone, a tenth of them without a word
# An image's seconds. Beside preemptions machines are lost more often than commits are made.
SECONDS, SECONDS_BESIDE_PREEMPTIONS = 0.05, 0.5
SHARDS, ROWS_IN_SHARD, COMMIT, ACTORS, NODES = 6, 50, 4, 2, 2
PADDING = 2**19  # bytes after each PNG, which no decoder reads: a job's images exceed a node's object store
LONGEST_WAIT = 3.0  # s from a sign of progress to the kill
ANYTIME = 0.25  # share of kills that wait for no progress, and so may meet a start
PATIENCE = 900.0  # s without a sign of progress, after which a job is taken to hang
WHOLE = {names.METRICS_FILE, names.PROGRESS, names.RESTORED, names.RUN, names.SUMMARY, names.USAGE}
NOT_REPEATED = "seconds"  # the one column that differs between two runs of the same job


@dataclass(frozen=True)
class Kill:
    """committed: keys in the output just after it. line: of the log, just after those were read."""

    kind: str
    committed: frozenset[str]
    line: int


@dataclass
class Job:
    """One job, from its first start to exit status 0. first: its first line of the log."""

    output: Path
    first: int
    starts: int = 0
    kills: list[Kill] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def run(kills: int, seed: int, preemptions: bool) -> int:
    """Spends the kills and prints the table; the number of violations.

    preemptions: loses machines alone, and gives images the time to be lost with them.
    """
    start = time.monotonic()
    chance = random.Random(seed)
    left = deque(_kinds(kills, chance, PREEMPTIONS if preemptions else list(KINDS)))
    seconds = SECONDS_BESIDE_PREEMPTIONS if preemptions else SECONDS
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        write_input(folder / "input")
        log = folder / "log"
        own = {traced.LOG: str(log), traced.SECONDS: str(seconds)}
        with Loopback(NODES, LOSSES_SEEN_AT_ONCE | own).running() as cluster:
            undisturbed = _restore(folder / "undisturbed", cluster, log, deque(), chance)
            jobs: list[Job] = []
            while left:
                jobs.append(_restore(folder / f"job-{len(jobs)}", cluster, log, left, chance))
        lines = traced.read(log)
        for job, end in zip(jobs, [*(job.first for job in jobs[1:]), len(lines)], strict=True):
            job.violations += check(job, lines[:end], undisturbed.output)
        violations = [text for job in [undisturbed, *jobs] for text in job.violations]
        print(report(jobs, lines), *violations, sep="\n")
        print(
            f"\n{kills} kills, seed {seed}: {len(jobs)} jobs of {SHARDS * ROWS_IN_SHARD} images, "
            f"{sum(job.starts for job in jobs)} starts of the command, {time.monotonic() - start:.0f} s, "
            f"{len(violations)} violations"
        )
        return len(violations)


def _kinds(kills: int, chance: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    """All of the kinds, in random order, and again."""
    left: list[str] = []
    for _ in range(kills):
        left = left or chance.sample(kinds, len(kinds))
        yield left.pop()


def write_input(folder: Path) -> None:
    """The shards of numbered images that a job reads."""
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * ROWS_IN_SHARD, (shard + 1) * ROWS_IN_SHARD)
        images = [encode_png(traced.image(number)) + bytes(PADDING) for number in numbers]
        pq.write_table(
            pa.table({"key": list(map(str, numbers)), "image": images}), folder / f"{shard}.parquet"
        )


def job_file(output: Path) -> Path:
    """Writes the job beside its output."""
    settings = {
        "input": str(output.parent / "input"),
        "output": str(output),
        "size": None,
        "operator": {"name": "linear", "function": f"{traced.__name__}:{traced.traced.__name__}"},
        "method": {"name": "adjoint"},
        "workers": ACTORS,
        "batch_size": COMMIT,
        "commit_every": COMMIT,
    }
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(settings))  # which is YAML, too
    return path


def _restore(output: Path, cluster: Loopback, log: Path, left: deque[str], chance: random.Random) -> Job:
    """One job, hit by the kills that are left until it ends or they do.

    Of nodes and actors the command survives the loss; of its cluster it dies, with status 1.
    """
    job = Job(output, len(traced.read(log)))
    command = [sys.executable, "-m", "jobs.restore", str(job_file(output))]
    while True:
        job.starts += 1
        killed: list[str] = []
        errors = output.with_suffix(f".{job.starts}.log")
        with errors.open("w") as file:
            driver = subprocess.Popen(command, env=cluster.environment, stdout=file, stderr=file)
        while _goes_on(driver, cluster, log, chance if left else None):
            kind = left.popleft()
            if not _kill(kind, driver, cluster, chance):
                left.append(kind)  # the job has ended
                continue
            killed.append(kind)
            committed = _committed(output)
            job.kills.append(Kill(kind, committed, len(traced.read(log))))
            print(f"{output.name}: {kind} at {len(committed)} images", file=sys.stderr, flush=True)
        if driver.poll() is None:
            job.violations.append(f"no progress for {PATIENCE:.0f} s, after {killed}")
            driver.kill()
        elif driver.returncode == 0:
            return job
        elif "driver" not in killed and ("cluster" not in killed or driver.returncode != 1):
            job.violations.append(f"status {driver.returncode} after {killed}: {errors.read_text()[-2000:]}")
        if len(job.violations) > len(KINDS):  # it does not end
            return job


def _goes_on(
    driver: subprocess.Popen[bytes], cluster: Loopback, log: Path, chance: random.Random | None
) -> bool:
    """Waits for the next moment to kill, if there is a chance for one; False when the job ended or hangs."""
    before, since = len(traced.read(log)), time.monotonic()
    if chance is not None and chance.random() < ANYTIME:
        before = -1
    moment = float("inf")
    while driver.poll() is None:
        cluster.replace_dead()
        lines, now = len(traced.read(log)), time.monotonic()
        if lines > before:
            if chance is None:
                before, since = lines, now
            elif moment == float("inf"):
                moment = now + chance.uniform(0, LONGEST_WAIT)
        if now >= moment:
            return True
        if now > since + PATIENCE:
            return False
        time.sleep(0.02)
    return False


def _kill(kind: str, driver: subprocess.Popen[bytes], cluster: Loopback, chance: random.Random) -> bool:
    """False when the job ended before there was something to kill."""
    if kind == "driver":
        driver.kill()
        driver.wait()
    elif kind == "actor":
        while not (actors := _actors(cluster)):
            if driver.poll() is not None:
                return False
            cluster.replace_dead()
            time.sleep(0.05)
        with suppress(psutil.NoSuchProcess):
            chance.choice(actors).kill()
    elif kind == "cluster":
        cluster.kill()
        cluster.start()
    else:
        lose = {"node": cluster.kill_node, "drain": cluster.preempt, "silence": cluster.silence}[kind]
        lose(chance.randrange(NODES))
    return True


def _actors(cluster: Loopback) -> list[psutil.Process]:
    found = []
    for process in cluster.processes():
        with suppress(psutil.Error):
            if any("RestoreAndCommit" in part for part in process.cmdline()):
                found.append(process)
    return found


def _committed(output: Path) -> frozenset[str]:
    """Keys of the rows that are kept: two looks, since one misses a shard that becomes whole meanwhile."""
    return _seen(output) | _seen(output)


def _seen(output: Path) -> frozenset[str]:
    for _ in range(100):
        with suppress(OSError, pa.ArrowException):  # a shard became whole, and its commits went
            return frozenset(all_rows(OutputFolder(str(output)), ())["key"].to_pylist())
    raise RuntimeError(f"{output} cannot be read")


def check(job: Job, lines: Sequence[Line], undisturbed: Path) -> Iterator[str]:
    """What is wrong with a job that was disturbed, whose lines are the last of the log."""
    yield from (f"verify: {problem}" for problem in verify(str(job.output)))
    expected, found = _rows(undisturbed), _rows(job.output)
    counts = Counter(row["key"] for row in found)
    yield from (f"{row['key']}: lost" for row in expected if row["key"] not in counts)
    yield from (f"{key}: {count} rows" for key, count in counts.items() if count > 1)
    by_key = {row["key"]: row for row in expected}
    yield from (f"{row['key']}: differs" for row in found if row != by_key.get(row["key"]))
    yield from (f"left behind: {name}" for name in _left_behind(job.output))
    for number, kill in enumerate(job.kills):
        again = kill.committed & {str(line.number) for line in lines[kill.line :]}
        if again:
            yield f"restored again though committed at kill {number} ({kill.kind}): {sorted(again)}"
    for process, count in Counter(line.process for line in dropped(lines[job.first :])).items():
        if count > IN_FLIGHT * COMMIT:
            yield f"process {process}: {count} of its rows were begun again, more than {IN_FLIGHT} items"


def dropped(lines: Sequence[Line]) -> list[Line]:
    """Those whose image was measured once more later on."""
    last = {line.number: place for place, line in enumerate(lines)}
    return [line for place, line in enumerate(lines) if last[line.number] != place]


def _rows(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "restored").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).drop_columns(NOT_REPEATED).to_pylist()]


def _left_behind(output: Path) -> list[str]:
    return sorted({path.name for path in output.iterdir()} - WHOLE)


def report(jobs: Sequence[Job], lines: Sequence[Line]) -> str:
    """A Markdown table: kills by kind, and the images that were in work at a kill and restored again."""
    times: Counter[str] = Counter()
    again: Counter[str] = Counter()
    for job, end in zip(jobs, [*(job.first for job in jobs[1:]), len(lines)], strict=True):
        times.update(kill.kind for kill in job.kills)
        last = {line.number: place for place, line in enumerate(lines[:end])}
        for place in range(job.first, end):
            if last[lines[place].number] != place:
                again.update([next((kill.kind for kill in job.kills if kill.line > place), "")])
    table = ["| killed | how | times | images restored again |", "|---|---|---|---|"]
    table += [
        f"| {kind} | {how} | {times[kind]} | {again[kind]} |"
        for kind, how in (KINDS | SILENCE).items()
        if times[kind]
    ]
    return "\n".join([*table, f"| all | | {times.total()} | {again.total()} |"])
