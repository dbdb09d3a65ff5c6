"""Scoring by this process alone, for tests of what becomes of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.scores import score, sums
from pipeline.scores.actor import ScoreShards
from pipeline.scores.request import request
from pipeline.worker.options import ActorOptions

Scores = dict[str, Any]


def scored_here(run: str, against: str | None = None, names: Sequence[str] = ()) -> Scores:
    """What `p2l score` does, without Ray: the same tasks, by the same actor, one after another."""
    asked = request(run, names, None, against)
    shards = asked.output.restored()
    actor = ScoreShards(asked.output, asked.config, asked.weights, ActorOptions("cpu", 1, 1))
    for task in score.tasks(asked, shards):
        actor(pa.table({"task": [task.packed()["task"]]}))
    return sums.write(asked, shards)
