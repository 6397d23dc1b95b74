"""When a claim is reproduced: the one rule, of which every verdict of the study is made.

A claim says that one arm is better than another. Each seed gives one difference, in points; d are those of n seeds.

    delta   the margin: max(0.5 points, half the smallest published gain)
    [L, U]  the 90 % t-interval of the mean of d
    p       one-sided, against a mean of 0 or less: the larger of Student's t test and the exact sign-flip test
    Holm    of p, over the primary claims of a page

    reproduced       n >= 5, L > 0, Holm's p <= 0.05, and at least 75 % of d above 0
    contradicted     n >= 5, U < 0, and Holm's p of the opposite claim <= 0.05
    no gain          n >= 5, -delta < L and U < delta (two one-sided tests: Schuirmann 1987)
    not reproduced   n >= 5 and U < delta otherwise
    inconclusive     all else
    not tested       no pair; or an arm that never used its pseudo-labels; or two arms with one history
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from fercore.analysis.significance import holm

REPRODUCED, CONTRADICTED, NO_GAIN = "reproduced", "contradicted", "no gain"
NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTED = "not reproduced", "inconclusive", "not tested"
STATES = (REPRODUCED, CONTRADICTED, NO_GAIN, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTED)
LEAST = 5  # seeds
MARGIN = 0.5  # points
AGREE = 0.75  # of the seeds, in sign
ALPHA, POWER = 0.05, 0.8
UNUSED = 0.001  # share of the pseudo-labels that were kept, below which they were never used


@dataclass(frozen=True)
class Verdict:
    """A state, and what it stands on; in points, NaN where n is too small. `note` says what a state leaves open."""

    state: str
    n: int = 0
    mean: float = math.nan
    deviation: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    p: float = math.nan  # that the claim holds by chance, after Holm
    opposite: float = math.nan  # the same of the opposite claim
    mde: float = math.nan  # the smallest effect that n seeds of this spread show with 80 % power
    delta: float = MARGIN
    published: float = math.nan  # the smallest gain
    note: str = ""


def margin(published: Iterable[float]) -> float:
    """delta: points that matter."""
    return max([MARGIN, *[min(gains) / 2 for gains in [list(published)] if gains]])


def smallest_effect(deviation: float, n: int) -> float:
    """MDE80: the mean difference that a one-sided t test of n pairs with this deviation finds with 80 % power."""
    if n < 2 or not deviation > 0:
        return math.nan
    critical = stats.t.ppf(1 - ALPHA, n - 1)

    def lacks(effect: float) -> float:
        return stats.nct.sf(critical, n - 1, effect) - POWER

    return float(deviation / math.sqrt(n) * optimize.brentq(lacks, 0.0, 50.0))


def one_sided(differences: Sequence[float]) -> float:
    """p of a mean of 0 or less: the larger of the t test's and the exact sign-flip test's; NaN for fewer than two."""
    d = np.asarray(differences, float)
    if len(d) < 2:
        return math.nan
    if np.ptp(d) == 0:  # the t test divides by no spread
        return 0.5 ** len(d) if d[0] > 0 else 1.0
    flips = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", alternative="greater", n_resamples=2**16, random_state=0
    )
    return float(max(flips.pvalue, stats.ttest_1samp(d, 0, alternative="greater").pvalue))


def of(
    differences: Sequence[float],
    published: Sequence[float] = (),
    kept: Iterable[float | None] = (),
    alike: bool = False,
) -> Verdict:
    """The verdict on one claim, before Holm's correction.

    `differences`: one for each seed, in points. `published`: the gains that the paper prints. `kept`: the shares of
    pseudo-labels in the loss of the arms that learn from them. `alike`: whether both arms have one history.
    """
    n, delta, least = len(differences), margin(published), min(published, default=math.nan)
    if not n:
        return Verdict(NOT_TESTED, delta=delta, published=least, note="no pair of runs")
    d = np.asarray(differences, float)
    deviation = float(d.std(ddof=1)) if n > 1 else math.nan
    half = deviation / math.sqrt(n) * float(stats.t.ppf(0.95, n - 1)) if n > 1 else math.nan
    mean, mde = float(d.mean()), smallest_effect(deviation, n)
    sides = [one_sided(d.tolist()), one_sided((-d).tolist())]
    found = Verdict(INCONCLUSIVE, n, mean, deviation, mean - half, mean + half, *sides, mde, delta, least)
    if any(share is not None and share < UNUSED for share in kept):
        return replace(found, state=NOT_TESTED, note="its pseudo-labels were never used")
    if alike:
        return replace(found, state=NOT_TESTED, note="both arms have the same history")
    return replace(found, state=_state(found, float((d > 0).mean())))


def page(verdicts: Sequence[Verdict], agree: Sequence[float]) -> list[Verdict]:
    """The verdicts on the primary claims of a page: p corrected by Holm over them, and the states that follow.

    `agree`: for each, the share of seeds above 0.
    """
    tested = [verdict.state != NOT_TESTED for verdict in verdicts]
    for side in ("p", "opposite"):
        p = holm([getattr(v, side) if t else math.nan for v, t in zip(verdicts, tested)])
        verdicts = [replace(v, **{side: value}) for v, value in zip(verdicts, p)]
    return [replace(v, state=_state(v, share)) if t else v for v, share, t in zip(verdicts, agree, tested)]


def _state(v: Verdict, agree: float) -> str:
    if v.n < LEAST:
        return INCONCLUSIVE
    if v.lower > 0 and v.p <= ALPHA and agree >= AGREE:
        return REPRODUCED
    if v.upper < 0 and v.opposite <= ALPHA:
        return CONTRADICTED
    if -v.delta < v.lower and v.upper < v.delta:
        return NO_GAIN
    return NOT_REPRODUCED if v.upper < v.delta else INCONCLUSIVE


def ordering(states: Iterable[str]) -> str:
    """Of a claim of several steps: reproduced only if every step is; contradicted or not reproduced if any step is."""
    found = list(states)
    for state in (CONTRADICTED, NOT_REPRODUCED):
        if state in found:
            return state
    tested = [state for state in found if state != NOT_TESTED]
    if not tested:
        return NOT_TESTED
    return REPRODUCED if all(state == REPRODUCED for state in found) else INCONCLUSIVE


def said(v: Verdict) -> str:
    """The verdict with what it stands on, e.g. "reproduced: +7.2 points [6.5, 7.9], n = 10, MDE 0.7"."""
    if not v.n:
        return f"{v.state} ({v.note})"
    smaller = v.state == REPRODUCED and v.upper < v.published
    words = f"{v.state}, but smaller than published" if smaller else v.state
    interval = f" [{v.lower:+.2f}, {v.upper:+.2f}]" if v.n > 1 else ""
    mde = f", MDE {v.mde:.2f}" if v.mde == v.mde else ""
    note = f" ({v.note})" if v.note else ""
    return f"{words}{note}: {v.mean:+.2f} points{interval}, n = {v.n}{mde}"
