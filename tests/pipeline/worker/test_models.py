"""What a model computes in: `auto` by the device, and TF32 where a job says so."""

from __future__ import annotations

import pytest
import torch

from pipeline.accelerators import own_dtype
from pipeline.config import ModelConfig
from pipeline.worker.models import load


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_auto_is_bfloat16_on_gpus_that_multiply_it(capability: tuple[int, int] | None, expected: str) -> None:
    assert own_dtype(capability) == expected


@pytest.mark.parametrize(("dtype", "allowed"), [("tf32", True), ("auto", False), ("float32", False)])
def test_tf32_is_what_the_job_says_whatever_torch_would_do(dtype: str, allowed: bool) -> None:
    model = load(ModelConfig.model_validate({"id": "tiny", "device": "cpu", "dtype": dtype}))
    assert model.dtype == torch.float32
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
