"""Settings: a sentence for each mistake that is found in them."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from p2l_engine.mistakes import Mistakes
from p2l_engine.settings import Settings, explain


class Lens(Settings):
    glass: Literal["crown", "flint"] = "crown"
    focus: float = Field(ge=0, description="a number of millimetres of at least 0")


class Camera(Settings):
    lens: Lens | None = None
    shutter: int | Literal["auto"] = Field("auto", description="auto, or a whole number")
    owner: str = "none"

    @field_validator("owner")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "two\nlines":
            raise Mistakes(["owner: has two lines", "owner: is\nodd"])
        if value == "x":
            raise ValueError("allowed: longer names")
        return value


class Empty(Settings):
    name: Literal["empty"] = "empty"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lenz": 1}, ["lenz: unknown setting; allowed: lens, shutter, owner; did you mean lens?"]),
        ({"lens": 4}, ["lens: got 4; allowed: a block of glass, focus; or null"]),
        ({"lens": {}}, ["lens.focus: is missing; allowed: a number of millimetres of at least 0"]),
        (
            {"lens": {"focus": float("nan"), "glas": "crown"}},
            [
                "lens.focus: got nan; allowed: a number of millimetres of at least 0",
                "lens.glas: unknown setting; allowed: glass, focus; did you mean glass?",
            ],
        ),
        (
            {"lens": {"focus": 1, "glass": "flynt"}},
            ["lens.glass: got 'flynt'; input should be 'crown' or 'flint'; did you mean flint?"],
        ),
        ({"shutter": 1.5}, ["shutter: got 1.5; allowed: auto, or a whole number"]),
        ({"shutter": ["auto"]}, ["shutter: got ['auto']; allowed: auto, or a whole number"]),
        ({"owner": "two\nlines"}, ["owner: has two lines", "owner: is\nodd"]),
        ({"owner": "x"}, ["owner: got 'x'; allowed: longer names"]),
    ],
)
def test_a_mistake_is_one_sentence_with_what_was_got_and_is_allowed(
    settings: dict[str, object], expected: list[str]
) -> None:
    with pytest.raises(ValidationError) as refused:
        Camera.model_validate(settings)
    assert explain(refused.value, Camera) == expected


def test_a_block_that_has_but_a_name_says_so() -> None:
    with pytest.raises(ValidationError) as refused:
        Empty.model_validate({"size": 1})
    assert explain(refused.value, Empty) == ["size: unknown setting; allowed: nothing but the name"]
