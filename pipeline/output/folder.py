"""An output folder: where everything that a run leaves has its name.

run.json                          what the run was begun with, and each of its starts
progress.json, usage.json         how far it is, and what its workers took; every earlier start as well
lease.json                        which driver writes, while one does
captions/<shard>.parquet          see `pipeline.output.captions`
restored/<shard>.parquet          a whole shard, each key once, in the input's order
unfinished/<shard>/*.parquet      commits of a shard that is not whole, or rows done again by --retry-errors
unfinished/<shard>/*.try-<n>      that an item was begun; gone when it is done
metrics.parquet, summary.json     all rows without images, and what they come to
prompts.json, prompt_embedding.npy  what `p2l prompts` tells of tuned prompts, and their mean
report.html                       the page
scores/, scores.json              see `pipeline.output.scores`
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output import columns
from pipeline.stores import storage

RUN, PROGRESS, USAGE, LEASE = "run.json", "progress.json", "usage.json", "lease.json"
PROMPTS, MEAN_PROMPT = "prompts.json", "prompt_embedding.npy"
METRICS_FILE, SUMMARY, REPORT = "metrics.parquet", "summary.json", "report.html"
CAPTIONS, RESTORED, UNFINISHED = "captions", "restored", "unfinished"
TRY = ".try-"
MENDS = {
    RUN: "put back a copy of it, or choose another output: this one's settings are not known",
    USAGE: "put back a copy of it, or remove it: what earlier starts cost is then forgotten",
}

J = TypeVar("J", dict[str, Any], list[Any])


@dataclass(frozen=True)
class OutputFolder:
    """What a run leaves at a URL. A file is named by its path below it, such as `restored/0001.parquet`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def at(self, *names: str) -> str:
        """The address of a file."""
        return storage.join(self.url, *names)

    def check(self) -> None:
        """Raises FileNotFoundError where there is no run."""
        if not (storage.exists(self.at(RUN)) or self.restored() or self.unfinished()):
            raise FileNotFoundError(
                f"{self} holds no run: expected {RUN} and {RESTORED}/ in it; give the `output` of a job"
            )

    def json(self, name: str, kind: type[J] = dict) -> J:  # type: ignore[assignment]
        """What a JSON file holds, an object or a list, or an empty one where it is missing.

        Raises OSError for a file that is neither.
        """
        try:
            found = json.loads(storage.read_text(self.at(name)))
        except FileNotFoundError:
            return kind()
        except ValueError as error:
            raise self.damaged(name, error) from error
        if not isinstance(found, kind):
            raise self.damaged(name, f"it holds {type(found).__name__}, not {kind.__name__}")
        return found

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file whole. Raises ValueError for a number that JSON has not."""
        storage.write_text(self.at(name), json_text(value))

    def damaged(self, name: str, what: object) -> OSError:
        """Of a JSON file that a run did not leave as it is."""
        mend = MENDS.get(name, "remove it: the rows are not in it, and the next start writes another")
        return OSError(f"{self.at(name)}: damaged, or written by another program ({what}); {mend}")

    def restored_file(self, shard: str) -> str:
        return f"{RESTORED}/{shard}.parquet"

    def commit_file(self, shard: str, keys: Sequence[str]) -> str:
        """Named after its keys: a block that is done again overwrites itself."""
        digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:20]
        return f"{UNFINISHED}/{shard}/{digest}.parquet"

    def try_file(self, shard: str, item: str, number: int) -> str:
        return f"{UNFINISHED}/{shard}/{item}{TRY}{number}"

    def restored(self) -> list[str]:
        """The names of the shards that are whole, in order."""
        names = storage.find(self.at(RESTORED), ".parquet")
        return sorted(name.removesuffix(".parquet") for name in names)

    def unfinished(self) -> dict[str, list[str]]:
        """The commits of each shard that has some not yet made one file, by its name."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in storage.find(self.at(UNFINISHED), ".parquet"):
            found[name.split("/")[0]].append(f"{UNFINISHED}/{name}")
        return dict(found)

    def commits_of(self, shard: str) -> list[str]:
        folder = f"{UNFINISHED}/{shard}"
        return [f"{folder}/{name}" for name in storage.find(self.at(folder), ".parquet")]

    def files_of(self, shard: str) -> list[str]:
        """Every file that holds rows of a shard: the whole one first, if there is one, then its commits."""
        commits = self.commits_of(shard)
        whole = self.restored_file(shard)
        return [whole, *commits] if storage.exists(self.at(whole)) else commits

    @contextmanager
    def open(self, file: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file, read in parts."""
        with storage.open_read(self.at(file)) as stream:
            yield pq.ParquetFile(stream)

    def read(self, file: str, names: Sequence[str]) -> pa.Table:
        """The named columns of all rows of a Parquet file, null where it lacks one.

        Not for images, of which only a few fit in memory.
        """
        with self.open(file) as parquet:
            return columns.completed(parquet.read(columns=list(names)), names)

    def done_keys(self, shard: str, *, count_errors: bool) -> set[str]:
        """Keys of a shard that have a row; those with an error row only where `count_errors`."""
        found: set[str] = set()
        for file in self.files_of(shard):
            cells = self.read(file, ("key", "status")).to_pydict()
            rows = zip(cells["key"], cells["status"], strict=True)
            found |= {key for key, status in rows if count_errors or status == "ok"}
        return found


def json_text(value: object) -> str:
    """As the files of an output have it. Raises ValueError for a number that JSON has not."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def now(timespec: str = "seconds") -> str:
    """As the JSON files say it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec=timespec)
