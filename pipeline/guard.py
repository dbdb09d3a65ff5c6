"""What an output was begun with: run.json, and the refusal to go on with anything else."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import outputs, resume, sources, storage
from pipeline.config import ConfigError, JobConfig, changed_settings
from pipeline.rows import SourceError
from pipeline.sources import Shard

RUN = "run.json"
FILES_AT_ONCE = 16  # an object store is slow to answer one request, and quick with many
VERSIONS_OF = ("p2l", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow")


def refuse_other_settings(config: JobConfig) -> None:
    """Raises ConfigError naming each results-changing setting that differs from the run's own."""
    begun_with = outputs.read_json(config.output, RUN)
    if begun_with:
        if "settings" not in begun_with:
            raise outputs.damaged(config.output, RUN, "no settings in it")
        changes = changed_settings(begun_with["settings"], config)
        if changes:
            begun = f"output: {config.output} was begun with other settings; choose another, or set back:"
            raise ConfigError([begun, *changes])
    elif resume.restored_shards(config.output) or resume.unfinished_shards(config.output):
        raise ConfigError(
            [f"output: {config.output} has restored rows but no run.json; choose another folder"]
        )


def refuse_changed_folders(output: str, planned: Sequence[Shard]) -> None:
    """Raises SourceError where a folder of images is not what its whole shards were made of.

    An image that comes or goes moves its neighbours to other shards, those that are whole included.
    """
    restored = resume.restored_shards(output)
    whole = [shard for shard in planned if shard.kind == "images" and shard.name in restored]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        stored = pool.map(lambda shard: resume.keys_of(output, shard.name), whole)
    changed = [shard for shard, keys in zip(whole, stored, strict=True) if keys != sources.keys(shard)]
    if changed:
        raise SourceError(
            f"input: images were added to or removed from {changed[0].url} since {len(changed)} shards, "
            f"the first {changed[0].name}, were restored; undo that, choose another output, or cut Parquet "
            "shards first"
        )


def write_run_json(config: JobConfig) -> None:
    """Writes the whole configuration, its fingerprint and the versions that run it."""
    content = {
        "config": config.model_dump(mode="json"),
        "settings": config.settings,
        "fingerprint": config.fingerprint,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS_OF},
    }
    storage.write_text(storage.join(config.output, RUN), json.dumps(content, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
