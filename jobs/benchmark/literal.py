"""P2L as one writes it down from the paper over diffusers' own classes, one image at a time.

What `speed` holds the engine's batches against; the operator and its proximal map are the engine's.

| symbol | code | meaning |
|---|---|---|
| z, C | z, C | latent (1, C, h, w), embedding of the prompt (1, L, D) |
| z_0|t | z0 | posterior mean, Eq. 14, of a network that predicts v |
| E, D | encode, decode | encoder's mean and decoder, with the scaling of latents |
| a, a' | a, before | share of signal before and after the step |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from p2l_engine.priors.fetch import local_folder
from p2l_engine.solvers.base import Problem
from p2l_engine.solvers.p2l import P2L
from p2l_engine.tiny.architecture import new_scheduler
from p2l_engine.tiny.train import read_snapshot


@dataclass(frozen=True)
class Literal:
    """The shipped model's networks, their weights frozen, and its schedule; all of diffusers' classes."""

    vae: Any
    unet: Any
    scheduler: Any

    @staticmethod
    def load(dtype: torch.dtype, device: torch.device) -> Literal:
        vae, unet, _ = read_snapshot(local_folder("tiny"), str(device))
        for part in (vae, unet):  # not by diffusers' own, which warns of parts that there are none of
            nn.Module.to(part.eval().requires_grad_(False), dtype)
        return Literal(vae, unet, new_scheduler())

    def encode(self, x: Tensor) -> Tensor:
        return self.vae.encode(x).latent_dist.mean * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(z / self.vae.config.scaling_factor).sample

    def restore(self, problem: Problem, method: P2L, z: Tensor) -> Tensor:
        """The image (1, 3, H, W) of a problem of one image by Algorithms 1 and 2 from z.

        method: P2L as the preset `tiny` has it; its step of the gradient is in proportion to a.
        """
        A, y, C = problem.A, problem.y, problem.C
        guidance, projection, finish = method.guidance, method.projection, method.finish
        assert C is not None and guidance and projection and finish
        self.scheduler.set_timesteps(method.steps)
        times = self.scheduler.timesteps.tolist()
        shares = [*self.scheduler.alphas_cumprod[times], self.scheduler.final_alpha_cumprod]

        def predict(z: Tensor, C: Tensor, t: int, a: Tensor) -> tuple[Tensor, Tensor]:
            v = self.unet(z, t, C).sample
            return a.sqrt() * v + (1 - a).sqrt() * z, a.sqrt() * z - (1 - a).sqrt() * v

        def residual(z0: Tensor) -> Tensor:
            return (y - A(self.decode(z0))).norm()

        for place, t in enumerate(times):
            step, a, before = len(times) - place, shares[place], shares[place + 1]
            if method.prompt_tuning is not None:
                C = C.detach().requires_grad_()
                adam = torch.optim.Adam([C], method.prompt_tuning.learning_rate)
                for _ in range(method.prompt_tuning.iterations):
                    z0 = predict(z, C, t, a)[1]
                    leaf = z0.detach().requires_grad_()
                    z0 = z0 - torch.autograd.grad(residual(leaf), leaf)[0]
                    adam.zero_grad()
                    residual(z0).square().backward()
                    adam.step()
                C = C.detach()
            z = z.detach().requires_grad_()
            eps, z0 = predict(z, C, t, a)
            gradient = torch.autograd.grad(residual(z0), z)[0]
            with torch.no_grad():
                if step % projection.every == 0:
                    z0 = self.encode(problem.proximal(self.decode(z0), projection.weight))
                    if step > 1:
                        share = projection.fresh_noise
                        eps = (1 - share) ** 0.5 * eps + share**0.5 * problem.noise(eps)
                z = before.sqrt() * z0 + (1 - before).sqrt() * eps - guidance.step_size * a * gradient
        with torch.no_grad():
            return finish.applied(problem, self.decode(z)).clamp(-1, 1)
