"""A network over images as one differentiable function.

| symbol | here |
|---|---|
| eps_theta(x_t, t), or eps_theta(x_t, t, label) | `predict_noise` |
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from p2l_engine.priors import layout
from p2l_engine.priors.architecture import LINEAR_BETAS
from p2l_engine.priors.computing import bytes_of, check_device, check_dtype, memory_format
from p2l_engine.priors.networks import half
from p2l_engine.priors.networks.checkpointing import checkpoint_blocks
from p2l_engine.priors.networks.frozen import keep_less
from p2l_engine.schedule import ForwardProcess, Schedule, make_schedule, noise_of, read_forward_process

if TYPE_CHECKING:
    from diffusers import UNet2DModel


class PixelDiffusion:
    """A pixel-domain diffusion model with frozen parameters, differentiable with respect to its tensors.

    The network computes in `dtype`; what goes in and comes out is float32 (float64 when `dtype` is float64).

    name: the id it was loaded by.
    device, dtype: where and in what precision the network computes.
    classes: how many labels there are, of which the network asks for one; None where it asks for none.
    image_multiple: H and W of an image have to be multiples of it, so that they pass the U-Net's halvings.
    native_size: side in pixels of the images that the model was trained on.
    weight_bytes: of the network, in `dtype`.
    process: how it was trained; its alphas_cumprod are (N,) float64 on the CPU.
    evaluations: noise predictions made so far, one for each image of each call.
    """

    kind: ClassVar[Literal["pixel"]] = "pixel"

    def __init__(
        self,
        *,
        unet: "UNet2DModel",
        scheduler_config: Mapping[str, Any] = LINEAR_BETAS,
        name: str = "in memory",
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> None:
        """Takes the network over: it is moved, converted, frozen and set to evaluation in place.

        Raises ValueError when it is no noise predictor over images, or the device or dtype is not to be had.
        """
        self.device, self.dtype = check_device(device), check_dtype(dtype)
        # Only a configuration that was saved names its class.
        problems = layout.check_pixel_architecture({**unet.config, "_class_name": type(unet).__name__})
        if problems:
            raise ValueError(f"model {name!r}: " + "; ".join(problems))
        self.name = name
        torch.nn.Module.to(unet, self.device, self.dtype)
        self._unet: Any = unet.eval().requires_grad_(False)
        self._unet.to(memory_format=memory_format(self.device, self.dtype))
        keep_less(self._unet)
        self.weight_bytes = bytes_of(self._unet)
        self._outer_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.classes: int | None = unet.config.num_class_embeds
        self.image_multiple: int = 2 ** (len(unet.config.block_out_channels) - 1)
        self.native_size: int = unet.config.sample_size
        self.process: ForwardProcess = read_forward_process(scheduler_config)
        self.evaluations = 0

    def schedule(self, steps: int) -> Schedule:
        """The timesteps to visit in `steps` steps, spaced as the model's scheduler configuration says."""
        return make_schedule(self.process, steps)

    def checkpoint_activations(self, on: bool) -> None:
        """Whether gradients keep little and compute the rest again, see `networks/checkpointing.py`."""
        checkpoint_blocks(self._unet, on)

    def predict_noise(self, x: Tensor, t: int, label: int | None = None) -> Tensor:
        """The noise in x (B, 3, H, W) at training timestep t, given a class label where there are `classes`.

        Of a network with six channels the last three, a variance that no method here asks for, are left out.
        """
        self.evaluations += len(x)
        x = x.to(self.device, self._outer_dtype)
        timestep = torch.full((), t, device=self.device)  # filled there: a copy would wait for a GPU
        labels = None if label is None else torch.full((len(x),), label, device=self.device)
        given = half.into(x, self.dtype)
        prediction = self._unet(given, timestep, class_labels=labels).sample[:, :3]
        return noise_of(self.process, half.out_of(prediction, self._outer_dtype), x, t)
