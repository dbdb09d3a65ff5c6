"""Options of stores by protocol, such as {"s3": {"endpoint_url": "http://host", "secret": "env:S3_SECRET"}}.

They are handed to fsspec's own configuration, on top of what fsspec read from its FSSPEC_* variables and
files, so that every file system of the process has them, the one that fetches weights included. A secret
stands in a job only as `env:NAME`; each process takes the value from its environment and writes it nowhere.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from pipeline import messages

Options = Mapping[str, Mapping[str, Any]]

S3_ATTEMPTS = 4  # of botocore at a request
DEFAULTS: Options = {
    "s3": {
        "use_listings_cache": False,  # other processes write, too
        "max_concurrency": 2,  # parts of 50 MiB that an upload holds in memory
        "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": S3_ATTEMPTS}},
    },
    # Left to itself gcsfs goes on without an identity, for as long as the process lives, where a metadata
    # server does not answer in its first seconds.
    "gs": {"use_listings_cache": False, "token": "google_default"},
}

_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SECRET_NAME = re.compile(
    r"key|secret|token|passw|passphrase|credential|connection_string|sas|auth|cookie", re.IGNORECASE
)
_PATH_NAME = re.compile(r"(file|filename|path)$", re.IGNORECASE)
_HOW_TO_LOG_IN = ("anon", "google_default", "cloud", "cache", "browser")  # gcsfs's words for `token`
_SECRET_VALUE = re.compile(
    r"-----BEGIN|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bya29\.|\bAccountKey="
    r"|://[^/\s@]*:[^/\s@]+@|[?&](X-Amz-Signature|X-Goog-Signature|sig|token|access_token)=",
    re.IGNORECASE,
)

_from_environment = copy.deepcopy(fsspec.config.conf)


def problems(options: Any) -> list[str]:
    """What is wrong with a job's `storage`, without showing a value that may be a secret."""
    if not isinstance(options, Mapping) or not all(isinstance(of, Mapping) for of in options.values()):
        return ["storage: allowed are options by protocol, such as {s3: {endpoint_url: http://host:9000}}"]
    return [problem for protocol, of in options.items() for problem in _problems_of(str(protocol), of)]


def unset(options: Options) -> list[str]:
    """The references to variables that this process's environment lacks."""
    return [
        _unset(path, reference[1])
        for protocol, of in options.items()
        for path, value, _ in _values(of, f"storage.{protocol}", False)
        if isinstance(value, str) and (reference := _REFERENCE.fullmatch(value))
        if reference[1] not in os.environ
    ]


def holds_secret(url: str) -> bool:
    """Whether a URL has a password or a signature in it."""
    return bool(_SECRET_VALUE.search(url))


def configure(options: Options) -> None:
    """Gives this process's file systems the options, in place of those of a job before.

    Raises OSError when a reference names a variable that this process's environment lacks.
    """
    resolved = {protocol: _resolved(of, f"storage.{protocol}") for protocol, of in options.items()}
    given = _merged(_from_environment, resolved)
    google = given.get("gs", {}) | given.get("gcs", {})
    endpoint = str(google.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST") or "default")
    if endpoint != "default" and not endpoint.startswith("https://"):  # an emulator, which asks for no token
        given = _merged({"gs": {"token": "anon"}}, given)
    conf = _merged(DEFAULTS, given)
    fsspec.config.conf.clear()
    fsspec.config.conf.update(conf)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints the errors that it raises


def _problems_of(protocol: str, options: Mapping[str, Any]) -> Iterator[str]:
    known = fsspec.available_protocols()
    if protocol not in known:
        from p2l_engine.mistakes import did_you_mean  # brings torch, which a task that reads can do without

        yield f"storage.{protocol}: is no protocol that fsspec knows{did_you_mean(protocol, known)}"
    for path, value, secret_name in _values(options, f"storage.{protocol}", False):
        reference = isinstance(value, str) and _REFERENCE.fullmatch(value)
        if not reference and _looks_secret(value, secret_name):
            yield (
                f"{path}: looks like a secret, which no file may hold; allowed: env:NAME, the name of an "
                "environment variable of the command and of every worker"
            )


def _values(value: Any, path: str, secret_name: bool) -> Iterator[tuple[str, Any, bool]]:
    """Path and value of every leaf, and whether its name or one above says that it is a secret."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            secret = bool(_SECRET_NAME.search(str(name))) and not _PATH_NAME.search(str(name))
            yield from _values(inner, f"{path}.{name}", secret_name or secret)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner, path, secret_name)
    else:
        yield path, value, secret_name


def _looks_secret(value: Any, secret_name: bool) -> bool:
    if secret_name and value is not None and not isinstance(value, bool):
        return value not in _HOW_TO_LOG_IN
    return isinstance(value, str) and holds_secret(value)


def _resolved(value: Any, path: str) -> Any:
    """The value with every reference replaced by what it names."""
    if isinstance(value, Mapping):
        return {name: _resolved(inner, f"{path}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(inner, path) for inner in value]
    if not isinstance(value, str) or not (reference := _REFERENCE.fullmatch(value)):
        return value
    if reference[1] not in os.environ:
        raise OSError(_unset(path, reference[1]))
    secret = os.environ[reference[1]]
    messages.hide(secret)
    return secret


def _unset(path: str, variable: str) -> str:
    return (
        f"{path}: the environment variable {variable} is not set; set it for the command and for every worker"
    )


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both, inner blocks as well; `high` wins."""
    merged = dict(low)
    for name, value in high.items():
        inner = merged.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


# Before gcsfs is imported: the class that the tests use on emulators is the one that a bucket gets. The other
# asks by gRPC, in each process, what kind of bucket it has.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
configure({})
