"""A cell of a Parquet table as the bytes of an image, mask or kernel.

| column                                             | bytes |
|----------------------------------------------------|-------|
| binary, or Hugging Face's struct of bytes and path | as they are |
| list of whole numbers from 0 to 255                | the bytes of a file, one a number |
| nested lists or tensor, in the image column        | a PNG of these pixels |
| nested lists or tensor, in another column          | a .npy file of these numbers as float32 |

Pixels are whole numbers from 0 to 255: height x width, or height x width x 1 (grey), 3 (RGB) or 4 (RGBA).
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pictures.images import encode_png

CHANNELS = (1, 3, 4)
WITHOUT_BYTES = (
    "a path without bytes, {path!r}; paths are not followed: pack the files themselves (p2l shard), or embed "
    "them (datasets.table.embed_table_storage)"
)


def as_bytes(cell: pa.Array, *, pixels: bool = False) -> bytes | None:
    """An array of one cell as bytes, by the rules at the top of this file; None for null.

    pixels: nested numbers are a picture. Raises ValueError for anything else.
    """
    if cell.null_count:
        return None
    kind = cell.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _of_struct(cell[0].as_py())
    if isinstance(kind, pa.BaseExtensionType) or _is_list(kind):
        numbers = _numbers(cell)
        if numbers.ndim == 1 and _are_bytes(numbers):
            return numbers.astype(np.uint8).tobytes()
        return _picture(numbers) if pixels else npy(numbers)
    value = cell[0].as_py()
    if not isinstance(value, bytes):
        followed = "; paths and addresses are not followed" if isinstance(value, str) else ""
        raise ValueError(f"expected bytes, a struct of bytes, or nested numbers, got {kind}{followed}")
    return value


def npy(numbers: np.ndarray) -> bytes:
    """A .npy file of numbers as float32."""
    buffer = io.BytesIO()
    np.save(buffer, numbers.astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def _of_struct(value: dict[str, object]) -> bytes | None:
    """The bytes of Hugging Face's {bytes, path}."""
    data = value["bytes"]
    if data is None and value.get("path") is not None:
        raise ValueError(WITHOUT_BYTES.format(path=value["path"]))
    if not isinstance(data, bytes | None):
        raise ValueError(f"expected a struct of bytes, got one of {type(data).__name__}")
    return data


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(cell: pa.Array) -> np.ndarray:
    """The numbers of a cell in the shape that it states or nests them in; no Python object for each."""
    if isinstance(cell.type, pa.BaseExtensionType):
        tensor = cell[0]
        values = tensor.to_numpy() if hasattr(tensor, "to_numpy") else tensor.as_py()
        if not isinstance(values, np.ndarray):
            raise ValueError(f"expected bytes or numbers, got {cell.type}")
        return _real(values)
    shape = []
    while _is_list(cell.type):
        lengths = pc.unique(pc.list_value_length(cell)).to_pylist()
        if len(lengths) != 1 or lengths == [None]:
            raise ValueError("nested numbers that are empty or whose rows differ in length")
        shape += lengths
        cell = cell.flatten()
    if cell.null_count:
        raise ValueError("nested numbers with nulls among them")
    if not (
        pa.types.is_integer(cell.type) or pa.types.is_floating(cell.type) or pa.types.is_boolean(cell.type)
    ):
        raise ValueError(f"expected bytes or nested numbers, got a list of {cell.type}")
    return _real(cell.to_numpy(zero_copy_only=False)).reshape(shape)


def _real(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, got {values.dtype}")
    return values


def _are_bytes(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" and (not values.size or (values.min() >= 0 and values.max() <= 255))


def _picture(values: np.ndarray) -> bytes:
    """Pixels as a PNG file, lossless."""
    shape = " x ".join(map(str, values.shape))
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"pixels of {values.dtype} have no stated range; store whole numbers from 0 to 255, or the bytes "
            "of a file"
        )
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in CHANNELS):
        raise ValueError(
            f"numbers of shape {shape}; a picture is height x width, or height x width x 1, 3 or 4 "
            "(channels last: transpose what has them first)"
        )
    if not values.size:
        raise ValueError(f"a picture of {shape} pixels")
    if not _are_bytes(values):
        raise ValueError(f"pixels from {values.min()} to {values.max()}; allowed: 0 to 255")
    return encode_png(values.astype(np.uint8))
