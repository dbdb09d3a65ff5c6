"""The job: one YAML file, every mistake in it named at once, and the fingerprint that guards a resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from p2l_engine import methods, operators
from p2l_engine.mistakes import Mistakes
from p2l_engine.priors.fetch import check_model_id
from p2l_engine.settings import Settings, explain
from pipeline import feasible, yaml_text
from pipeline.input.rows import Keys, Reading
from pipeline.prices import load_prices
from pipeline.stores import storage, storage_options

DEFAULT_OPERATOR = {"name": "super_resolution", "factor": 8}
DEFAULT_METHOD = {"name": "p2l", "preset": "imagenet"}
OWN_SIDE: Any = "auto"  # for `size`; resolved as a job is read
DRAWN = {"motion_blur"}  # operators that draw their kernel, and so never fit a measurement made elsewhere
# What is left out of the fingerprint while it is the default, for runs begun before it was a setting.
SETTINGS_OF_INPUT = ("columns", "keys")
SETTINGS_OF_RESULT = ("mode", "model", "size", "fit", "operator", "noise", "prompt", "method", "seed")


class ConfigError(Mistakes):
    """A configuration that cannot be run."""


class ModelConfig(Settings):
    """The model, and what it computes in.

    dtype auto: bfloat16 on GPUs of compute capability 8.0 (A100) and later, where 16-bit products have the
    highest rate and tensors half the bytes; float32 on older GPUs and on the CPU. A bfloat16 has 8 bits: a
    change of a text embedding's number by less than 1/256 of it does not reach the network, so that prompt
    tuning with a learning rate of 1e-5 is better served by tf32 or float32. tf32: float32 whose products and
    convolutions take their factors with 10 bits on GPUs that can; float32: with all 23.
    """

    id: str = Field("CompVis/stable-diffusion-v1-4", description="tiny, a hub id, a folder or a URL")
    revision: str | None = Field(None, description="a hub revision, or null")
    dtype: Literal["auto", "float32", "tf32", "float64", "float16", "bfloat16"] = Field(
        "auto", description="auto, float32, tf32, float64, float16, bfloat16"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda)$", description="auto, cpu, cuda")

    @field_validator("id")
    @classmethod
    def _known(cls, value: str) -> str:
        _refuse_secret("model", value)
        _raise(check_model_id(value))
        return value

    @model_validator(mode="after")
    def _has_revisions(self) -> ModelConfig:
        _raise(check_model_id(self.id, self.revision))
        return self


class ColumnsConfig(Settings):
    """The Parquet column of each role."""

    key: str = Field("key", min_length=1, description="a column's name")
    image: str = Field("image", min_length=1, description="a column's name")
    mask: str = Field("mask", min_length=1, description="a column's name")
    kernel: str = Field("kernel", min_length=1, description="a column's name")
    prompt: str = Field("prompt", min_length=1, description="a column's name")


class JobConfig(Settings):
    """The job file. A field's description says what is allowed."""

    model_config = ConfigDict(validate_default=True)

    input: tuple[str, ...] = Field(min_length=1, description="a URL, a glob, a folder, or a list of them")
    output: str = Field(min_length=1, description="a folder or its URL")
    columns: ColumnsConfig = Field(
        default_factory=lambda: ColumnsConfig.model_validate({}),
        description="the Parquet column of each role, such as {image: jpg, prompt: caption}",
    )
    keys: Keys = Field(
        "key", description="key, row (shard's name and row's number), shard/key (shard's name and its key)"
    )
    storage: dict[str, dict[str, Any]] = Field({}, description="options by protocol; secrets as env:NAME")
    mode: Literal["measure", "restore"] = Field("measure", description="measure, restore")
    model: ModelConfig = Field(
        default_factory=lambda: ModelConfig.model_validate({}),
        description="an id, or {id, revision, dtype, device}",
    )
    size: tuple[int, int] | None = Field(
        OWN_SIDE, description="auto (the model's own side), a side in pixels, [height, width], or null"
    )
    fit: Literal["crop", "resize", "pad"] = Field("crop", description="crop, resize, pad")
    operator: dict[str, Any] = Field(DEFAULT_OPERATOR, description="a block with a name and its settings")
    noise: float = Field(0.01, ge=0, description="a standard deviation of at least 0, for pixels in [-1, 1]")
    prompt: str = Field("", description="text")
    method: dict[str, Any] = Field(DEFAULT_METHOD, description="a block with a name and its settings")
    seed: int = Field(0, description="a whole number")
    workers: Literal["auto"] | int | tuple[int, int] = Field(
        "auto", description="auto, n, or [min, max], from 1"
    )
    batch_size: Literal["auto"] | int = Field("auto", description="auto, or a whole number from 1")
    commit_every: Literal["auto"] | int = Field("auto", description="auto, or a whole number from 1")
    price: float | None = Field(
        None,
        ge=0,
        description="USD a worker-hour, a machine type of prices.yaml with or without -spot, or null",
    )
    budget: float | None = Field(None, gt=0, description="USD at which the run stops, with `price`, or null")
    no_progress_seconds: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="auto, or above 0: a run without progress for so long gives up"
    )
    error_share: float | None = Field(
        0.2, gt=0, le=1, description="a share of the rows, above 0 to 1, that may fail alike, or null"
    )
    keep: tuple[Literal["measurement", "reference", "prompt_embedding"], ...] = Field(
        ("measurement", "reference"), description="a list of measurement, reference, prompt_embedding"
    )

    @field_validator("input", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return tuple(storage.absolute(url) for url in ([value] if isinstance(value, str) else value or []))

    @field_validator("output")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return storage.absolute(value).rstrip("/")

    @field_validator("input", "output")
    @classmethod
    def _without_secrets(cls, value: Any, info: Any) -> Any:
        for url in [value] if isinstance(value, str) else value:
            _refuse_secret(info.field_name, url)
        return value

    @field_validator("storage", mode="before")
    @classmethod
    def _known_storage(cls, value: Any) -> Any:
        _raise(storage_options.problems({} if value is None else value))
        return value or {}

    @field_validator("model", mode="before")
    @classmethod
    def _id_alone(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any, info: Any) -> Any:
        if value == OWN_SIDE:
            if "model" not in info.data:  # wrong itself, and said so
                return None
            value = feasible.own_side(info.data["model"], info.data.get("storage", {}))
        sides = [value, value] if isinstance(value, int) else value
        if sides is not None and not (
            isinstance(sides, list | tuple) and len(sides) == 2 and all(map(_count, sides))
        ):
            raise ValueError
        return sides

    @field_validator("seed", "batch_size", "commit_every", "workers", mode="before")
    @classmethod
    def _whole(cls, value: Any, info: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) else [value]
        least = None if info.field_name == "seed" else 1
        if value != "auto" and not (
            all(_count(number, least) for number in numbers) and list(numbers) == sorted(numbers)
        ):
            raise ValueError
        return value

    @field_validator("price", mode="before")
    @classmethod
    def _of_machine(cls, value: Any) -> Any:
        """The price that the shipped file has for a machine type, so that run.json keeps it."""
        return load_prices().of_a_worker().get(value, value) if isinstance(value, str) else value

    @field_validator("operator", "method", mode="before")
    @classmethod
    def _with_name(cls, value: Any, info: Any) -> Any:
        """A block without a name is about the default one; a name alone is a block."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "name" not in value:
            default = DEFAULT_OPERATOR if info.field_name == "operator" else DEFAULT_METHOD
            return default | value
        return value

    @field_validator("operator")
    @classmethod
    def _known_operator(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        settings = {key: setting for key, setting in value.items() if key != "name"}
        _raise(operators.validate(value["name"], settings), "operator.")
        resolved = {"name": value["name"], **operators.resolve(value["name"], settings)}
        if info.data.get("mode") == "measure" and info.data.get("size"):
            _raise(feasible.operator_problems(resolved, info.data["size"]), "operator.")
        return resolved

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        # Of an operator that is wrong itself, which is said already, no preset can be looked up.
        operator = info.data["operator"]["name"] if "operator" in info.data else None
        block = value if operator else {**value, "preset": None}
        _raise(methods.validate(block, operator), "method.")
        method = methods.from_block(block, operator)
        if method.name == "adjoint":
            return {"name": "adjoint"}
        if "model" in info.data and (operator or "steps" in value):
            stores = info.data.get("storage", {})
            _raise(feasible.steps_problems(info.data["model"], method.steps, stores), "method.")
        return method.model_dump(mode="json")

    @model_validator(mode="after")
    def _measured_elsewhere(self) -> JobConfig:
        drawn = self.operator["name"] in DRAWN or self.operator.get("mask", "given") != "given"
        if self.mode == "restore" and drawn:
            raise Mistakes(
                [
                    f"operator: got {self.operator['name']} with drawn masks or kernels in mode restore; "
                    "allowed: what made the measurements: inpainting {mask: given} with a mask column, "
                    "blur with a kernel column, or an operator without either"
                ]
            )
        return self

    @model_validator(mode="after")
    def _budget_has_price(self) -> JobConfig:
        if self.budget is not None and self.price is None:
            raise Mistakes(
                [
                    f"budget: got {self.budget:g} without a price; allowed: with `price`, in USD a "
                    "worker-hour or as a machine type of prices.yaml"
                ]
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that change results, flat: {"method.steps": 1000, ...}."""
        values = self.model_dump(mode="json", include=set(SETTINGS_OF_RESULT))
        values["model"].pop("device")
        given = self.model_dump(mode="json", include=set(SETTINGS_OF_INPUT), exclude_defaults=True)
        return _flat(values | given)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a hash over `settings`; runs of one fingerprint give the same images.

        To the bit on CPUs of one type with the same versions; on GPUs to within rounding.
        """
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def reading(self) -> Reading:
        """How the input's shards are read."""
        return Reading(self.keys, **dict(self.columns))

    @property
    def operator_settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.operator.items() if key != "name"}


