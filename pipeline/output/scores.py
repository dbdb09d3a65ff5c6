"""What `p2l score` leaves in an output: a file for each shard and network, and what all of them come to.

scores/<network>/<shard>.parquet                a shard's images: key, error, their distance, their features
scores/against/<set>/<network>/<shard>.parquet  a shard of another reference set: key, error, features
scores.json                                     the means of distances, and the distances of sets

Features are kept as they are, and not as sums of their products: those of 1000 images are a fourth as large
as such sums of 2048 features, and kernel distances and intervals need each image's own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2l_engine.metrics import NETWORKS
from pipeline.output.columns import Metric
from pipeline.output.folder import RUN, OutputFolder
from pipeline.output.rows import READERS
from pipeline.stores import storage

SCORES, SCORES_FILE = "scores", "scores.json"
FEATURES, REFERENCE_FEATURES = "features", "reference_features"
MARKS = b"p2l"  # in a file's metadata: what its scores were made of

TITLES = {
    "perceptual_efficientnet": "Perceptual (EfficientNet)",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG)",
}
SCORE_METRICS = tuple(
    Metric(network.distance, TITLES[network.distance], "", 4, needs_reference=True, higher_is_better=False)
    for network in NETWORKS.values()
    if network.distance
)
_FEATURES = pa.list_(pa.field("element", pa.float32()))


def scores_file(network: str, shard: str, reference_set: str | None = None) -> str:
    """By its path below the output; reference_set: its digest, None for the output's own images."""
    folder = f"{SCORES}/against/{reference_set}" if reference_set else SCORES
    return f"{folder}/{network}/{shard}.parquet"


def schema(network: str, reference_set: str | None, marks: Mapping[str, str]) -> pa.Schema:
    """error: why there are no scores, null where there are. The distance is null without a reference."""
    found = NETWORKS[network]
    fields = [("key", pa.string()), ("error", pa.string())]
    if found.distance and reference_set is None:
        fields.append((found.distance, pa.float64()))
    if found.frechet:
        fields.append((FEATURES, _FEATURES))
    if found.frechet and reference_set is None:
        fields.append((REFERENCE_FEATURES, _FEATURES))
    return pa.schema(fields, metadata={MARKS: json.dumps(dict(marks))})


def holds(output: OutputFolder, file: str, keys: Sequence[str], marks: Mapping[str, str]) -> bool:
    """Whether a file has the scores of these images, made of what the marks say."""
    try:
        with output.open(file) as parquet:
            stored = (parquet.schema_arrow.metadata or {}).get(MARKS, b"{}")
            return json.loads(stored) == dict(marks) and _keys(parquet) == list(keys)
    except (OSError, ValueError, pa.ArrowException):
        return False


def _keys(parquet: pq.ParquetFile) -> list[str]:
    found: list[str] = parquet.read(columns=["key"])["key"].to_pylist()
    return found


def files(output: OutputFolder, network: str) -> list[str]:
    """Of the whole shards that are scored by a network, in order."""
    there = set(storage.find(output.at(SCORES, network), ".parquet"))
    return [scores_file(network, shard) for shard in output.restored() if f"{shard}.parquet" in there]


def features(
    output: OutputFolder, file: str, column: str, keys: Collection[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """The keys of the images of a file that have features, and these: (N, D) float32. keys: of no others.

    Without images D is 0.
    """
    table = output.read(file, ("key", column))
    there = table.filter(table[column].is_valid())
    if keys is not None:
        there = there.filter(pa.array([key in keys for key in there["key"].to_pylist()], pa.bool_()))
    values = there[column].combine_chunks().flatten().to_numpy()
    return there["key"].to_pylist(), values.reshape(len(there), len(values) // max(1, len(there)))


def networks(output: OutputFolder, summed_up: Mapping[str, Any]) -> list[str]:
    """Whose scores an output has, by what scores.json holds; none where those are of a run before it."""
    same = summed_up.get("fingerprint") == output.json(RUN).get("fingerprint")
    return [name for name in summed_up.get("weights", ()) if same and name in NETWORKS]


def distances(output: OutputFolder, of: Sequence[str]) -> pa.Table:
    """The key of each image of a whole shard that has one, and its distance by each of the networks."""
    found = pa.table({"key": pa.array([], pa.string())})
    for name in of:
        column = NETWORKS[name].distance
        if column and (there := files(output, name)):
            with ThreadPoolExecutor(READERS) as pool:
                table = pa.concat_tables(pool.map(partial(output.read, names=("key", column)), there))
            found = found.join(table, "key", join_type="full outer")
    return found
