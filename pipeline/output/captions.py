"""captions/<shard>.parquet: the captions of a shard's pictures, made before any of them is restored.

key, caption, error: why there is no caption, null where there is one. Written whole, in the input's order.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.columns import Row
from pipeline.output.folder import CAPTIONS, OutputFolder
from pipeline.stores import storage

FINGERPRINT = b"p2l.fingerprint"  # in a file's metadata: of the settings that its captions were made with


def captions_file(shard: str) -> str:
    """By its path below the output."""
    return f"{CAPTIONS}/{shard}.parquet"


def write(output: OutputFolder, shard: str, rows: Sequence[Row], fingerprint: str) -> None:
    """rows: key, caption and error of every row of the shard."""
    fields = [(name, pa.string()) for name in ("key", "caption", "error")]
    schema = pa.schema(fields, metadata={FINGERPRINT: fingerprint})
    with storage.write_whole(output.at(captions_file(shard))) as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), file, compression="zstd")


def holds(
    output: OutputFolder, shard: str, keys: Sequence[object], fingerprint: str, *, count_errors: bool
) -> bool:
    """Whether a shard has the captions of these rows, made with the settings of that fingerprint.

    count_errors: a row that could not be captioned has been done as well.
    """
    try:
        with output.open(captions_file(shard)) as parquet:
            of = (parquet.schema_arrow.metadata or {}).get(FINGERPRINT, b"").decode()
            found = parquet.read(["key", "error"])
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    tried_again = not count_errors and found["error"].null_count < len(found)
    return of == fingerprint and found["key"].to_pylist() == list(keys) and not tried_again


def by_key(output: OutputFolder, shard: str) -> dict[str, Row]:
    """`caption` and `error` of each row of a shard by its key: of this file, else as the rows have them."""
    file = captions_file(shard)
    files = [file] if storage.exists(output.at(file)) else output.files_of(shard)
    found: dict[str, Row] = {}
    for name in files:
        for row in output.read(name, ("key", "caption", "error")).to_pylist():
            if row["caption"] is not None or row["key"] not in found:
                found[row["key"]] = row
    return found