def load_config(source: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobConfig:
    """A job file (path or URL) or its content, with overrides such as "method.steps=50" on top.

    An override's value is read as YAML. Raises ConfigError with all mistakes at once; loads no weights.
    """
    raw = _read(source) if isinstance(source, str) else json.loads(json.dumps(source))
    problems = [problem for override in overrides if (problem := _apply(raw, override))]
    try:
        config = JobConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([*problems, *explain(error, JobConfig)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def changed_settings(stored: Mapping[str, Any], config: JobConfig) -> list[str]:
    """What differs between a run's stored `settings` and these: "method.steps: 1000 -> 50"."""
    now = config.settings
    absent = "(absent)"
    return [
        f"{name}: {_show(stored.get(name, absent))} -> {_show(now.get(name, absent))}"
        for name in sorted({*stored, *now})
        if stored.get(name, absent) != now.get(name, absent)
    ]


def _read(source: str) -> dict[str, Any]:
    try:
        raw = yaml_text.read(storage.read_text(source))
    except FileNotFoundError:
        raise ConfigError([f"{source}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{source}: cannot be read as YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            [f"{source}: got {type(raw).__name__}; allowed: settings, one `name: value` a line"]
        )
    return raw


def _apply(raw: dict[str, Any], override: str) -> str | None:
    """Sets one `a.b=c` in place; the mistake in it, if there is one."""
    path, equals, text = override.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        return f"override {override!r}: allowed is setting=value, such as method.steps=50"
    try:
        value = yaml_text.read(text)
    except yaml.YAMLError as error:
        return f"override {override!r}: the value is not YAML: {error}"
    block = raw
    for name in names[:-1]:
        inner = block.get(name)
        if isinstance(inner, str) and name in ("model", "operator", "method"):
            inner = {"id" if name == "model" else "name": inner}
        block[name] = inner if isinstance(inner, dict) else {}
        block = block[name]
    block[names[-1]] = value
    return None


def _raise(problems: Sequence[str], within: str = "") -> None:
    if problems:
        raise Mistakes([within + problem for problem in problems])


def _refuse_secret(name: str, url: str) -> None:
    if storage_options.holds_secret(url):
        raise Mistakes(
            [
                f"{name}: a URL with a password or signature in it; allowed: the URL without it, and the "
                "secret in `storage` as env:NAME"
            ]
        )


def _count(value: Any, least: int | None = 1) -> bool:
    return type(value) is int and (least is None or value >= least)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(value: Any) -> str:
    return value if value == "(absent)" else json.dumps(value)
