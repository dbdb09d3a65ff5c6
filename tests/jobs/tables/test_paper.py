"""The paper's tables: every cell a job, every figure of the paper where it belongs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import p2l_engine
from jobs import reproduce
from jobs.cli import app
from jobs.tables.figures import Figures
from jobs.tables.grid import Cell
from jobs.tables.paper import beside, world
from jobs.tables.paper.drawn import FIGURES
from jobs.tables.paper.tables import TABLES, Definition, PaperTable, table_4
from p2l_engine.presets import PRESETS
from p2l_engine.priors.fetch import CAPTIONER
from pipeline.config import read_back

SHIPPED = Path(p2l_engine.__file__).parent / "tiny"
PIXEL = SHIPPED / "pixel" / "weights"
DATA = {name: f"gs://b/{name}" for name in (world.FFHQ, world.IMAGENET, world.DIV2K)}
PAPER = world.stable_diffusion(world.SD14, world.pixel_prior("pixel-model", 7), "captioner", DATA)


def made(number: str, where: world.World) -> PaperTable:
    return TABLES[number].make(where)


@pytest.mark.parametrize("number", TABLES)
@pytest.mark.parametrize("where", ["tiny", "the paper's"])
def test_every_cell_of_a_table_is_a_job(number: str, where: str, tmp_path: Path) -> None:
    table = made(number, world.tiny(str(tmp_path), 2) if where == "tiny" else PAPER)
    settings = [table.grid.settings_of(cell, "out") for cell in table.grid.cells(seeds=1)]
    jobs = [read_back(of_cell) for of_cell in settings]  # the paper's models are not here
    assert len({job.output for job in jobs}) == len(jobs) == len(table.grid.rows) * len(table.grid.columns)
    side = 64 if where == "tiny" else 512
    times = (1.5, 2) if number == "figure-5" else (1,)
    assert {job.size for job in jobs} == {(round(n * side),) * 2 for n in times}
    assert {"bicubic", "total variation"} <= set(table.grid.rows)
    assert {row.against for row in table.grid.rows.values()} - {None} <= set(table.grid.rows)


@pytest.mark.parametrize("number", TABLES)
def test_each_figure_of_the_paper_has_its_place_in_the_table(number: str) -> None:
    table = made(number, PAPER)
    places = {(row, column) for n, row, column, _ in beside.paper_values() if n == number}
    left_out = {(row, column) for row, column in places if any(row in why for why in table.left_out)}
    grid = {(cell.row, cell.column) for cell in table.grid.cells(seeds=1)}
    assert places - left_out <= grid


def test_settings_are_those_of_the_paper_s_appendix() -> None:
    """Table 6's column for FFHQ and super-resolution: K = 5 at 1e-4."""
    table = made("7", PAPER)
    job = table.grid.job(Cell("K=3, ten times the rate", "FFHQ, SR x8", seed=0), "out")
    tuning = job.method.model_dump()["prompt_tuning"]
    assert tuning == {"iterations": 3, "learning_rate": pytest.approx(1e-3)}
    job = made("2", PAPER).grid.job(Cell("P2L", "ImageNet, motion blur", seed=0), "out")
    published = PRESETS["imagenet"]["motion_blur"]["p2l"]
    assert job.method.model_dump()["prompt_tuning"] == published["prompt_tuning"]
    assert job.method.model_dump()["projection"]["every"] == published["projection"]["every"] == 5


@pytest.mark.parametrize("captioner", [None, "captioner"])
def test_the_optimization_of_table_1_is_that_of_appendix_b(captioner: str | None) -> None:
    """K = 5 at 1e-4 for all; from captions of y for enlargement where there are some."""
    table = made("1", world.stable_diffusion(world.SD14, None, captioner, DATA))
    cells = [Cell("prompt optimization", column, 0) for column in table.grid.columns]
    settings = {cell.column: table.grid.settings_of(cell, "out") for cell in cells}
    jobs = {column: read_back(of_cell) for column, of_cell in settings.items()}
    for job in jobs.values():
        assert job.method.model_dump()["prompt_tuning"] == {"iterations": 5, "learning_rate": 1e-4}
    assert jobs["FFHQ, inpainting 80 %"].prompt == "A high quality photo of a face"
    assert jobs["ImageNet, inpainting 80 %"].prompt == "A high quality photo"
    enlarged = jobs["ImageNet, SR x8"]
    if captioner is None:
        assert enlarged.prompt == "A high quality photo" and enlarged.caption is None
        assert any("prompt optimization from captions of y" in reason for reason in table.left_out)
    else:
        assert enlarged.prompt == "" and enlarged.caption
        assert (enlarged.caption.model, enlarged.caption.source) == ("captioner", "measurement")


