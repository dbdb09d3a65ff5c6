"""How an actor works, as the driver chooses it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipeline.cluster import nodes


@dataclass(frozen=True)
class ActorOptions:
    """device: cpu or cuda. batch_size: images to work on together.

    threads: of torch on the CPU; None for a share of the machine's cores.
    tune: measures whether fewer images together are as fast, and takes as few.
    share: actors of one machine, which share its cores and its memory; of a GPU, which is one's own, 1.
    """

    device: str
    batch_size: int
    threads: int | None
    tune: bool = False
    share: int = 1

    def limit_threads(self) -> None:
        """Gives torch its threads; called by the actor, on whose machine the cores are counted."""
        sharing = self.share if self.device == "cpu" else nodes.gpus_here()
        torch.set_num_threads(self.threads or max(1, (os.cpu_count() or 1) // sharing))
