"""The end of a run most of whose rows fail alike: what spoils a data set is better found early."""

from __future__ import annotations

from collections import Counter, deque

import pyarrow as pa

from pipeline.messages import cause
from pipeline.run.failures import GOES_ON, LimitReached

RECENT = 1000  # rows that are looked at
FEWEST = 50  # that must have failed alike


class TooManyErrors(LimitReached):
    """One cause failed more than a job's `error_share` of its rows."""


class Breaker:
    """Counts the causes of errors. share: of the recent rows that one may have; None for all of them."""

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._errors: deque[str | None] = deque(maxlen=RECENT)

    def committed(self, receipts: pa.Table) -> None:
        """Takes note of rows, by the column `error`. Raises TooManyErrors."""
        self._errors.extend(receipts.column("error").to_pylist())
        failed = [error for error in self._errors if error is not None]
        if self._share is None or not failed:
            return
        common, count = Counter(cause(error) for error in failed).most_common(1)[0]
        if count >= FEWEST and count > self._share * len(self._errors):
            last = next(error for error in reversed(failed) if cause(error) == common)
            raise TooManyErrors(
                f"{count} of the last {len(self._errors)} rows failed alike, more than error_share = "
                f"{self._share:g} of them; the last of them: {last}. {GOES_ON}, and --retry-errors does "
                "failed rows again; set error_share higher, or to null, if so many are bad"
            )