def test_the_methods_in_pixels_are_given_the_class_that_their_network_asks_for() -> None:
    table = made("2", PAPER)
    settings = table.grid.settings_of(Cell("DPS", "ImageNet, SR x8", 0), "out")
    assert settings["model"] == "pixel-model" and settings["method"]["class_label"] == 7
    assert "class_label" not in table.grid.settings_of(Cell("LDPS", "ImageNet, SR x8", 0), "out")["method"]


def test_a_model_whose_text_no_tower_fits_is_tabled_at_its_size_without_treg() -> None:
    table = made("2", world.stable_diffusion(str(SHIPPED / "weights"), None, None, DATA))
    assert "TReg" not in table.grid.rows and table.grid.settings["size"] == 64
    assert any("TReg: got 'openai/clip-vit-large-patch14', whose" in reason for reason in table.left_out)


def test_treg_has_the_text_that_prompt_optimization_starts_from(tmp_path: Path) -> None:
    prompts = {
        made("2", PAPER).grid.settings_of(Cell("TReg", "ImageNet, SR x8", 0), "out")["prompt"],
        made("8", PAPER).grid.settings_of(Cell("TReg", "FFHQ, SR x8", 0), "out")["prompt"],
    }
    assert prompts == {"A high quality photo", "A high quality photo of a face"}
    assert any("TReg's target text" in reason for reason in made("2", world.tiny(str(tmp_path), 2)).left_out)


@pytest.mark.parametrize(
    ("given", "url"),
    [("gs://b/split=val", "gs://b/split=val"), ("ImageNet=gs://b/split=val", "gs://b/split=val")],
)
def test_an_equals_sign_can_be_part_of_a_url(given: str, url: str) -> None:
    assert reproduce._data([given], (world.IMAGENET,), "out", None) == {world.IMAGENET: url}


@pytest.mark.parametrize(
    ("given", "captioner"),
    [("captioner", {"model": "captioner"}), (None, {"model": CAPTIONER, "template": "{caption}"})],
)
def test_captions_of_the_measurement_come_from_the_captioner_that_is_given_or_the_shipped_one(
    tmp_path: Path, given: str | None, captioner: dict[str, str]
) -> None:
    table = made("1", world.tiny(str(tmp_path), 2, given))
    assert table.grid.rows["captions of y"].settings["caption"] == captioner | {"from": "measurement"}
    assert table.left_out == ()


def test_with_the_shipped_model_captions_are_optimized_too_and_held_beside_themselves(tmp_path: Path) -> None:
    table = made("1", world.tiny(str(tmp_path), 2))
    name = "prompt optimization from captions of y"
    for column in table.grid.columns:
        rows = ("captions of y", name, "prompt optimization")
        captions, both, alone = (table.grid.job(Cell(row, column, seed=0), "out") for row in rows)
        assert both.method == alone.method and both.caption == captions.caption
    assert table.grid.rows[name].against == "captions of y"
    assert name not in made("1", PAPER).grid.rows


