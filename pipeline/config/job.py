"""The job: its settings, their defaults and what is allowed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from p2l_engine import methods, operators
from p2l_engine.mistakes import Mistakes, refuse
from p2l_engine.operators import OperatorSettings
from p2l_engine.settings import Grown, Settings
from p2l_engine.solvers import Sampler, Solver
from pipeline.config import fingerprint
from pipeline.config.caption import CaptionConfig
from pipeline.input.rows import Keys, Reading
from pipeline.prices import load_prices
from pipeline.stores import storage, storage_options

DEFAULT_METHOD: Any = {"name": "p2l", "preset": "imagenet"}
OWN_SIDE: Literal["auto"] = "auto"  # for `size`


class ModelConfig(Grown):
    """The model, with an adapter fused into it, and what it computes in.

    dtype auto: bfloat16 on GPUs of compute capability 8.0 (A100) and later, where 16-bit products have the
    highest rate and tensors half the bytes; float32 on older GPUs and on the CPU. float16: its gradients are
    ten times as exact, but an activation above 65504 makes an image an error. In both half types texts, state
    and residuals are float32. tf32: float32 whose products and convolutions take their factors with 10 bits
    on GPUs that can; float32: with all 23.

    compile: the U-Net's transformer blocks, by torch: each actor's first steps take longer, for each size of
    micro-batch, and the others less.
    """

    later: ClassVar[frozenset[str]] = frozenset({"lora", "compile"})
    id: str = Field("CompVis/stable-diffusion-v1-4", description="tiny, a hub id, a folder or a URL")
    revision: str | None = Field(None, description="a hub revision, or null")
    lora: str | None = Field(
        None,
        min_length=1,
        description="tiny, a .safetensors file, a folder of one, a URL of either, a hub id, or null",
    )
    dtype: Literal["auto", "float32", "tf32", "float64", "float16", "bfloat16"] = Field(
        "auto", description="auto, float32, tf32, float64, float16, bfloat16"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda)$", description="auto, cpu, cuda")
    compile: bool = Field(False, description="true or false")

    @field_validator("id", "lora")
    @classmethod
    def _without_secrets(cls, value: str | None, info: ValidationInfo) -> str | None:
        _refuse_secret("model" if info.field_name == "id" else "model.lora", value or "")
        return value


class ColumnsConfig(Settings):
    """The Parquet column of each role."""

    key: str = Field("key", min_length=1, description="a column's name")
    image: str = Field("image", min_length=1, description="a column's name")
    mask: str = Field("mask", min_length=1, description="a column's name")
    kernel: str = Field("kernel", min_length=1, description="a column's name")
    prompt: str = Field("prompt", min_length=1, description="a column's name")


class JobConfig(Settings):
    """The job, as its file or run.json has it.

    Reading it looks at nothing but what is written there, and the prices of machine types that this package
    ships. Whether this machine finds what a job names is a matter of `pipeline.config.environment`.
    """

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
        description="an id, or {id, revision, lora, dtype, device, compile}",
    )
    size: tuple[int, int] | Literal["auto"] | None = Field(
        OWN_SIDE, description="auto (the model's own side), a side in pixels, [height, width], or null"
    )
    fit: Literal["crop", "resize", "pad"] = Field("crop", description="crop, resize, pad")
    operator: SerializeAsAny[OperatorSettings] = Field(
        default_factory=lambda: operators.from_block({}), description="a block with a name and its settings"
    )
    noise: float = Field(0.01, ge=0, description="a standard deviation of at least 0, for pixels in [-1, 1]")
    prompt: str = Field("", description="text")
    prompt_embeddings: str | None = Field(
        None,
        min_length=1,
        description="output of a run that kept prompt_embedding, a .npy file (tokens, width), or null",
    )
    caption: CaptionConfig | None = Field(
        None, description="a block {model, revision, from, template}, or null"
    )
    method: Solver = Field(DEFAULT_METHOD, description="a block with a name and its settings")
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
    keep: tuple[Literal["measurement", "reference", "deviation", "prompt_embedding"], ...] = Field(
        ("measurement", "reference"),
        description="a list of measurement, reference, deviation (of samples), prompt_embedding",
    )

    @field_validator("input", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        urls = [value] if isinstance(value, str) else value or []
        if not isinstance(urls, list | tuple) or not all(isinstance(url, str) and url for url in urls):
            raise ValueError
        return tuple(map(storage.absolute, urls))

    @field_validator("output", "prompt_embeddings")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return value and storage.absolute(value).rstrip("/")

    @field_validator("input", "output", "prompt_embeddings")
    @classmethod
    def _without_secrets(cls, value: Any, info: Any) -> Any:
        for url in [value] if isinstance(value, str) else value or ():
            _refuse_secret(info.field_name, url)
        return value

    @field_validator("caption")
    @classmethod
    def _caption_without_secrets(cls, value: CaptionConfig | None) -> CaptionConfig | None:
        for name, url in (value.urls if value else {}).items():
            _refuse_secret(name, url or "")
        return value

    @field_validator("storage", mode="before")
    @classmethod
    def _known_storage(cls, value: Any) -> Any:
        refuse(storage_options.problems({} if value is None else value))
        return value or {}

    @field_validator("model", mode="before")
    @classmethod
    def _id_alone(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        sides = [value, value] if isinstance(value, int) else value
        if sides not in (None, OWN_SIDE) and not (
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

    @field_validator("operator", mode="before")
    @classmethod
    def _named_operator(cls, value: Any) -> Any:
        if isinstance(value, OperatorSettings):
            return value
        try:
            return operators.from_block(_block(value))
        except Mistakes as mistakes:
            raise mistakes.within("operator") from None

    @field_validator("method", mode="before")
    @classmethod
    def _named_method(cls, value: Any, info: ValidationInfo) -> Any:
        """A block without a name is about the default one."""
        if isinstance(value, Solver):
            return value
        block = _block(value)
        block = block if "name" in block else DEFAULT_METHOD | block
        # Of an operator that is wrong itself, which is said already, no preset can be looked up.
        operator = info.data["operator"].column if "operator" in info.data else None
        try:
            return methods.from_block(block if operator else {**block, "preset": None}, operator)
        except Mistakes as mistakes:
            raise mistakes.within("method") from None

    @field_serializer("method")
    def _block_of_method(self, method: Solver) -> dict[str, Any]:
        return methods.to_block(method, self.operator.column)

    @model_validator(mode="after")
    def _measured_elsewhere(self) -> JobConfig:
        instead = self.operator.instead_of_drawn
        if self.mode == "restore" and instead:
            raise Mistakes(
                [
                    f"operator: got {self.operator.name} with drawn masks or kernels in mode restore; "
                    f"allowed: what made the measurements: {instead}"
                ]
            )
        return self

    @model_validator(mode="after")
    def _has_blocks_to_compile(self) -> JobConfig:
        if self.model.compile and self.method.prior != "latent":
            allowed = "allowed: with a method of a latent model, or false"
            raise Mistakes([f"model.compile: got true for {self.method.name}; {allowed}"])
        return self

    @model_validator(mode="after")
    def _has_prompt_embeddings(self) -> JobConfig:
        if self.method.prior == "latent":
            return self
        without = f"for {self.method.name}, which reads no text; allowed: with a method of a latent model"
        problems = []
        if self.prompt_embeddings is not None:
            problems.append(f"prompt_embeddings: got them {without}, or null")
        if "prompt_embedding" in self.keep:
            problems.append(f"keep: got prompt_embedding {without}")
        refuse(problems)
        return self

    @model_validator(mode="after")
    def _reads_captions(self) -> JobConfig:
        if self.caption is None:
            return self
        problems = []
        if self.method.prior != "latent":
            allowed = "allowed: with a method of a latent model, or null"
            problems.append(f"caption: got one for {self.method.name}, which reads no text; {allowed}")
        if self.prompt_embeddings is not None:
            problems.append("prompt_embeddings: got them beside caption; allowed: one of them")
        if self.prompt:
            allowed = "allowed: one of them; the words can stand in caption.template"
            problems.append(f"prompt: got {self.prompt!r} beside caption; {allowed}")
        if self.mode == "restore" and self.caption.source == "original":
            allowed = "allowed: measurement, or the output of a run"
            problems.append(f"caption.from: got original in mode restore, which has none; {allowed}")
        if self.caption.run == self.output:
            allowed = "allowed: another one, or original or measurement"
            problems.append(f"caption.from: got the output of this job; {allowed}")
        refuse(problems)
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

    @model_validator(mode="after")
    def _deviates(self) -> JobConfig:
        samples = self.method.samples if isinstance(self.method, Sampler) else 1
        if "deviation" in self.keep and samples == 1:
            allowed = "allowed: with method.samples of at least 2"
            raise Mistakes([f"keep: got deviation of a single sample an image; {allowed}"])
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) that pictures are fitted to, None for each one's own.

        ValueError for the model's own side, which is to be read from the model before a job runs.
        """
        if self.size == OWN_SIDE:
            raise ValueError(f"size: {OWN_SIDE} is not resolved; load the job with `load_config`")
        return self.size

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that change results, flat: {"method.steps": 1000, ...}."""
        return fingerprint.settings(self)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a hash over `settings`; runs of one fingerprint give the same images.

        To the bit on CPUs of one type with the same versions; on GPUs to within rounding.
        """
        return fingerprint.of(self.settings)

    @property
    def reading(self) -> Reading:
        """How the input's shards are read."""
        return Reading(self.keys, **dict(self.columns))


def _block(value: Any) -> dict[str, Any]:
    """A block of settings; a name alone is one. ValueError for what is neither."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ValueError
    return value


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
