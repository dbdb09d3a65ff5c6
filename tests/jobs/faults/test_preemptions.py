"""The model of preemptions: its books balance, its rules are the pipeline's, and it sees what they forbid."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from jobs.faults.preemptions import Loss, Setting, ends_by_rays_count, simulate
from pipeline.cost.machines import with_preemptions
from pipeline.worker.tries import ANYWHERE, DEADLY

QUIET = Setting(
    machines=4, images=160, seconds=100.0, rate=1e-9, sudden=0.1, item=8, batch=1, start=300.0, killers=0
)


def test_a_run_without_losses_takes_its_images_and_one_start() -> None:
    found = simulate(QUIET, random.Random(0))
    assert found.seconds == 300 + 160 / 4 * 100 and found.starting == 4 * 300
    assert (found.rows, found.errors, found.redone, found.losses) == (160, 0, 0, [])
    assert found.longest_silence == 300 + 300  # to the first commit; each of the others comes after 300 s


@pytest.mark.parametrize("sudden", [0.0, 0.1, 1.0])
def test_every_row_is_done_once_and_only_rows_that_end_processes_become_errors(sudden: float) -> None:
    setting = replace(QUIET, images=4000, rate=4.0, sudden=sudden, killers=7)
    found = simulate(setting, random.Random(1))
    assert len(found.losses) > 300
    assert (found.rows, found.errors, found.row_by_row) == (4000, 7, 7)
    assert found.redone > 0


def test_what_losses_cost_is_what_the_plan_says() -> None:
    """In machine-hours: half a commit and a start for each; an item of one micro-batch is one commit."""
    setting = replace(QUIET, machines=32, images=40_000, rate=0.5, sudden=0.0, batch=8)
    found = simulate(setting, random.Random(2))
    useful = 40_000 * 100 / 3600
    spent = useful + (found.redone + found.starting) / 3600 - 32 * 300 / 3600
    assert spent == pytest.approx(with_preemptions(useful, 800 / 3600, 0.5, 300 / 3600), rel=0.02)


def test_lost_machines_make_no_row_an_error() -> None:
    """Here one in two lives for an image, and a process's own ends would count from the third on."""
    setting = replace(QUIET, images=64, rate=3600 / 150, sudden=1.0, item=1)
    found = simulate(setting, random.Random(3))
    assert (found.rows, found.errors, found.row_by_row) == (64, 0, 0)
    assert DEADLY < max(Counter(block for loss in found.losses for block in loss.blocks).values()) < ANYWHERE


def test_a_row_that_had_ten_machines_in_turn_lost_is_an_error() -> None:
    """Where one in thirty lives for an image, that is chance; where most live, it is the row."""
    setting = replace(QUIET, images=8, rate=3600 / 30, sudden=1.0, item=1)
    found = simulate(setting, random.Random(3))
    assert found.rows == 8 and 0 < found.errors < 8
    assert max(Counter(block for loss in found.losses for block in loss.blocks).values()) >= ANYWHERE


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ([(1.0, True), (2.0, True)], [2.0]),
        ([(1.0, True), (2.0, False), (3.0, False)], []),
        ([(float(at), False) for at in range(1, 10)], []),
        ([(float(at), False) for at in range(1, 11)], [10.0]),
        ([(1.0, True), (2.0, True), (3.0, True), (4.0, True)], [2.0, 4.0]),
    ],
)
def test_the_former_rule_ends_a_run_at_the_tenth_death_that_ray_counts(
    losses: list[tuple[float, bool]], ends: list[float]
) -> None:
    others = [Loss(5.0, True, (9,))]
    assert ends_by_rays_count([*others, *(Loss(at, sudden, (0, 1)) for at, sudden in losses)]) == ends
