"""The job's `caption` block: who captions what, and the prompt that a caption becomes."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from p2l_engine.mistakes import Mistakes, did_you_mean, nearest
from p2l_engine.settings import Settings
from pipeline.stores import storage

PICTURES = ("original", "measurement")
PLACE = "{caption}"  # in a template


class CaptionConfig(Settings):
    """Each image's prompt is a caption in a template: of a picture by a model, or that of an earlier run."""

    model_config = ConfigDict(serialize_by_alias=True)

    model: str | None = Field(
        None,
        min_length=1,
        description="tiny-captioner, or a hub id, a folder or a URL of a transformers image-to-text model",
    )
    revision: str | None = Field(None, description="a hub revision, or null")
    source: str = Field(
        "original",
        alias="from",
        min_length=1,
        description="original, measurement, or the output of a run that had captions",
    )
    template: str = Field(
        f"A high quality photo of a {PLACE}", pattern=r"\{caption\}", description=f"a text with {PLACE} in it"
    )

    @field_validator("source")
    @classmethod
    def _picture_or_run(cls, value: str) -> str:
        if value in PICTURES:
            return value
        if "/" not in value and nearest(value, PICTURES):
            raise ValueError(
                f"allowed: {', '.join(PICTURES)}, or ./{value} for the output of a run"
                + did_you_mean(value, PICTURES)
            )
        return storage.absolute(value).rstrip("/")

    @model_validator(mode="after")
    def _by_a_model_or_a_run(self) -> CaptionConfig:
        if self.run is None and self.model is None:
            allowed = type(self).model_fields["model"].description
            raise Mistakes([f"caption.model: is missing; allowed: {allowed}"])
        if self.run is not None and self.model is not None:
            raise Mistakes(
                [
                    f"caption.model: got {self.model!r} beside the captions of {self.run}; allowed: null "
                    f"there, or with caption.from {' or '.join(PICTURES)}"
                ]
            )
        return self

    @property
    def run(self) -> str | None:
        """The output whose captions are taken; None where they are made."""
        return None if self.source in PICTURES else self.source

    def prompt(self, caption: str) -> str:
        """The template, filled."""
        return self.template.replace(PLACE, caption)

    @property
    def urls(self) -> dict[str, Any]:
        """What may be a URL, by its setting."""
        return {"caption.model": self.model, "caption.from": self.run}
