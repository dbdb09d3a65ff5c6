"""Whether this machine finds what a job names, and what follows from that: the size of the model's own.

The only part of reading a job that looks at disks, stores, environment variables and the user's code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from p2l_engine.mistakes import refuse
from p2l_engine.operators import OperatorSettings
from p2l_engine.priors.fetch import SHIPPED, check_model_id
from p2l_engine.priors.layout import CAPTIONER
from p2l_engine.priors.lora import check_adapter
from p2l_engine.solvers import Sampler, Solver
from pipeline import feasible
from pipeline.config.caption import CaptionConfig
from pipeline.config.job import OWN_SIDE, JobConfig, ModelConfig
from pipeline.stores import storage, storage_options


def _where_it_is(name: str) -> str:
    """A file or folder on this machine made absolute, for workers that run in another; other names as is."""
    here = name not in SHIPPED and "://" not in name and Path(name).expanduser().exists()
    return storage.absolute(name).rstrip("/") if here else name


class ModelHere(ModelConfig):
    """A model that is here, or may be elsewhere."""

    @field_validator("id")
    @classmethod
    def _is_there(cls, value: str) -> str:
        refuse(check_model_id(value))
        return _where_it_is(value)

    @field_validator("lora")
    @classmethod
    def _adapter_is_there(cls, value: str | None) -> str | None:
        refuse([] if value is None else check_adapter(value), "model")
        return value and _where_it_is(value)

    @model_validator(mode="after")
    def _adapter_fits(self) -> ModelHere:
        refuse(feasible.adapter_problems(self), "model")
        return self

    @model_validator(mode="after")
    def _has_revisions(self) -> ModelHere:
        refuse(check_model_id(self.id, self.revision))
        return self


class JobHere(JobConfig):
    """A job that can run here; its mistakes in form and those of the environment are found together."""

    model: ModelHere = Field(
        default_factory=lambda: ModelHere.model_validate({}),
        description=JobConfig.model_fields["model"].description,
    )

    @field_validator("storage")
    @classmethod
    def _variables_are_set(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse(storage_options.unset(value))
        return value

    @field_validator("size")
    @classmethod
    def _own_side(cls, value: Any, info: ValidationInfo) -> Any:
        if value != OWN_SIDE:
            return value
        if "model" not in info.data:  # wrong itself, and said so
            return None
        return (feasible.own_side(info.data["model"], info.data.get("storage", {})),) * 2

    @field_validator("caption")
    @classmethod
    def _captioner(cls, value: CaptionConfig | None) -> CaptionConfig | None:
        if value is not None and value.model is not None:
            refuse(check_model_id(value.model, value.revision, CAPTIONER), "caption")
            return value.model_copy(update={"model": _where_it_is(value.model)})
        return value

    @field_validator("operator")
    @classmethod
    def _applies(cls, value: OperatorSettings, info: ValidationInfo) -> OperatorSettings:
        refuse(value.check(), "operator")
        if info.data.get("mode") == "measure" and info.data.get("size"):
            refuse(feasible.operator_problems(value, info.data["size"]), "operator")
        return value

    @field_validator("method")
    @classmethod
    def _fits_the_model(cls, value: Solver, info: ValidationInfo) -> Solver:
        if "model" not in info.data:  # wrong itself, and said so
            return value
        model, stores = info.data["model"], info.data.get("storage", {})
        # Measurements are restored at the data's own sizes.
        size = info.data.get("size") if info.data.get("mode") == "measure" else None
        problems = feasible.model_problems(model, value, size, stores)
        # Of an operator that is wrong itself no preset was looked up, which may say how many steps.
        known = "operator" in info.data or "steps" in value.model_fields_set
        if isinstance(value, Sampler) and known:
            problems += feasible.steps_problems(model, value, stores)
        refuse(problems, "method")
        return value
