"""The console script `p2l`: every command under one name."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import typer

from jobs import compare, demo, image, plan, prompts, report, reproduce, restore, score, shard, verify
from jobs.console import run_to_its_status

# Of objects before a collection: imports make hundreds of thousands, which stay.
OBJECTS = 100_000

app = typer.Typer(
    name="p2l",
    help="Restore images with P2L: one picture, or a bucket of them. `p2l COMMAND --help` shows an example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command("demo")(demo.demo)
app.command("image")(image.image)
app.command("shard")(shard.shard)
app.command("plan")(plan.plan)
app.command("restore")(restore.restore)
app.command("report")(report.report)
app.command("verify")(verify.verify)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("prompts")(prompts.prompts)
app.command("reproduce")(reproduce.reproduce)


def main() -> None:
    """Run the command named on the command line and exit with its status."""
    gc.set_threshold(OBJECTS)
    # As under `python -m`, so that an operator may be a function of a file here.
    sys.path.append(str(Path.cwd()))
    run_to_its_status(app)


if __name__ == "__main__":
    main()
