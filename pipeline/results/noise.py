"""Does a residual fit the noise? A check of a restoration that needs no original.

For the true image the residual y - A x is the noise, so that m residual^2 / sigma^2 of m measured numbers has
a chi-square distribution with m degrees of freedom: residual / sigma is near 1, the nearer the larger m. Far
above, a restoration did not use its measurement; far below, it fitted the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from pipeline.messages import some

COLUMNS = ("residual", "measured")
FITS = 0.5, 2.0  # times the noise: residuals that are taken for its own
WARNED = 0.1, 5.0  # below and above which a restoration is warned of
CONFIDENCE = 0.999  # of the chi-square: few measured numbers may be farther off by chance
QUANTILES = (0.05, 0.5, 0.95)
KEYS_SHOWN = 5


@dataclass(frozen=True)
class NoiseCheck:
    """ratios: (N,) residual / noise of the `ok` rows. fitting: the share of those that the noise explains.

    below, above: the keys of rows that are warned of. expected: of true images, the range that 99.9 % lie in;
    None where rows do not say how much was measured.
    """

    noise: float
    ratios: np.ndarray
    fitting: float
    below: tuple[str, ...]
    above: tuple[str, ...]
    expected: tuple[float, float] | None

    def told(self) -> str:
        """In one sentence."""
        low, median, high = np.quantile(self.ratios, QUANTILES)
        true = "" if self.expected is None else "; true images {:.2f} to {:.2f}".format(*self.expected)
        return (
            f"the residual is {FITS[0]:g} to {FITS[1]:g} times the noise of {self.noise:g} in "
            f"{self.fitting:.1%} of {len(self.ratios):,} rows: median {median:.3g}, "
            f"90 % in {low:.3g} to {high:.3g}{true}"
        )

    def warnings(self) -> list[str]:
        """A sentence on each kind of rows that do not fit."""
        found = (
            (self.above, f"above {WARNED[1]:g} times", "did not use their measurements"),
            (self.below, f"below {WARNED[0]:g} times", "fitted the noise"),
        )
        return [
            f"{len(keys)} of {len(self.ratios)} rows {what}: their residuals are {where} the noise of "
            f"{self.noise:g}: {some(keys, KEYS_SHOWN)}"
            for keys, where, what in found
            if keys
        ]


def check(rows: pa.Table, noise: float) -> NoiseCheck | None:
    """Of rows with key, status, and COLUMNS; None without noise, or without a row that is ok."""
    ok = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["residual"])))
    if not noise or not len(ok):
        return None
    keys = np.array(ok["key"].to_pylist(), object)
    ratios = ok["residual"].cast(pa.float64()).to_numpy() / noise
    measured = ok["measured"].cast(pa.float64()).to_numpy(zero_copy_only=False)  # not-a-number for null
    measured = np.where(measured > 0, measured, np.nan)
    low, high = (
        np.sqrt(stats.chi2.ppf(share, measured) / measured)
        for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    )
    known = np.isfinite(measured).any()
    fits = (ratios >= np.fmin(low, FITS[0])) & (ratios <= np.fmax(high, FITS[1]))
    return NoiseCheck(
        noise,
        ratios,
        float(fits.mean()),
        tuple(keys[ratios < np.fmin(low, WARNED[0])]),
        tuple(keys[ratios > np.fmax(high, WARNED[1])]),
        (float(np.nanmin(low)), float(np.nanmax(high))) if known else None,
    )
