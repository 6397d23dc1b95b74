"""Differences paired over seeds: bootstrap interval of their mean, sign-flip test, Holm's correction.

Few seeds are the rule here: then every resample and every flip of signs is enumerated, and the results are exact.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats

ALPHA = 0.05
EXACT = 50_000  # resamples are enumerated up to this many; beyond, as many are drawn
FLIPS = 15  # differences whose flips are enumerated; beyond, the t test: as many seeds as that are nearly normal


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; NaN for less than two differences.

    Of n differences all n^n resamples count alike. For two and three of them it is their range.
    """
    d = np.asarray(differences, float)
    n = len(d)
    if n < 2:
        return math.nan, math.nan
    if n**n <= EXACT:
        rows = np.indices((n,) * n).reshape(n, -1)
    else:
        rows = np.random.default_rng(0).integers(n, size=(n, EXACT))
    means, tail = d[rows].mean(0), (1 - level) / 2
    low, high = (np.quantile(side, tail, method="inverted_cdf") for side in (means, -means))
    return float(low), float(-high)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided sign-flip permutation test of the mean against 0; NaN without a difference.

    Where the two rows are alike, each difference is as likely as its opposite: p is the share of the 2^n flips whose
    mean is at least as far from 0 as the measured one.
    """
    d = np.asarray(differences, float)
    if len(d) < 2:
        return 1.0 if len(d) else math.nan
    if len(d) > FLIPS:
        return float(stats.ttest_1samp(d, 0).pvalue)
    return float(stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue)


def sign_test(plus: int, minus: int) -> float:
    """Two-sided exact sign test: so many differences above 0 and below it, ties left out; 1 without any.

    McNemar's exact test, where the two answers to each of many questions are right or wrong.
    """
    return float(stats.binomtest(plus, plus + minus).pvalue) if plus + minus else 1.0


def counted_interval(plus: int, minus: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Normal interval of the mean of n differences, so many of them +1 and -1 and the others 0; NaN for n = 0."""
    if not n:
        return math.nan, math.nan
    mean = (plus - minus) / n
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(0.0, (plus + minus) / n - mean**2) / n)
    return mean - half, mean + half


def least_p(n: int) -> float:
    """The smallest p that `p_value` can give for n differences: all of one sign, 2 of 2^n flips."""
    return min(1.0, 2 / 2**n)


def seeds_needed(comparisons: int, alpha: float = ALPHA) -> int:
    """The least n at which the first of so many comparisons can pass Holm's correction."""
    return max(1, math.ceil(1 + math.log2(comparisons / alpha) - 1e-9))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given; not above 1. NaN counts as no test and stays."""
    p = np.asarray(p, float)
    order = p.argsort(kind="stable")  # NaN last
    out = np.full_like(p, math.nan)
    tested = order[: np.isfinite(p).sum()]
    out[tested] = np.minimum(1, np.maximum.accumulate(p[tested] * np.arange(len(tested), 0, -1)))
    return out.tolist()


def table(differences: pd.Series, by: list[str], family: list[str]) -> pd.DataFrame:
    """Differences in points, tested by these levels of their index: n, mean, standard deviation, interval, p.

    p, Holm: corrected over the comparisons that agree in the levels `family` and have two differences or more; one
    difference has no spread, and so no test.
    """
    groups = differences.groupby(by, sort=False)
    out = groups.agg(n="count", difference="mean", spread="std")
    out[["lower", "upper"]] = [interval(d.tolist()) for _, d in groups] or np.empty((0, 2))
    out["p"] = [p_value(d.tolist()) for _, d in groups]
    out["p, Holm"] = out.p.where(out.n > 1).groupby(family, sort=False).transform(lambda p: holm(p.tolist()))
    return out
