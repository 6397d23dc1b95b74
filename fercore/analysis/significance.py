"""Differences paired over seeds: bootstrap interval of their mean, sign-flip test, Holm's correction.

Few seeds are the rule here: then every resample and every flip of signs is enumerated, and the results are exact.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

import numpy as np

EXACT = 50_000  # resamples or flips are enumerated up to this many; beyond, as many are drawn


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
    n = len(d)
    if not n:
        return math.nan
    if 2**n <= EXACT:
        signs, known = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), 0
    else:  # the measured signs are one of the flips
        signs, known = np.random.default_rng(0).choice((-1, 1), size=(EXACT, n)), 1
    far = np.abs(signs @ d) >= abs(d.sum()) - 1e-9 * np.abs(d).sum()
    return float((far.sum() + known) / (len(far) + known))


def sign_test(plus: int, minus: int) -> float:
    """Two-sided exact sign test: so many differences above 0 and below it, ties left out; 1 without any.

    McNemar's exact test, where the two answers to each of many questions are right or wrong.
    """
    n = plus + minus
    tail = sum(math.comb(n, i) for i in range(min(plus, minus) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))


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


def seeds_needed(comparisons: int, alpha: float) -> int:
    """The least n at which the first of so many comparisons can pass Holm's correction."""
    return max(1, math.ceil(1 + math.log2(comparisons / alpha) - 1e-9))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given; not above 1."""
    p = np.asarray(p, float)
    order = p.argsort(kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return out.tolist()
