"""Mistakes put into the engine on purpose: ``python -m tests.p2l_engine.mutations [NUMBER ...]``.

Each is made in a copy of the tree, where the tests named beside it must fail. Prints a line a mistake and
ends with status 1 if one of them survives, or if the tests fail without it.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers  # noqa: F401  # for the forks
import pytest
import torch
from transformers import CLIPTextModel  # noqa: F401  # for the forks

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("p2l_engine", "pipeline", "jobs", "tests", "pyproject.toml")
FAILED = 1  # pytest's status for tests that ran and failed; others say that it could not run them


class Mutation(NamedTuple):
    """`old`, which stands once in `file`, becomes `new`; `tests` are pytest's arguments."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _in(name: str, chosen: str = "") -> tuple[str, ...]:
    """Of a file below tests/, such as p2l_engine/restore."""
    folder, _, file = f"tests/{name}".rpartition("/")
    return (f"{folder}/test_{file}.py", *(("-k", chosen) if chosen else ()))


_P2L, _BASE = (f"p2l_engine/solvers/{name}.py" for name in ("p2l", "base"))
_GUIDANCE, _TUNING, _WARM = (
    f"p2l_engine/solvers/parts/{name}.py" for name in ("guidance", "prompt_tuning", "warm_start")
)
_ENGINE, _OPERATORS = "p2l_engine", "p2l_engine/operators"
_LOOP = _in(f"{_ENGINE}/solvers/p2l", "the_loop")
_LATINO = _in(f"{_ENGINE}/solvers/latino", "the_loop and pooling")
_PIXELS, _SCHEDULE = "p2l_engine/metrics/pixels.py", "p2l_engine/schedule.py"

