"""Masks and kernels that come as numbers: .npy files."""

from __future__ import annotations

import io
import math

import numpy as np

NPY = b"\x93NUMPY"


def read_npy(data: bytes) -> np.ndarray:
    """A .npy file of finite real numbers as float32 (height, width). No memory before its data is seen there.

    Raises ValueError for other types and shapes: an array of objects is a pickle, and is not opened.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version > (2, 0):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}; allowed: 1.0 and 2.0")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, columns_first, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}; allowed: real numbers")
    stored = len(data) - file.tell()
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != stored:
        raise ValueError(f"an array of shape {shape} and type {dtype} in {stored:,} bytes")
    with np.errstate(over="ignore"):  # to infinity, which is refused
        values = np.frombuffer(data, dtype, offset=file.tell()).astype(np.float32)
    array = values.reshape(shape, order="F" if columns_first else "C")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):  # one channel, first or last
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers (height, width), got shape {shape}")
    return array
