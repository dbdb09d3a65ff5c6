"""Faults of devices: told from those of rows, found before work, and never made a row's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cluster import devices
from pipeline.input.rows import InputRow
from pipeline.worker import restore
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import job, png

ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("unspecified"),
        RuntimeError(ILLEGAL),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        devices.DeviceFault("held"),
    ],
)
def test_what_a_device_does_is_no_fault_of_the_row(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Restorer(job(tmp_path, tmp_path / "out"), ActorOptions("cpu", 4, 1))

    def fail(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(restore, "restore", fail)
    with pytest.raises(type(error)) as raised:
        worker([InputRow("a", "s", png(1)), InputRow("b", "s", png(2))])
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("kernel larger than the image"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_what_a_row_or_its_batch_brings_about_is_no_fault_of_the_device(error: Exception) -> None:
    assert not devices.is_fault(error)
    assert devices.is_out_of_memory(error) == (not isinstance(error, ValueError))


@pytest.mark.parametrize(
    ("total", "others", "held"),
    [(5, 1.5, False), (5, 2.5, True), (10, 1.5, False), (80, 7, False), (80, 9, True)],
)
def test_a_context_is_not_taken_for_another_process(
    total: float, others: float, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole GPU and of a slice of one, in GiB; this process has reserved one."""
    free = total - others - 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 2**30), int(total * 2**30)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    assert devices.is_held_by_others("cuda") == held


def test_a_fault_ends_the_process_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(devices.os, "_exit", ended.append)
    with pytest.raises(RuntimeError, match="illegal"), devices.ending_the_process():
        raise RuntimeError(ILLEGAL)
    with pytest.raises(ValueError, match="of a row"), devices.ending_the_process():
        raise ValueError("of a row")
    assert ended == [devices.FAILED]


def test_a_sound_device_passes_and_an_absent_one_does_not() -> None:
    devices.check("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(devices.DeviceFault, match="device: 'cuda' is not to be had here"):
            devices.check("cuda")


def test_a_device_that_convolves_wrongly_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = devices.conv2d, []

    def wrong_at_first(*given: Any) -> Any:
        calls.append(given)
        return right(*given) * (1.2 if len(calls) == 1 else 1.0)

    monkeypatch.setattr(devices, "conv2d", wrong_at_first)
    with pytest.raises(devices.DeviceFault, match="gives a wrong convolution"):
        devices.check("cpu")
