"""Motion blur is as hard as the kernels that the literature of deblurring draws."""

import pytest
import torch
from typer.testing import CliRunner

from jobs.benchmark import motion
from jobs.benchmark.__main__ import app
from p2l_engine.operators.gaussian import gaussian_profile

# The figures of 96 kernels of the reference generator at intensity 0.5, 61 pixels.
EXTENT, LOST, RESTORED = 10.6, 0.69, 27.1


def test_motion_kernels_are_as_far_as_blind_and_as_hard_as_the_references() -> None:
    found = motion.hardness(motion.draw(96, 61, 0.5))
    assert found.extent == pytest.approx(EXTENT, abs=0.5)
    assert found.lost == pytest.approx(LOST, abs=0.04)
    assert found.restored == pytest.approx(RESTORED, abs=0.5)
    assert 0.1 < found.error < 0.6


def test_a_straight_line_is_the_hardest_and_each_step_from_it_easier() -> None:
    line, bent, shaken = (motion.hardness(motion.draw(8, 61, intensity)) for intensity in (0.0, 0.5, 1.0))
    assert line.lost > bent.lost > shaken.lost
    assert line.restored < bent.restored < shaken.restored


def test_the_figures_of_a_bell_are_its_own() -> None:
    bell = gaussian_profile(61, 3.0)
    found = motion.hardness(torch.outer(bell, bell).expand(2, -1, -1))
    assert found.extent == pytest.approx(3 * 2**0.5, rel=1e-6)
    # exp(-18 (pi f)^2) < 0.05 outside a circle of radius 0.1298 cycles a pixel
    assert found.lost == pytest.approx(1 - torch.pi * 0.1298**2, abs=0.001)


def test_the_command_prints_a_row_an_intensity() -> None:
    out = CliRunner().invoke(app, ["motion", "--kernels", "2", "--size", "15", "--intensity", "0.5"])
    assert out.exit_code == 0, out.output
    assert out.stdout.splitlines()[-1].startswith("| 0.5 | ")
