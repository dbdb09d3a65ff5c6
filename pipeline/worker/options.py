"""How an actor works, as the driver chooses it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActorOptions:
    """device: cpu or cuda. batch_size: images to restore together. threads: of torch on the CPU.

    tune: measures whether fewer images together are as fast, and takes as few. share: actors that share a
    machine's memory; a GPU is one's own.
    """

    device: str
    batch_size: int
    threads: int
    tune: bool = False
    share: int = 1