def test_the_paper_s_figures_stand_beside_ours() -> None:
    table = made("5", PAPER)
    means, scores = {"psnr": 20.5, "seconds": 3.25}, {"lpips_vgg": 0.5}
    found = {
        ("P2L, K=3", "ImageNet, SR x8"): Figures(16, 1, 0, means, {}, scores),
        ("LDPS", "ImageNet, SR x8"): Figures(16, 1, 3, means, {}),
    }
    text = beside.markdown("5", table, found, PAPER, seeds=1)
    (line,) = (line for line in text.splitlines() if line.startswith("| P2L, K=3 |"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "20.50",
        "3.25",
        "0.5",
        "total variation",
        "",
        "52.9",
        "23.36",
        "1333.6",
    ]
    assert "| LDPS, 3 errors |" in text
    assert (
        "16 images a column, 1 restorations of each, by CompVis/stable-diffusion-v1-4, pixel-model." in text
    )
    records = beside.csv_text("5", found)
    assert '"P2L, K=3","ImageNet, SR x8",seconds,16,1,0,3.25,1333.6' in records


def test_the_paper_s_lpips_stands_beside_that_by_vgg() -> None:
    place = ("P2L", "ImageNet, SR x8")
    found = {place: Figures(16, 1, 0, {}, {}, {"lpips_vgg": 0.5, "lpips_alex": 0.25})}
    lines = beside.csv_text("2", found).splitlines()
    theirs = beside.paper_values()["2", *place, "lpips"]
    assert f'P2L,"ImageNet, SR x8",lpips_vgg,16,1,0,0.5,{theirs:g}' in lines
    assert 'P2L,"ImageNet, SR x8",lpips_alex,16,1,0,0.25,' in lines
    assert not any(",lpips," in line for line in lines)


def test_without_a_model_in_pixels_its_methods_are_left_out_and_it_is_said() -> None:
    alone = world.stable_diffusion(world.SD14, None, None, {world.FFHQ: "ffhq"})
    table = made("8", alone)
    assert not {"DPS", "DDS", "DiffPIR", "PiGDM"} & set(table.grid.rows)
    assert any(re.search("DPS.*no model in pixels", reason) for reason in table.left_out)
    assert any("ImageNet" in reason for reason in made("3", alone).left_out)
    assert "captions of y: no captioning model is given" in made("1", alone).left_out
    captioned = made("1", PAPER).grid.rows["captions of y"].settings["caption"]
    assert captioned == {"model": "captioner", "from": "measurement"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["6"], "NAME: got '6'; allowed: 1, 2, 3, 4, 5, 7, 8, figure-2"),
        (["2", "--data", "x"], "--data: got one with --model tiny"),
        (["2", "--class-label", "7"], "--class-label: got 7 without --pixel-model"),
        (["2", "--plan"], "--plan: got 2 with --model tiny; allowed: a table with another model"),
        (
            ["figure-2", "--model", "sd14", "--plan"],
            "--plan: got figure-2 with --model sd14; allowed: a table",
        ),
        (["2", "--model", "sd14"], "--data: got none; allowed for this table: imagenet=URL"),
        (
            ["2", "--model", "sd14", "--data", "ffhq=x"],
            "--data: got 'ffhq=x'; allowed for this table: imagenet=URL",
        ),
        (["2", "--model", "sd14", "--plan", "--data", "x"], "--data: got one with --plan"),
        (["2", "--captioner", "x"], "--captioner: got one with 2; allowed: with 1"),
        (["figure-13", "--images", "9"], "--images: got 9 with figure-13; allowed: up to 8"),
        (["figure-13", "--seeds", "2"], "--seeds: got 2 with figure-13; allowed: with 1, 2, 3"),
        (
            ["2", "--model", str(PIXEL), "--data", "x"],
            f"--model: got {PIXEL}, a pixel model; allowed: a latent one",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["reproduce", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_a_table_is_priced_by_what_its_rows_compute() -> None:
    """By an A100's 312 TFLOP/s, all of it and 30 % of it."""
    small = str(SHIPPED / "weights")
    command = ["reproduce", "4", "--model", small, "--plan", "--images", "10000", "--seeds", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "10000 images x 2 seeds in each of 3 columns, in bfloat16" in " ".join(result.stdout.split())
    lines = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")]
    rows = {name: figures for name, *figures in lines}
    teraflop, hours, _ = rows["proximal"]
    each = float(teraflop.replace(",", ""))
    least = 60_000 * each / 312 / 3600
    assert [float(text) for text in hours.split(" - ")] == pytest.approx([least, least / 0.3], rel=0.01)
    assert rows["bicubic"][0] == "0"
    assert float(rows["all"][0].replace(",", "")) == pytest.approx(2 * each, abs=1)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_a_table_is_made_whole_and_given_again_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(where: world.World) -> PaperTable:
        """Two rows and a column of Table 4, for their time."""
        table = table_4(where)
        rows = {name: table.grid.rows[name] for name in ("bicubic", "total variation")}
        columns = dict([next(iter(table.grid.columns.items()))])
        return replace(table, grid=replace(table.grid, rows=rows, columns=columns))

    monkeypatch.setitem(TABLES, "4", Definition(small, (world.FFHQ,)))
    command = ["reproduce", "4", "--images", "2", "--out", str(tmp_path)]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    more = CliRunner().invoke(app, [*command[:3], "3", *command[4:]])
    assert "bicubic, seed 0: 3 of 3 rows" in more.stdout and "3 images a column" in more.stdout
    assert "1/2  FFHQ, SR x8, sigma 0.01, bicubic, seed 0: 2 of 2 rows" in first.stdout
    assert "1/2" not in second.stdout and "| total variation |" in second.stdout
    assert "## drawn scenes (for FFHQ), SR x8, sigma 0.01" in (tmp_path / "table-4.md").read_text()
    assert len((tmp_path / "table-4.csv").read_text().splitlines()) == 1 + 2 * 7


def test_the_help_names_all_tables() -> None:
    assert set(reproduce.NAMES) == {*TABLES, *FIGURES}
