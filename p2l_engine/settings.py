"""The base of all settings, and the sentences on mistakes in them."""

from collections.abc import Iterator
from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from p2l_engine.mistakes import Mistakes, did_you_mean


class Settings(BaseModel):
    """A block of settings that is checked when it is made, and never changes.

    It takes no unknown names, no number that is not finite and no true or false for one. A field's
    description says what is allowed, to be read after "allowed: "; a field `name` says which of several
    blocks it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and on as true, which would be a 1."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and _is_number(field.annotation):
            raise ValueError("" if field.description else "allowed: a number")
        return value


class Grown(Settings):
    """Settings that got more fields since runs were begun with them.

    later: those fields. A dump is without them while they are their default, so that such runs keep their
    fingerprints.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_begun(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values


def explain(error: ValidationError, kind: type[Settings]) -> list[str]:
    """Each mistake in settings of a kind as a sentence: "path: got what; allowed: what".

    What a validator says is taken where it raises Mistakes, which are whole sentences, or a ValueError with a
    text, which is said after what was got.
    """
    # A setting of several allowed types fails once for each of them.
    return list(dict.fromkeys(said for problem in error.errors() for said in _sentences(problem, kind)))


def _sentences(problem: ErrorDetails, kind: type[Settings]) -> Iterator[str]:
    names, block, annotation, description = _place(problem, kind)
    path, got = ".".join(names), problem["input"]
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, Mistakes):
        yield from raised.problems
    elif problem["type"] == "extra_forbidden":
        allowed = [name for name in _fields(block) if name != "name"]
        listed = ", ".join(allowed) or "nothing but the name"
        yield f"{path}: unknown setting; allowed: {listed}{did_you_mean(names[-1], allowed)}"
    elif problem["type"] == "missing":
        yield f"{path}: is missing; allowed: {description}"
    else:
        own = str(raised) if isinstance(raised, ValueError) else ""
        if not own and problem["type"] == "model_type":
            own = f"allowed: {_block_said(annotation)}"
        said = own or (f"allowed: {description}" if description else _lower(problem["msg"]))
        choices = _choices(annotation)
        hint = did_you_mean(got, choices) if isinstance(got, str) and got not in choices else ""
        yield f"{path}: got {got!r}; {said}{hint}"


def _place(problem: ErrorDetails, kind: type[Settings]) -> tuple[list[str], type[Settings], Any, str | None]:
    """A mistake's path, the block that it is in, and the type and description of its setting."""
    names: list[str] = []
    block: type[Settings] | None = kind
    last, annotation, description = kind, None, None
    for part in problem["loc"]:
        if block is None:
            break  # further parts tell which of several types failed
        last = block
        names.append(str(part))
        field = _fields(block).get(str(part))
        annotation, description = (field.annotation, field.description) if field else (None, None)
        block = next((of for of in (annotation, *get_args(annotation)) if _is_block(of)), None)
    return names, last, annotation, description


def _block_said(annotation: Any) -> str:
    """What is allowed where a type, or one of several, is a block of settings."""
    types = (annotation, *get_args(annotation))
    fields = {name: field for of in types if _is_block(of) for name, field in _fields(of).items()}
    asked = any(field.is_required() for field in fields.values())
    said = f"a block of {', '.join(name for name in fields if name != 'name')}"
    return said + ("" if asked else "; {} for their defaults") + ("; or null" if type(None) in types else "")


def _fields(block: type[Settings]) -> dict[str, FieldInfo]:
    """By the names that a user writes."""
    return {field.alias or name: field for name, field in block.model_fields.items()}


def _is_number(annotation: Any) -> bool:
    """Whether a type, or one of several, is a number's."""
    return annotation in (int, float) or any(map(_is_number, get_args(annotation)))


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _choices(annotation: Any) -> list[str]:
    """The words that a type allows."""
    return [word for of in get_args(annotation) for word in ([of] if isinstance(of, str) else _choices(of))]


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
