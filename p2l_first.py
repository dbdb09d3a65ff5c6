"""The packages `jobs` and `pipeline` are those beside `p2l_engine`, whatever a user's own files are called.

People give these names to their own files, in the current folder or on PYTHONPATH; `p2l_engine` nobody does.
The command `p2l` starts here, under a name as unlikely to be met. Where Ray's workers would find another
`pipeline`, they run `own_packages` before anything of a job; it is sent to them as code, not to be imported.
"""

from __future__ import annotations


def own_packages() -> None:
    """From here on `jobs` and `pipeline` are imported from beside `p2l_engine`; all else as before."""
    import sys
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec, PathFinder
    from pathlib import Path

    class OwnPackages:
        names = ("jobs", "pipeline")

        @classmethod
        def find_spec(
            cls, name: str, path: Sequence[str] | None = None, target: object = None
        ) -> ModuleSpec | None:
            engine = PathFinder.find_spec("p2l_engine") if name in cls.names else None
            if engine is None or engine.origin is None:
                return None
            return PathFinder.find_spec(name, [str(Path(engine.origin).parents[1])])

    if not any(getattr(finder, "names", None) == OwnPackages.names for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages)


def main() -> None:
    """The console script `p2l`."""
    own_packages()
    from jobs.cli import main

    main()


if __name__ == "__main__":
    main()
