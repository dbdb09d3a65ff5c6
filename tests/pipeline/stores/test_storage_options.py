"""Options of stores reach fsspec; a secret stands in no file, message or fingerprint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import messages
from pipeline.config import ConfigError, load_config
from pipeline.stores import storage_options
from tests.pipeline.small_jobs import settings

VALUE = "a-value-nobody-may-see-81"


@pytest.fixture(autouse=True)
def restored_configuration() -> Iterator[None]:
    yield
    storage_options.configure({})


def test_the_stores_have_their_defaults_wherever_one_is_opened() -> None:
    """`p2l compare` reads outputs by their addresses alone."""
    code = "import pipeline.stores.storage, fsspec; print(fsspec.config.conf['s3']['config_kwargs'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'total_max_attempts': 4" in found.stdout


def job(tmp_path: Path, **storage: Any) -> Any:
    return load_config(settings(tmp_path, tmp_path / "output", storage=storage))


@pytest.mark.parametrize(
    "options",
    [
        {"s3": {"secret": VALUE}},
        {"s3": {"key": VALUE}},
        {"s3": {"client_kwargs": {"aws_session_token": VALUE}}},
        {"gs": {"token": {"private_key": VALUE, "type": "service_account"}}},
        {"abfs": {"connection_string": VALUE}},
        {"abfs": {"sas_token": "${" + VALUE + "}"}},
        {"sftp": {"password": VALUE}},
        {"sftp": {"password": 8100000000}},
        {"s3": {"endpoint_url": f"http://user:{VALUE}@127.0.0.1:9000"}},
        {"http": {"headers": {"Authorization": VALUE}}},
        {"s3": {"s3_additional_kwargs": {"note": "AKIAIOSFODNN7EXAMPLE"}}},
    ],
    ids=str,
)
def test_a_secret_in_a_job_is_refused_without_showing_it(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="looks like a secret, which no file may hold; allowed: env:NAME"
    ) as error:
        job(tmp_path, **options)
    assert not any(shown in str(error.value) for shown in (VALUE, "8100000000", "AKIAIOSFODNN7EXAMPLE"))


@pytest.mark.parametrize(
    "url", [f"sftp://me:{VALUE}@host/in", f"https://host/a.parquet?X-Amz-Signature={VALUE}"]
)
@pytest.mark.parametrize("name", ["input", "output", "model"])
def test_a_secret_in_a_url_is_refused_without_showing_it(name: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*: a URL with a password or signature") as error:
        load_config(settings(tmp_path, tmp_path / "output") | {name: url})
    assert VALUE not in str(error.value)


def test_what_is_no_secret_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2L_TEST_SECRET", VALUE)
    options = {
        "s3": {"endpoint_url": "http://127.0.0.1:9000", "anon": False, "secret": "env:P2L_TEST_SECRET"},
        "gs": {"token": "google_default", "requester_pays": True, "block_size": 2**20},
        "sftp": {"key_filename": "/home/me/.ssh/id", "port": 22},
    }
    assert job(tmp_path, **options).storage == options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"s4": {"anon": True}}, "storage.s4: is no protocol that fsspec knows"),
        ({"s3": "http://host"}, "storage: allowed are options by protocol"),
        (
            {"s3": {"secret": "env:P2L_NOT_SET"}},
            "storage.s3.secret: the environment variable P2L_NOT_SET is not",
        ),
    ],
    ids=str,
)
def test_a_mistake_is_named(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        job(tmp_path, **options)


def test_a_value_comes_from_the_process_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2L_TEST_SECRET", VALUE)
    storage_options.configure({"s3": {"secret": "env:P2L_TEST_SECRET", "config_kwargs": {"read_timeout": 3}}})
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    assert fs.secret == VALUE
    assert fs.config_kwargs["read_timeout"] == 3 and fs.config_kwargs["retries"]["mode"] == "standard"
    storage_options.configure({})
    assert fsspec.filesystem("s3", skip_instance_cache=True).secret is None, "options of a job before stay"
    monkeypatch.delenv("P2L_TEST_SECRET")
    with pytest.raises(OSError, match="P2L_TEST_SECRET is not set"):
        storage_options.configure({"s3": {"secret": "env:P2L_TEST_SECRET"}})


def test_a_secret_is_in_no_dump_and_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2L_TEST_SECRET", VALUE)
    found = job(tmp_path, s3={"secret": "env:P2L_TEST_SECRET"})
    storage_options.configure(found.storage)
    assert VALUE not in json.dumps(found.model_dump(mode="json")) + repr(found)
    assert messages.redact(f"signed with {VALUE}.") == "signed with ***."


def test_stores_do_not_change_results(tmp_path: Path) -> None:
    plain = load_config(settings(tmp_path, tmp_path / "output"))
    assert job(tmp_path, s3={"anon": True}).fingerprint == plain.fingerprint
