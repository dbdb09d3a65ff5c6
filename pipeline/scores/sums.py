"""What all scores of an output come to: the content of scores.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from p2l_engine.metrics import NETWORKS
from pipeline.output import scores
from pipeline.output.folder import OutputFolder, now
from pipeline.output.rows import READERS
from pipeline.results.causes import by_cause
from pipeline.results.summary import statistics
from pipeline.scores import sets
from pipeline.scores.request import Request
from pipeline.scores.weights import NAMES

OWN = "the run's own originals"
KEYS_SHOWN = 10  # of each cause


def write(asked: Request, shards: Sequence[str]) -> dict[str, Any]:
    """Writes means of the distances, distances of the sets, and what could not be scored; returns them.

    What earlier commands had of the same images by the same weights, and against other sets, stays.
    """
    before = asked.output.json(scores.SCORES_FILE)
    kept = {name: before["weights"][name] for name in scores.networks(asked.output, before)}
    weights = kept | {used.network: used.digest for used in asked.weights}
    table = scores.distances(asked.output, list(weights))
    found = list(_sets(asked, shards))
    known = {(one["name"], one["against"]) for one in found}
    same = {name for name in kept if weights[name] == kept[name]}
    counts = {name: _images(asked.output, name) for name in same if NETWORKS[name].frechet}
    earlier = [
        one
        for one in (before["sets"] if same else [])
        if counts.get(NAMES[one["name"]]) == one["images"] and (one["name"], one["against"]) not in known
    ]
    errors = _errors(asked, shards)
    content = {
        "made": now(),
        "fingerprint": asked.fingerprint,
        "shards": len(shards),
        "weights": weights,
        "metrics": {name: statistics(table[name]) for name in table.column_names if name != "key"},
        "sets": [*found, *earlier],
        "errors": [asdict(one) for one in by_cause(errors, "error", KEYS_SHOWN)],
    }
    asked.output.write_json(scores.SCORES_FILE, content)
    return content


def _sets(asked: Request, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    for used in asked.weights:
        if not NETWORKS[used.network].frechet:
            continue
        own = [scores.scores_file(used.network, shard) for shard in shards]
        images = sets.read(asked.output, own, scores.FEATURES)
        references = {OWN: sets.read(asked.output, own, scores.REFERENCE_FEATURES)}
        if asked.against:
            theirs = [
                scores.scores_file(used.network, shard.name, asked.against.digest)
                for shard in asked.against.shards
            ]
            references[asked.against.url] = sets.read(asked.output, theirs, scores.FEATURES)
        for against, others in references.items():
            # A set of one has no covariance.
            if images is None or others is None or min(images.sums.count, others.sums.count) < 2:
                continue
            for name, value in sets.distances(used.network, images, others).items():
                if name in asked.names:
                    counts = {"images": images.sums.count, "references": others.sums.count}
                    yield {"name": name, "value": value, "against": against} | counts


def _images(output: OutputFolder, network: str) -> int:
    """How many a network has scored."""
    there = scores.files(output, network)
    with ThreadPoolExecutor(READERS) as pool:
        tables = pool.map(partial(output.read, names=("error",)), there)
        return sum(table["error"].null_count for table in tables)


def _errors(asked: Request, shards: Sequence[str]) -> pa.Table:
    """Key and error of what could not be scored, of the output and of the reference set."""
    files = [scores.scores_file(used.network, shard) for used in asked.weights for shard in shards]
    if asked.against:
        files += [
            scores.scores_file(used.network, shard.name, asked.against.digest)
            for used in asked.weights
            if NETWORKS[used.network].frechet
            for shard in asked.against.shards
        ]
    with ThreadPoolExecutor(READERS) as pool:
        tables = pool.map(partial(asked.output.read, names=("key", "error")), files)
        found = pa.concat_tables(table.filter(pc.is_valid(table["error"])) for table in tables)
    return found.group_by(["key", "error"]).aggregate([])
