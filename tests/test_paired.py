"""The paired statistics against their brute-force forms, and against what can be said beforehand."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from fercore.analysis import significance

SAMPLES = [[0.4, -0.1], [1.0, 2.0, 4.0], [-1.0, 0.5, 0.25, 2.0], [0.3, -0.2, 0.9, 1.4, -0.7]]


@pytest.mark.parametrize("d", SAMPLES, ids=len)
def test_interval_is_that_of_all_resamples(d):
    means = sorted(statistics.fmean(sample) for sample in itertools.product(d, repeat=len(d)))
    reached = [m for m in means if sum(x <= m + 1e-12 for x in means) >= 0.025 * len(means)]
    left = [m for m in means if sum(x >= m - 1e-12 for x in means) >= 0.025 * len(means)]
    assert significance.interval(d) == pytest.approx((reached[0], left[-1]))


def test_interval_of_two_and_three_is_their_range():
    assert significance.interval([0.4, -0.1]) == pytest.approx((-0.1, 0.4))
    assert significance.interval([1.0, 2.0, 4.0]) == pytest.approx((1.0, 4.0))
    assert all(map(math.isnan, significance.interval([1.0]) + significance.interval([])))


def test_interval_of_many_is_near_the_normal_one():
    d = np.random.default_rng(3).normal(0.5, 1, 400).tolist()
    half, mean = 1.96 * statistics.pstdev(d) / 20, statistics.fmean(d)
    assert significance.interval(d) == pytest.approx((mean - half, mean + half), abs=0.01)
    assert significance.interval(d) == significance.interval(d)


@pytest.mark.parametrize("d", [*SAMPLES, [0.5], [0.0, 0.0], [1.0, -1.0, 2.0]], ids=str)
def test_p_value_is_the_share_of_flips_at_least_as_far(d):
    flips = list(itertools.product((-1, 1), repeat=len(d)))
    far = [f for f in flips if abs(sum(s * x for s, x in zip(f, d))) >= abs(sum(d)) - 1e-12]
    assert significance.p_value(d) == pytest.approx(len(far) / len(flips))


@pytest.mark.parametrize("n", range(1, 10))
def test_one_sign_gives_the_least_p_and_nothing_gives_less(n):
    assert significance.p_value([0.1 * (i + 1) for i in range(n)]) == significance.least_p(n) == 2 / 2**n
    assert significance.p_value([(-1) ** i * 1.0 for i in range(n)]) >= significance.least_p(n)


def test_ties_count_as_far_in_spite_of_rounding():
    d = [0.1, 0.2, -0.3, 0.3]  # 0.1 + 0.2 - 0.3 is not 0 in floating point
    exact = significance.p_value([1.0, 2.0, -3.0, 3.0])
    assert significance.p_value(d) == exact


def test_more_seeds_than_can_be_flipped_are_tested_as_normal():
    d = np.random.default_rng(1).normal(0.2, 1, significance.FLIPS).tolist()
    exact = significance.p_value(d)
    assert 0.01 < exact < 0.99 and exact * 2**significance.FLIPS % 1 == 0
    assert significance.p_value([*d, statistics.fmean(d)]) == pytest.approx(exact, abs=0.05)
    assert math.isnan(significance.p_value([]))


def test_holm_is_the_step_down_procedure():
    """A comparison is rejected at alpha exactly where its adjusted p is at most alpha."""
    p = [0.012, 0.2, 0.004, 0.03, 0.03]
    adjusted = significance.holm(p)
    assert adjusted == pytest.approx([0.048, 0.2, 0.02, 0.09, 0.09])
    for alpha in (0.01, 0.03, 0.05, 0.1, 0.25):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[i] > alpha / (len(p) - step):
                break
            rejected.add(i)
        assert rejected == {i for i, q in enumerate(adjusted) if q <= alpha}
    assert significance.holm([]) == [] and significance.holm([0.6, 0.9]) == [1.0, 1.0]
    assert significance.holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)


def test_seeds_needed_is_the_first_number_that_can_pass():
    for comparisons in (1, 2, 12, 64):
        n = significance.seeds_needed(comparisons, 0.05)
        assert comparisons * significance.least_p(n) <= 0.05 < comparisons * significance.least_p(n - 1)


def test_the_table_corrects_within_a_family_and_leaves_single_seeds_out():
    points = {("a", 10, 0): 1.0, ("a", 10, 1): 2.0, ("b", 10, 0): -1.0, ("b", 10, 1): -3.0, ("c", 10, 0): 5.0,
              ("a", 20, 0): 4.0, ("a", 20, 1): 5.0}  # fmt: skip
    d = pd.Series(points.values(), pd.MultiIndex.from_tuples(points, names=["method", "labels", "seed"]))
    table = significance.table(d, ["labels", "method"], ["labels"])
    assert list(table.n) == [2, 2, 1, 2] and list(table.p) == [0.5, 0.5, 1.0, 0.5]
    assert table["p, Holm"].tolist() == pytest.approx([1.0, 1.0, math.nan, 0.5], nan_ok=True)
    assert table.loc[(10, "b"), ["difference", "lower", "upper"]].tolist() == [-2.0, -3.0, -1.0]
    assert significance.table(d[:0], ["labels", "method"], ["labels"]).empty