MUTATIONS = (
    # Random numbers
    Mutation(
        _BASE,
        'generator(seed, "latent")',
        'generator(seed, "noise")',
        _in(f"{_ENGINE}/solvers/p2l", "first_latent"),
    ),
    Mutation(
        f"{_OPERATORS}/base.py",
        "y + sigma * noise",
        "y + 1.4 * sigma * noise",
        _in(f"{_OPERATORS}/operators", "noise"),
    ),
    Mutation(
        "p2l_engine/seeding.py",
        '_hash63(f"{run_seed}/{key}")',
        '_hash63(f"/{key}")',
        _in(f"{_ENGINE}/seeding"),
    ),
    Mutation(
        f"{_OPERATORS}/motion.py",
        "uniform(source, *LENGTHS) * size",
        "uniform(source, *LENGTHS) * size / 2",
        _in("jobs/benchmark/motion", "as_far"),
    ),
    Mutation(
        f"{_OPERATORS}/motion.py", "WANDER = 1.0", "WANDER = 3.0", _in("jobs/benchmark/motion", "as_far")
    ),
    Mutation(f"{_OPERATORS}/motion.py", "SPOT = 0.7", "SPOT = 0.0", _in("jobs/benchmark/motion", "as_far")),
    Mutation(
        f"{_OPERATORS}/masks.py",
        "[: round(share * height * width)]",
        "[round(share * height * width) :]",
        _in(f"{_OPERATORS}/masks"),
    ),
    # The loop
    Mutation(_P2L, "z_next = z_next - change", "z_next = z_next + change", _LOOP),
    Mutation(_WARM, "first_latents(prior), alpha_bar)", "first_latents(prior), alpha_bar**2)", _LOOP),
    Mutation(_P2L, "eps, at.alpha_bar_prev).detach()", "eps, at.alpha_bar).detach()", _LOOP),
    Mutation(_P2L, "at.number % self.projection.every", "at.t % self.projection.every", _LOOP),
    Mutation(_P2L, "self.guidance, at.alpha_bar,", "self.guidance, at.alpha_bar_prev,", _LOOP),
    Mutation(
        _P2L, "eps = prior.predict_noise(z, at.t, C)", "eps = prior.predict_noise(z, at.t, state.C)", _LOOP
    ),
    Mutation(_BASE, "A=self.A.select(keep)", "A=self.A", _in(f"{_ENGINE}/solvers/p2l", "not_a_number")),
    Mutation(_GUIDANCE, "value + term.weight * distance", "value + distance", _LOOP),
    Mutation(_GUIDANCE, "BETA_1, BETA_2, EPSILON = 0.9,", "BETA_1, BETA_2, EPSILON = 0.8,", _LOOP),
    Mutation(_GUIDANCE, "m_hat, v_hat = m / (1 - BETA_1)", "m_hat, v_hat = m", _LOOP),
    Mutation(_TUNING, "RHO = 1.0", "RHO = 0.5", _LOOP),
    Mutation(_TUNING, 'prior.sketch(z0), "squared")', 'prior.decode(z0), "norm")', _LOOP),
    Mutation(
        "p2l_engine/solvers/latino.py", "(delta * (1 - at.alpha_bar))", "(delta * at.alpha_bar)", _LATINO
    ),
    Mutation(
        "p2l_engine/solvers/parts/prompt_ascent.py",
        "F.normalize(gradient, dim=-1)",
        "F.normalize(gradient, dim=1)",
        _LATINO,
    ),
    Mutation(_SCHEDULE, "eps) / alpha_bar**0.5", "eps) / alpha_bar", _in(f"{_ENGINE}/schedule")),
    Mutation(_SCHEDULE, "min(steps_offset, available", "min(0, available", _in(f"{_ENGINE}/schedule")),
    Mutation(
        "p2l_engine/priors/latent.py",
        "_outer_dtype) * self._scaling",
        "_outer_dtype) / self._scaling",
        _in(f"{_ENGINE}/priors/latent", "networks_compute"),
    ),
    Mutation(
        "p2l_engine/priors/lora.py",
        "alpha / len(down)",
        "alpha",
        _in(f"{_ENGINE}/priors/lora", "fused and kohya"),
    ),
    Mutation(
        "p2l_engine/presets.py",
        '"super_resolution": _tiny(15.0, 8.0,',
        '"super_resolution": _tiny(15.0, 4.0,',
        _in(f"{_ENGINE}/methods"),
    ),
    # What comes out
    Mutation(
        "p2l_engine/solvers/parts/shrinkage.py",
        "samples.var(dim=0)",
        "samples.std(dim=0)",
        _in(f"{_ENGINE}/solvers/samples", "drawn_toward"),
    ),
    Mutation(
        "p2l_engine/restore.py",
        "_spread(state.z, places",
        "_spread(state.z * 0, places",
        _in(f"{_ENGINE}/solvers/p2l", "latent"),
    ),
    Mutation(
        "p2l_engine/restore.py",
        "_spread(state.C, places",
        "_spread(problem.C, places",
        _in(f"{_ENGINE}/solvers/p2l", "tuned"),
    ),
    Mutation(
        _BASE,
        "[sample_seed(s, number) for s in self.seeds]",
        "self.seeds",
        _in(f"{_ENGINE}/solvers/samples", "samples_are"),
    ),
    Mutation(
        _BASE,
        "for source in self.generators]",
        "for source in self.generators[:1] * len(self.seeds)]",
        _in(f"{_ENGINE}/solvers/samples", "numbers_drawn"),
    ),
    Mutation(
        _BASE, "problem.y - problem.A(x), problem", "problem.y, problem", _in(f"{_ENGINE}/solvers/finish")
    ),
    Mutation(
        "p2l_engine/solvers/parts/total_variation.py",
        "2 * x - state.x",
        "x",
        _in(f"{_ENGINE}/solvers/without_a_prior", "minimum"),
    ),
    Mutation(
        f"{_OPERATORS}/masks.py",
        "self.mask.flatten(1).sum(1) * y",
        "self.mask.flatten(1).ge(0).sum(1) * y",
        _in(f"{_ENGINE}/arguments", "residual"),
    ),
    Mutation(
        "p2l_engine/arguments.py",
        "if not A.keeps_range:",
        "if A is not None:",
        _in(f"{_ENGINE}/arguments", "refused"),
    ),
    # Operators
    Mutation(
        "p2l_engine/operators/conjugate_gradients.py",
        "torch.float32: 1e-6",
        "torch.float32: 1e-3",
        _in(f"{_OPERATORS}/conjugate_gradients"),
    ),
    Mutation(
        f"{_OPERATORS}/blur.py",
        "_beyond(padded)), conjugate=True)",
        "_beyond(padded)))",
        _in(f"{_OPERATORS}/operators", "adjoint"),
    ),
    Mutation(
        f"{_OPERATORS}/base.py",
        "return x + self.adjoint(y",
        "return x - self.adjoint(y",
        _in(f"{_OPERATORS}/operators", "gluing"),
    ),
    Mutation(
        f"{_OPERATORS}/pooling.py",
        "lam, x) * self.factor**2)",
        "lam, x) * self.factor)",
        _in(f"{_OPERATORS}/operators", "proximal"),
    ),
    Mutation(
        f"{_OPERATORS}/discrepancy.py",
        "theta.clamp_min(0)).square())",
        "theta.clamp_min(0)))",
        _in(f"{_OPERATORS}/discrepancy", "closed_form"),
    ),
    Mutation(
        f"{_OPERATORS}/masks.py",
        "self(y - x) / (1 + weight)",
        "self(y - x) / weight",
        _in(f"{_OPERATORS}/operators", "proximal"),
    ),
    # Metrics
    Mutation(
        "p2l_engine/metrics/frechet.py",
        "self.scatter + other.scatter + between",
        "self.scatter + other.scatter",
        _in(f"{_ENGINE}/distances", "sums"),
    ),
    Mutation(_PIXELS, "np.log10(255.0**2 / error)", "np.log10(1 / error)", _in(f"{_ENGINE}/metrics")),
    Mutation(_PIXELS, "0.5 / 1.5**2", "0.5 / 1.0**2", _in(f"{_ENGINE}/metrics")),
    Mutation("p2l_engine/metrics/frechet.py", "- 2 * cross", "- cross", _in(f"{_ENGINE}/metrics")),
)


