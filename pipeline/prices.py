"""The price file: what machine types cost, dated, with its source, for a user to replace."""

from __future__ import annotations

import datetime
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator

from p2l_engine.mistakes import Mistakes
from p2l_engine.settings import Settings
from pipeline import yaml_text
from pipeline.accelerators import ACCELERATORS
from pipeline.stores import storage

SHIPPED = Path(__file__).with_name("prices.yaml")
SPOT = "-spot"  # after the name of a machine type, where its spot price is meant


class Machine(Settings):
    """USD per hour of the whole machine; memory_gib of each of its `count` accelerators."""

    accelerator: str
    count: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    on_demand: float = Field(gt=0)
    spot: float | None = Field(None, gt=0)

    @field_validator("accelerator")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ACCELERATORS:
            raise ValueError(f"allowed: {', '.join(ACCELERATORS)}")
        return value


class Prices(Settings):
    """preemptions_per_hour: of one spot machine. start_minutes: until a lost machine's successor restores."""

    date: datetime.date
    source: str
    region: str
    preemptions_per_hour: float = Field(ge=0)
    start_minutes: float = Field(ge=0)
    machines: dict[str, Machine] = Field(min_length=1)

    def of_a_worker(self) -> dict[str, float]:
        """USD per worker-hour by machine type; a worker has one accelerator."""
        on_demand = {name: machine.on_demand / machine.count for name, machine in self.machines.items()}
        spot = {
            name + SPOT: machine.spot / machine.count
            for name, machine in self.machines.items()
            if machine.spot
        }
        return on_demand | spot


def load_prices(source: str | None = None) -> Prices:
    """A price file (path or URL); by default the one of this package.

    Raises Mistakes, each of which names the file and the place.
    """
    name = source or str(SHIPPED)
    try:
        content = yaml_text.read(storage.read_text(name))
        return Prices.model_validate(content)
    except FileNotFoundError:
        raise Mistakes([f"{name}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Mistakes([f"{name}: cannot be read as YAML: {error}"]) from error
    except ValidationError as error:
        mistakes = [
            f"{name}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem['input']!r}"
            for problem in error.errors()
        ]
        raise Mistakes([*mistakes, f"a file that is right: {SHIPPED}"]) from None
