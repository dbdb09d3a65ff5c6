"""What a command asks to be scored: checked, with every mistake at once, before any network loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from p2l_engine.metrics import NETWORKS
from p2l_engine.mistakes import Mistakes
from pipeline.config import ConfigError, JobConfig, read_back
from pipeline.input import sources
from pipeline.input.rows import LeftOut, SourceError
from pipeline.input.sources import Shard
from pipeline.output.folder import RESTORED, RUN, OutputFolder
from pipeline.scores import weights
from pipeline.scores.weights import NAMES, Weights
from pipeline.stores import storage, storage_options


@dataclass(frozen=True)
class ReferenceSet:
    """Pictures that the restored ones are held against. digest: of where they are and how they are fitted."""

    url: str
    digest: str
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Request:
    """names: the scores. sources: by name, of the input's shards, where the output keeps no references.

    lacking: what else there would be, and what it needs.
    """

    output: OutputFolder
    config: JobConfig
    fingerprint: str
    names: tuple[str, ...]
    weights: tuple[Weights, ...]
    lacking: tuple[str, ...]
    sources: dict[str, Shard]
    against: ReferenceSet | None


def request(url: str, names: Sequence[str], networks: str | None, against: str | None) -> Request:
    """names: of scores; none stands for all whose network is at hand, if any. networks: see `weights.find`.

    against: a folder, glob or file of pictures, or another output, whose restored pictures are meant.
    Raises FileNotFoundError where there is no run, ConfigError with every mistake.
    """
    output = OutputFolder(storage.absolute(url).rstrip("/"))
    output.check()
    run = output.json(RUN)
    if not run:
        raise ConfigError([f"{url}: {RUN} is missing, so it is not known what was restored"])
    config = read_back(run["config"])
    storage_options.configure(config.storage)
    problems = list(weights.unknown(names))
    if not output.restored():
        problems.append(f"{url}: no shard is whole yet; go on with the run first")
    has_references = config.mode == "measure"
    own = {} if not has_references or "reference" in config.keep else _sources(config, problems)
    reference_set = _reference_set(against, config, problems) if against else None
    possible = [name for name in NAMES if has_references or (_of_sets(name) and against)]
    for name in names:
        if name in NAMES and name not in possible:
            mend = "; give --against" if _of_sets(name) else ""
            problems.append(f"--score: {name} needs originals, which a run in mode restore has not{mend}")
    if not possible:
        problems.append(f"{url}: a run in mode restore has no originals; allowed: --against, a reference set")
    chosen = [name for name in possible if name in names or not names]
    found, lacking = list[Weights](), list[str]()
    try:
        found, lacking = weights.find(dict.fromkeys(NAMES[name] for name in chosen), networks)
    except Mistakes as mistakes:
        problems += mistakes.problems
    else:
        problems += lacking if names else []
    if problems:
        raise ConfigError(problems)
    at_hand = {of.network for of in found}
    return Request(
        output,
        config,
        str(run["fingerprint"]),
        tuple(name for name in chosen if NAMES[name] in at_hand),
        tuple(found),
        tuple(lacking),
        own,
        reference_set,
    )


def _of_sets(name: str) -> bool:
    return name != NETWORKS[NAMES[name]].distance


def _sources(config: JobConfig, problems: list[str]) -> dict[str, Shard]:
    try:
        return {shard.name: shard for shard in sources.list_shards(config.input, config.reading)}
    except (SourceError, OSError) as error:
        problems += [f"the run keeps no references, and its {line}" for line in str(error).splitlines()]
        return {}


def _reference_set(against: str, config: JobConfig, problems: list[str]) -> ReferenceSet | None:
    url = storage.absolute(against).rstrip("/")
    pictures = storage.join(url, RESTORED) if storage.exists(storage.join(url, RUN)) else url
    fit = [config.size, config.fit] if config.mode == "measure" else []
    digest = hashlib.sha256(json.dumps([pictures, fit]).encode()).hexdigest()[:16]
    try:
        listed = sources.listing([pictures])
    except (SourceError, OSError) as error:
        problems += [f"--against: {line}" for line in str(error).splitlines()]
        return None
    return ReferenceSet(url, digest, tuple(listed.shards), listed.left_out)