def main(chosen: Sequence[int]) -> int:
    """Tries the mutations of those numbers, counted from 1, or all; the status to end with."""
    torch.set_num_threads(1)  # threads do not survive a fork
    numbers = chosen or range(1, len(MUTATIONS) + 1)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for part in COPIED:
            _copy(ROOT / part, tree / part)
        for tests in dict.fromkeys(MUTATIONS[number - 1].tests for number in numbers):
            if _status(tree, tests) != 0:
                print(f"the tests fail as they are: {' '.join(tests)}")
                return 1
        survivors = [number for number in numbers if not _caught(tree, number)]
    print(f"{len(numbers)} mistakes, {len(survivors)} of them survived.")
    return 1 if survivors else 0


def _caught(tree: Path, number: int) -> bool:
    mutation = MUTATIONS[number - 1]
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file}: {mutation.old!r} stands there {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        status = _status(tree, mutation.tests)
    finally:
        path.write_text(text)
    said = "caught" if status == FAILED else f"SURVIVED (pytest ended with {status})"
    print(f"{number}. {mutation.file}: {mutation.old!r} -> {mutation.new!r}: {said}", flush=True)
    return status == FAILED


def _status(tree: Path, tests: Sequence[str]) -> int:
    """pytest's status in the tree, run by a fork: what takes seconds to import is there already."""
    process = multiprocessing.get_context("fork").Process(target=_test, args=(tree, tests))
    process.start()
    process.join()
    return process.exitcode or 0


def _test(tree: Path, tests: Sequence[str]) -> None:
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.dont_write_bytecode = True  # told from its source by time and size, and a mistake may change neither
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
