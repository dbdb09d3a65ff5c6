"""When a run whose rows fail alike is ended."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.run.breaker import FEWEST, Breaker, TooManyErrors
from pipeline.worker.receipts import RECEIPT_SCHEMA


def receipts(*errors: str | None) -> pa.Table:
    return pa.Table.from_pylist([{"error": error} for error in errors], schema=RECEIPT_SCHEMA)


def test_one_cause_above_the_share_ends_the_run_and_is_named() -> None:
    breaker = Breaker(0.2)
    for row in range(FEWEST - 1):
        breaker.committed(receipts(f"cannot restore the image: row {row}"))
    with pytest.raises(
        TooManyErrors, match="50 of the last 50 rows failed alike.*: row 49. What is committed"
    ):
        breaker.committed(receipts("cannot restore the image: row 49"))


def test_a_smaller_share_or_many_causes_do_not() -> None:
    breaker = Breaker(0.2)
    for _ in range(400):
        breaker.committed(receipts("cannot restore the image: x", None, None, None, None))
    many = Breaker(0.2)
    for cause in "abcdefgh" * 200:
        many.committed(receipts(f"{cause}: x"))


def test_errors_long_ago_are_forgotten() -> None:
    breaker = Breaker(0.2)
    breaker.committed(receipts(*["a: x"] * 40, *[None] * 1000))
    breaker.committed(receipts(*["a: x"] * 49))


def test_without_a_share_all_may_fail() -> None:
    Breaker(None).committed(receipts(*["a: x"] * 500))
