"""What an output was begun with: run.json, and the refusal to go on with anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pipeline.config import ConfigError, JobConfig, changed_settings
from pipeline.input import files, sources
from pipeline.input.rows import SourceError, replaced
from pipeline.input.sources import Shard
from pipeline.output import rows, versions
from pipeline.output.folder import RUN, OutputFolder, json_text
from pipeline.stores import exclusive, storage

FILES_AT_ONCE = 16  # an object store is slow to answer one request, and quick with many


def _begun(output: OutputFolder) -> dict[str, Any]:
    """What run.json holds; {} where there is none."""
    found = output.json(RUN)
    settings = found.get("settings")
    if found and not ("versions" in found and isinstance(settings, dict) and "model.dtype" in settings):
        raise output.damaged(RUN, "no settings in it")
    return found


def as_begun(config: JobConfig) -> JobConfig:
    """The configuration, its dtype that of the run's first start where it is `auto`."""
    begun_with = _begun(OutputFolder(config.output))
    if not begun_with or config.model.dtype != "auto":
        return config
    dtype = begun_with["settings"]["model.dtype"]
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


def settled_dtype(url: str, dtype: str, device: str) -> str:
    """What dtype `auto` is for all of a run: that of the first worker which asked, as run.json then says.

    url: of the output. dtype, device: what it is on this worker's device, and that device's name. Without a
    run.json it is the worker's own.
    """
    output = OutputFolder(url)
    while (stored := exclusive.read(output.at(RUN))) is not None:
        begun = json.loads(stored.text)
        if "auto" in begun:
            return str(begun["auto"]["dtype"])
        with suppress(exclusive.Changed):  # by a worker that was quicker
            auto = {"dtype": dtype, "device": device}
            exclusive.write(output.at(RUN), json_text(begun | {"auto": auto}), stored)
            break
    return dtype


def refuse_other_settings(config: JobConfig) -> None:
    """Raises ConfigError naming each results-changing setting that differs from the run's own."""
    output = OutputFolder(config.output)
    begun_with = _begun(output)
    if begun_with:
        settings = begun_with["settings"]
        if storage.absolute(str(settings.get("model.id"))) == config.model.id:  # begun with a relative path
            settings["model.id"] = config.model.id
        changes = changed_settings(settings, config) + _changed_columns(begun_with, config)
        if changes:
            name, _, values = changes[0].partition(": ")
            back = f"--set {name}={values.partition(' -> ')[0]}"
            begun = f"output: {config.output} was begun with other settings"
            raise ConfigError([f"{begun}; choose another, or set back ({back}):", *changes])
    elif output.restored() or output.unfinished():
        raise ConfigError(
            [f"output: {config.output} has restored rows but no run.json; choose another folder"]
        )


def refuse_output_in_input(output: OutputFolder, inputs: Sequence[str]) -> None:
    """Raises ConfigError where what the run writes would be read as its input by the next start."""
    try:
        files.refuse_inside(output.url, inputs)
    except SourceError as error:
        raise ConfigError(error.args) from error


def _changed_columns(begun_with: Mapping[str, Any], config: JobConfig) -> list[str]:
    """What differs in the columns that are kept, which all rows of an output have alike."""
    before = begun_with.get("config", {}).get("keep")
    if before is None or set(before) == set(config.keep):
        return []
    return [f"keep: {json.dumps(before)} -> {json.dumps(list(config.keep))}"]


def refuse_changed_input(config: JobConfig, planned: Sequence[Shard]) -> None:
    """Raises SourceError where the input is not what its whole shards, which are known by name, were made of.

    Of a folder of images that is looked at always: one that comes or goes moves its neighbours to other
    shards, those that are whole included. Of files, where `input` is another than that of the last start.
    """
    output = OutputFolder(config.output)
    restored, last = set(output.restored()), _begun(output).get("config", {}).get("input")
    moved = last is not None and list(last) != list(config.input)
    whole = [s for s in planned if s.name in restored and (s.kind == "images" or moved)]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        stored = pool.map(lambda shard: rows.keys_of(output, shard.name), whole)
        found = pool.map(sources.keys, whole)
        changed = [s for s, keys, now in zip(whole, stored, found, strict=True) if keys != now]
    if changed and changed[0].kind != "images":
        raise replaced(changed[0].url, changed[0].name)
    if changed:
        raise SourceError(
            f"input: images were added to or removed from {changed[0].url} since {len(changed)} shards, "
            f"the first {changed[0].name}, were restored, or an earlier version read fewer; undo that, "
            "choose another output, or cut Parquet shards first"
        )


def begin(config: JobConfig, device: str) -> list[str]:
    """Writes run.json: the whole configuration, its fingerprint, and each start's device and versions.

    Returns sentences on what differs from the start before and can change results, and on what dtype `auto`
    is by an earlier start.
    """
    output = OutputFolder(config.output)
    stored = _begun(output)
    starts = stored.get("starts") or ([{"versions": stored["versions"]}] if stored else [])
    now = versions.entry(device)
    content = {
        "config": config.model_dump(mode="json"),
        "settings": config.settings,
        "fingerprint": config.fingerprint,
        "versions": now["versions"],
        "starts": [*starts, now],
    }
    auto = stored.get("auto")
    output.write_json(RUN, content | ({"auto": auto} if auto else {}))
    said = [
        f"since the start before: {change}; rows from here on can differ from those before"
        for change in (versions.changes(starts[-1], now) if starts else [])
    ]
    if auto and (device != "cpu" or auto["dtype"] != "float32"):
        said.append(
            f"model.dtype auto: {auto['dtype']}, which the run was begun with on {auto['device']}; choose "
            "another output for another dtype"
        )
    return said
