"""From a model's id to a local folder of the files that it uses.

An id is one of
- `tiny`, `tiny-pixel`: the small models inside this package, over latents and over pixels;
- `tiny-captioner`, where a captioner is wanted: that inside this package;
- a folder on this machine, in diffusers' layout, or in transformers' where a captioner is wanted;
- an fsspec URL of a folder (gs://, s3://, file://, memory://), copied once into the cache folder;
- `owner/name`: a repository of the Hugging Face hub, kept in the hub's own cache.
"""

import hashlib
import importlib.resources
import importlib.util
import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import platformdirs
from filelock import FileLock
from fsspec.registry import known_implementations

from p2l_engine.mistakes import Mistakes, nearest
from p2l_engine.priors import layout

logger = logging.getLogger(__name__)

CAPTIONER = "tiny-captioner"
SHIPPED = {  # inside this package
    "tiny": ("tiny", "weights"),
    "tiny-pixel": ("tiny", "pixel", "weights"),
    CAPTIONER: ("tiny", "weights", "captioner"),
}
TRAINING = "training.json"  # beside the weights of shipped models
ALLOWED = (
    "allowed are 'tiny', 'tiny-pixel', a hub id (owner/name), a folder in diffusers' layout, "
    "or an fsspec URL of one (gs://bucket/folder)"
)
ALLOWED_CAPTIONER = (
    "allowed are 'tiny-captioner', a hub id (owner/name) of a transformers image-to-text model, a folder of "
    "one, or an fsspec URL of one (gs://bucket/folder)"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_model_id(
    model_id: str, revision: str | None = None, wanted: layout.Layout | None = None
) -> list[str]:
    """What is wrong with a model's id, as far as this machine can tell offline; empty when nothing is.

    For a folder and for shipped models the files and configurations are looked at too. Reads no weights.
    wanted: the layout that it has to have, here and below; None for that of any prior.
    """
    kind = _kind(model_id)
    problems = []
    if model_id in SHIPPED and (model_id == CAPTIONER) is not (wanted is layout.CAPTIONER):
        problems = [f"model: got {model_id!r}, {_allowed(wanted)}"]
    elif kind == "file":
        problems = [_single_file(model_id, wanted)]
    elif kind == "unknown":
        problems = [f"model: got {model_id!r}, {_allowed(wanted)}{_hint(model_id)}"]
    elif kind == "url":
        problems = check_scheme(model_id)
    elif kind == "local":
        problems = layout.check_folder(local_folder(model_id), wanted)
    if revision is not None and kind in ("local", "url"):
        problems.append(f"revision: got {revision!r}, allowed only with a hub id; {model_id!r} has none")
    return problems


def resolve(model_id: str, revision: str | None = None, wanted: layout.Layout | None = None) -> Path:
    """The local folder of a model, fetched first where it has to be.

    Raises ValueError when the id is none of the kinds above, or what it names is no model of the layout in
    safetensors; OSError when it cannot be read, its kind ConnectionError when a fetch was cut short, or the
    hub is out of reach and its cache lacks the model.
    """
    problems = check_model_id(model_id, revision, wanted)
    if problems:
        raise Mistakes(problems)
    kind = _kind(model_id)
    if kind == "local":
        return local_folder(model_id)
    folder = _from_url(model_id, wanted) if kind == "url" else _from_hub(model_id, revision, wanted)
    problems = layout.check_folder(folder, wanted)
    if problems:
        raise ValueError(f"model {model_id!r}: " + "; ".join(problems))
    return folder


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name and is nothing on this machine."""
    return _kind(name) == "hub"


def is_local(model_id: str) -> bool:
    """Whether it is shipped or a folder on this machine."""
    return _kind(model_id) == "local"


@cache
def training_of(model_id: str) -> int | None:
    """How many steps a shipped model was trained for, which tells its weights from others; None elsewhere."""
    return trained_steps(local_folder(model_id)) if model_id in SHIPPED else None


def trained_steps(folder: Path) -> int:
    """How many steps the weights in ``folder`` were trained for, as stands beside them."""
    steps: int = json.loads((folder / TRAINING).read_text())["step"]
    return steps


def read_configs(
    model_id: str, revision: str | None = None, wanted: layout.Layout | None = None
) -> tuple[layout.Layout, dict[str, str]]:
    """A model's layout and the text of its `configs` and `scheduler`, as far as they are there.

    Of a model that is not here, these small files alone are fetched. Raises ValueError where there is no such
    model or it lacks one of `configs`; OSError when one cannot be fetched.
    """
    problems = check_model_id(model_id, revision, wanted)
    if problems:
        raise Mistakes(problems)
    kind = _kind(model_id)
    if kind == "url":
        names: Collection[str] = _listed(model_id)[1]
    else:
        local = kind == "local"
        folder = local_folder(model_id) if local else snapshot(model_id, revision, _configs(wanted))
        names = layout.listing(folder)
    found = layout.layout_of(names, wanted)
    if missing := [name for name in found.configs if name not in names]:
        raise ValueError(f"model {model_id!r}: {missing[0]} is missing; it is not in {found.vendor}' layout")
    return found, {
        name: _read_text(model_id, name) if kind == "url" else (folder / name).read_text()
        for name in dict.fromkeys((*found.configs, *found.scheduler))
        if name in names
    }


def _layouts(wanted: layout.Layout | None) -> Sequence[layout.Layout]:
    return layout.LAYOUTS if wanted is None else (wanted,)


def _configs(wanted: layout.Layout | None) -> set[str]:
    return {name for of in _layouts(wanted) for name in (*of.configs, *of.scheduler)}


def _allowed(wanted: layout.Layout | None) -> str:
    return ALLOWED_CAPTIONER if wanted is layout.CAPTIONER else ALLOWED


def _read_text(url: str, name: str) -> str:
    try:
        with fsspec.open(f"{url.rstrip('/')}/{name}", "rt", encoding="utf-8") as file:
            return str(file.read())
    except Exception as error:  # each store has its own kinds
        raise OSError(f"model {url!r}: {name} cannot be read: {error}") from error


def cache_folder() -> Path:
    """Where copies of remote folders are kept: $P2L_CACHE, else the platform's user cache."""
    return Path(os.environ.get("P2L_CACHE") or platformdirs.user_cache_dir("p2l"))


def _kind(model_id: str) -> str:
    path = Path(model_id).expanduser()
    if model_id in SHIPPED or (model_id and path.is_dir()):
        return "local"
    if model_id.endswith(layout.CHECKPOINT) or path.is_file():
        return "file"
    if "://" in model_id:
        return "url"
    return "hub" if _HUB_ID.fullmatch(model_id) else "unknown"


def local_folder(model_id: str) -> Path:
    """Of a shipped model inside this package, or as it is given."""
    if model_id in SHIPPED:
        return Path(str(importlib.resources.files("p2l_engine").joinpath(*SHIPPED[model_id])))
    return Path(model_id).expanduser()


def _hint(model_id: str) -> str:
    if near := nearest(model_id, SHIPPED):
        return f"; did you mean {near!r}?"
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        return "; there is no such folder on this machine"
    return ""


def _single_file(model_id: str, wanted: layout.Layout | None) -> str:
    if "://" not in model_id and not Path(model_id).expanduser().is_file():
        return f"model: got {model_id!r}, there is no such file on this machine; {_allowed(wanted)}"
    convert = "" if wanted else f"; {layout.CONVERT_FILE.format(file=model_id)}"
    return f"model: got {model_id!r}, a single file; {_allowed(wanted)}{convert}"


def check_scheme(url: str, what: str = "model") -> list[str]:
    """Why a URL cannot be read by fsspec here. what: the setting that it is of."""
    scheme = url.split("://")[0].split("::")[0]
    known = {*fsspec.available_protocols(), *fsspec.registry}
    if scheme not in known:
        near = nearest(scheme, known)
        hint = f"; did you mean {near}://?" if near else ""
        return [f"{what}: got {url!r}, {scheme}:// is no protocol that fsspec knows{hint}"]
    implementation = known_implementations.get(scheme)
    if implementation and importlib.util.find_spec(implementation["class"].split(".")[0]) is None:
        return [f"{what}: got {url!r}, {scheme}:// needs a package: {implementation['err']}"]
    return []


def _from_hub(repository: str, revision: str | None, wanted: layout.Layout | None) -> Path:
    folder = snapshot(repository, revision, {name for of in _layouts(wanted) for name in of.small})
    lacking = list(layout.layout_of(layout.listing(folder), wanted).weights.values())
    for precision in (layout.FULL, layout.HALF):
        names = [layout.weight_names(stem, precision) for stem in lacking]
        folder = snapshot(repository, revision, [name for *first, _ in names for name in first])
        there = layout.listing(folder)
        shards = [shards for single, index, shards in names if index in there and single not in there]
        if shards:
            snapshot(repository, revision, shards)
        lacking = [stem for stem in lacking if not layout.weights_of(there, stem, precision)]
        if not lacking:
            break
    return folder


def snapshot(repository: str, revision: str | None, names: Collection[str], what: str = "model") -> Path:
    """The hub's local folder of a repository, with those files of it that there are. what: the setting."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))
    except RevisionNotFoundError as error:
        raise ValueError(f"{what}: {repository!r} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{what}: got {repository!r}, neither a folder on this machine nor a hub repository that may be "
            "read; check the name, or log in (hf auth login) if it is private or gated"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{what}: {repository!r} is not in the hub's cache and the hub is out of reach; connect once, or "
            "give a folder or a bucket's URL that holds it"
        ) from error


def beside_tiny(part: str) -> Path:
    """The folder of a network that is shipped with the small model, beside its own parts."""
    return local_folder("tiny") / part


def component(name: str, files: Sequence[str], allowed: str, shipped: str) -> Path:
    """The local folder of a network beside a model, with those files; a hub id's are fetched first.

    shipped: the part of the small model's folder that the name `tiny` stands for. Raises ValueError where
    there is none, or it lacks one of them; ConnectionError as `snapshot`.
    """
    folder = beside_tiny(shipped) if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        if not is_hub_id(name):
            raise ValueError(f"got {name!r}; allowed: {allowed}")
        folder = snapshot(name, None, files)
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(
            f"got {name!r}, which lacks {missing[0]}; allowed: {' and '.join(files)} in a folder"
        )
    return folder


def component_config(name: str, file: str, allowed: str, shipped: str) -> Any:
    """The content of a component's configuration. Raises as `component`; ValueError where it is no JSON."""
    try:
        return json.loads((component(name, [file], allowed, shipped) / file).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"got {name!r}, whose {file} is not JSON ({error})") from None


def _listed(url: str) -> tuple[fsspec.AbstractFileSystem, dict[str, Mapping[str, Any]]]:
    """The store of a remote folder, and what is known of each file by its path in the folder."""
    filesystem, root = fsspec.core.url_to_fs(url)
    try:
        listed = filesystem.find(root, detail=True)
    except Exception as error:  # each store has its own kinds
        raise OSError(f"model {url!r}: cannot be listed: {error}") from error
    return filesystem, {path.removeprefix(root).lstrip("/"): info for path, info in listed.items()}


def _from_url(url: str, wanted: layout.Layout | None) -> Path:
    filesystem, found = _listed(url)
    missing = layout.missing_files(found, wanted)
    if missing:
        raise ValueError(f"model {url!r}: " + "; ".join(missing))
    return _copied(url, filesystem, {name: found[name] for name in layout.used_files(found, wanted)})


def copied_file(url: str) -> Path:
    """The local copy of a remote file, in the cache folder. Raises OSError where it cannot be fetched."""
    filesystem, path = fsspec.core.url_to_fs(url)
    name = path.rpartition("/")[2]
    try:
        info = filesystem.info(path)
    except Exception as error:  # each store has its own kinds
        raise OSError(f"{url!r} cannot be read: {error}") from error
    return _copied(url, filesystem, {name: info}) / name


def _copied(url: str, filesystem: fsspec.AbstractFileSystem, files: Mapping[str, Mapping[str, Any]]) -> Path:
    """The local folder of those files of a remote one, copied once."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{Path(url.rstrip('/')).name}-{_fingerprint(url, files)}"
    complete, partial = cache / name, cache / f"{name}.partial"
    with FileLock(cache / f"{name}.lock"):
        if complete.is_dir():
            return complete
        logger.info("fetching %s into %s", url, complete)
        for relative, info in files.items():
            _fetch(filesystem, url, relative, info, partial / relative)
        partial.replace(complete)  # a whole copy appears under its name in one step
    return complete


def _fetch(
    filesystem: fsspec.AbstractFileSystem, url: str, name: str, info: Mapping[str, Any], target: Path
) -> None:
    """One file, which appears under its name only whole; kept for the next try if another file fails."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = target.with_name(target.name + ".begun")
    try:
        filesystem.get_file(info["name"], str(begun))
    except Exception as error:  # each store has its own kinds
        raise OSError(f"model {url!r}: {name} cannot be fetched: {error}") from error
    if begun.stat().st_size != info["size"]:
        raise ConnectionError(
            f"model {url!r}: {name} came as {begun.stat().st_size} bytes of {info['size']}; try again"
        )
    begun.replace(target)


def _fingerprint(url: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Names one version of a remote folder, so that weights written anew under its URL are fetched anew."""
    marks = ("ETag", "etag", "generation", "mtime", "created")
    versions = [
        (name, info["size"], next((str(info[mark]) for mark in marks if info.get(mark)), ""))
        for name, info in sorted(files.items())
    ]
    return hashlib.sha256(json.dumps([url, versions]).encode()).hexdigest()[:16]
