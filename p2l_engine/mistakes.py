"""What is said of a user's mistakes: all of them at once, and the nearest right word beside a wrong one."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any


class Mistakes(ValueError):
    """Input that cannot be used; `problems` has one sentence a mistake, and the text a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def within(self, block: str) -> "Mistakes":
        """The same mistakes, in settings of a block."""
        return Mistakes([f"{block}.{problem}" for problem in self.problems])


def refuse(problems: Sequence[str], within: str | None = None) -> None:
    """Raises Mistakes where there are problems. within: as in `Mistakes.within`."""
    if problems:
        raise Mistakes(problems).within(within) if within else Mistakes(problems)


def nearest(word: Any, allowed: Collection[str]) -> str | None:
    """The one of `allowed` that was most likely meant; None where none is near."""
    return next(iter(get_close_matches(str(word), allowed, n=1)), None)


def did_you_mean(word: Any, allowed: Collection[str]) -> str:
    """What a sentence on a wrong word ends with; empty where nothing is near."""
    near = nearest(word, allowed)
    return f"; did you mean {near}?" if near else ""
