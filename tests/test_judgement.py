"""The rule of judgement: every state from numbers whose verdict can be worked out by hand."""

import math

import pytest

from fercore.analysis import judgement
from fercore.analysis.judgement import (
    CONTRADICTED,
    INCONCLUSIVE,
    NO_GAIN,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
)  # fmt: skip

TEN = [1.0, 1.2, 0.9, 1.1, 1.3, 0.8, 1.0, 1.2, 0.9, 1.1]


@pytest.mark.parametrize("n, points", [(2, 4.6), (3, 1.8), (5, 1.1), (10, 0.68), (20, 0.46)])
def test_smallest_effect_at_a_deviation_of_0_8_points(n, points):
    assert judgement.smallest_effect(0.8, n) == pytest.approx(points, rel=0.03)


@pytest.mark.parametrize(
    "differences, published, state",
    [
        ([], [], NOT_TESTED),
        ([3.0], [2.0], INCONCLUSIVE),
        ([3.0, 3.1, 2.9, 3.0], [2.0], INCONCLUSIVE),  # n < 5, however clear
        (TEN, [], REPRODUCED),
        ([-x for x in TEN], [], CONTRADICTED),
        ([x - 1.0 for x in TEN], [], NO_GAIN),  # mean 0.05, within half a point
        ([3.0, -3.0] * 5, [], INCONCLUSIVE),  # its interval holds both 0 and gains that matter
        ([-3.0, 2.0, -2.5, 1.5, -2.0, 1.8, -1.9, 1.2, -2.1, 1.0], [2.0], NOT_REPRODUCED),  # below 1, not above -1
        ([0.1, 0.1, 0.1, 0.1, 9.0], [], INCONCLUSIVE),
        ([0.6, 0.9, 0.7, 0.8, -0.2, -0.2, 0.8, 0.7, -0.1, 0.9], [], INCONCLUSIVE),  # 70 % agree
    ],
)
def test_states(differences, published, state):
    assert judgement.of(differences, published).state == state


def test_gates():
    unused = judgement.of(TEN, kept=[0.0005, 0.4])
    assert (unused.state, unused.note) == (NOT_TESTED, "its pseudo-labels were never used")
    assert judgement.of(TEN, kept=[0.001, None]).state == REPRODUCED
    assert judgement.of([0.0] * 10, alike=True).state == NOT_TESTED


def test_margin_is_half_the_smallest_published_gain_and_at_least_half_a_point():
    assert judgement.margin([]) == judgement.margin([0.4, 3.0]) == 0.5 and judgement.margin([3.0, 1.6]) == 0.8


def test_p_is_the_weaker_of_two_tests():
    assert judgement.one_sided([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 32)  # of the flips
    assert judgement.one_sided([2.0] * 5) == 1 / 32 and judgement.one_sided([-1.0] * 5) == 1.0
    assert math.isnan(judgement.one_sided([1.0]))


def test_holm_over_a_page_takes_back_what_one_claim_alone_would_have():
    five = [1.0, 1.2, 0.9, 1.1, 1.3]  # p = 1/32
    one = judgement.of(five)
    assert one.state == REPRODUCED
    pair = judgement.page([one, one], [1.0, 1.0])
    assert [v.state for v in pair] == [INCONCLUSIVE] * 2 and pair[0].p == pytest.approx(2 / 32)
    with_untested = judgement.page([one, judgement.of([])], [1.0, 0.0])
    assert [v.state for v in with_untested] == [REPRODUCED, NOT_TESTED]


@pytest.mark.parametrize(
    "steps, state",
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, INCONCLUSIVE], INCONCLUSIVE),
        ([REPRODUCED, NOT_REPRODUCED, CONTRADICTED], CONTRADICTED),
        ([REPRODUCED, NOT_TESTED], INCONCLUSIVE),
        ([NOT_TESTED], NOT_TESTED),
        ([], NOT_TESTED),
        ([NO_GAIN, REPRODUCED], INCONCLUSIVE),
    ],
)
def test_an_ordering_holds_where_every_step_does(steps, state):
    assert judgement.ordering(steps) == state


def test_what_is_said():
    assert judgement.said(judgement.of([])) == "not tested (no pair of runs)"
    said = judgement.said(judgement.of(TEN, [2.0, 4.0]))
    assert said == "reproduced, but smaller than published: +1.05 points [+0.96, +1.14], n = 10, MDE 0.13"
    assert judgement.said(judgement.of([3.0])) == "inconclusive: +3.00 points, n = 1"
