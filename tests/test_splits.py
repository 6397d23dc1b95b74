"""Label splits: counts against a loop form, disjointness, and what they may depend on."""

import numpy as np
import pytest

from fercore.data.expressions import EXPRESSIONS
from fercore.data.splits import draw
from fercore.errors import UserError

# RAF-DB's training set (class counts of the official list) in a fixed, shuffled order.
COUNTS = (1290, 281, 717, 4772, 1982, 705, 2524)
POOL = np.random.default_rng(7).permutation(np.repeat(np.arange(7), COUNTS)).astype(np.int64)


def split(budget, seed=0, dataset="fer2013", labels=POOL, classes=EXPRESSIONS, **options):
    return draw(labels, budget, seed, dataset=dataset, classes=classes, **options)


@pytest.mark.parametrize(
    ("budget", "fear", "others"), [(100, 10, 15), (400, 40, 60), (1000, 100, 150), (2000, 200, 300), (4000, 250, 625)]
)
def test_rafdb_as_adacm(budget, fear, others):
    drawn = split(budget, dataset="rafdb")
    assert drawn.counts == [others, fear, others, others, others, others, others]
    assert sum(drawn.counts) == budget


@pytest.mark.parametrize("budget", [7, 98, 400, 401, 405, 1000, 1960])
def test_counts_as_a_loop_gives_them(budget):
    wanted, left = [budget // 7] * 7, budget - 7 * (budget // 7)
    for c in sorted(range(7), key=lambda c: (-COUNTS[c], c))[:left]:
        wanted[c] += 1
    drawn = split(budget)
    assert drawn.counts == wanted
    assert [sum(1 for i in drawn.labelled if POOL[i] == c) for c in range(7)] == wanted


def test_ties_go_to_the_first_class():
    assert split(5, labels=np.repeat(np.arange(3), 4), classes=("a", "b", "c")).counts == [2, 2, 1]


@pytest.mark.parametrize("include", [False, True])
def test_lists_are_sorted_disjoint_and_whole(include):
    drawn = split(400, validation=0.25, include_labelled=include)
    labelled, unlabelled, validation = (
        set(part.tolist()) for part in (drawn.labelled, drawn.unlabelled, drawn.validation)
    )
    assert not validation & (labelled | unlabelled)
    assert (labelled <= unlabelled) if include else not (labelled & unlabelled)
    assert labelled | unlabelled | validation == set(range(len(POOL)))
    for part in (drawn.labelled, drawn.unlabelled, drawn.validation):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("include", [False, True])
def test_twins_of_labelled_and_held_out_faces_are_in_no_list(include):
    options = {"validation": 0.25, "include_labelled": include}
    plain = split(400, **options)
    first, rest = np.arange(len(POOL)), np.setdiff1d(plain.unlabelled, plain.labelled)
    first[rest[:3]] = plain.labelled[0]  # two unlabelled faces and a third one look like a labelled face,
    first[rest[3]] = plain.validation[0]  # one like a held-out face,
    first[plain.labelled[2]] = first[plain.labelled[1]]  # two labelled ones like each other,
    first[rest[5]] = first[rest[4]]  # and two unlabelled ones, which may
    drawn = split(400, twins=first, **options)
    assert drawn.twins == 4 and plain.twins == 0 and drawn.hash != plain.hash
    assert drawn.unlabelled.tolist() == np.setdiff1d(plain.unlabelled, rest[:4]).tolist()
    for part in ("labelled", "validation", "counts"):
        assert np.array_equal(getattr(drawn, part), getattr(plain, part))


def test_validation_is_a_share_of_the_labelled_class_by_class():
    drawn, plain = split(700, validation=0.2), split(700)
    np.testing.assert_array_equal(np.bincount(POOL[drawn.validation]), [20] * 7)
    np.testing.assert_array_equal(np.union1d(drawn.labelled, drawn.validation), plain.labelled)
    assert drawn.counts == [80] * 7


def test_draws_are_of_seed_budget_and_validation_alone_and_those_of_always():
    """NumPy guarantees its raw streams: if the hash changes, so has the split of every record."""
    assert split(70).hash == "e7f72f4cb2f11683"
    before = split(400, 3)
    np.random.seed(1)
    assert split(400, 3).hash == before.hash
    np.testing.assert_array_equal(split(400, 3).labelled, before.labelled)
    hashes = {split(400, seed).hash for seed in range(20)} | {split(401, 0).hash, split(400, 0, validation=0.1).hash}
    assert len(hashes) == 22


def test_budgets_of_one_seed_are_independent_draws():
    """100 and 200 of 705 angry faces share 28 by chance (standard deviation 4.2); nested ones would share 100."""
    anger = [set(part.labelled[POOL[part.labelled] == 5].tolist()) for part in (split(700), split(1400))]
    assert 12 < len(anger[0] & anger[1]) < 45


def test_order_of_the_classes_does_not_matter():
    order = np.array([4, 2, 6, 0, 1, 5, 3])
    turned = split(700, labels=np.argsort(order)[POOL], classes=tuple(EXPRESSIONS[c] for c in order))
    np.testing.assert_array_equal(turned.labelled, split(700).labelled)


def test_other_classes_do_not_matter():
    """Taking faces of the last class away leaves the draws of the others as they were."""
    few = np.concatenate([np.flatnonzero(POOL != 6), np.flatnonzero(POOL == 6)[:200]])
    few.sort()
    left, whole = few[split(700, labels=POOL[few]).labelled], split(700).labelled
    np.testing.assert_array_equal(left[POOL[left] != 6], whole[POOL[whole] != 6])


@pytest.mark.parametrize("budget", ["all", 0, sum(COUNTS)])
def test_full_supervision(budget):
    drawn = split(budget, dataset="rafdb")
    assert drawn.counts == list(COUNTS)
    assert len(drawn.unlabelled) == 0
    assert len(split(budget, include_labelled=True).unlabelled) == len(POOL)


def test_each_face_is_drawn_equally_often():
    """500 seeds, 3 of 10: every face between 115 and 185 times (mean 150, standard deviation 10.2)."""
    labels = np.zeros(10, np.int64)
    drawn = np.concatenate([split(3, seed, labels=labels, classes=("a",)).labelled for seed in range(500)])
    assert 115 < np.bincount(drawn).min() <= np.bincount(drawn).max() < 185


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        (2100, {}, "class fear has 281 training faces, 2100 labels in total need 300"),
        (4001, {"dataset": "rafdb"}, "class fear has 281"),
        (10**6, {}, "1000000 labels asked for, the training set has 12271"),
        (-1, {}, "-1 labels asked for"),
        ("some", {}, "labels='some'"),
        (70, {"validation": 1.0}, "validation=1.0; expected a share"),
        (70, {"seed": -1}, "split_seed=-1; expected 0 or more"),
        (7, {"validation": 0.5}, "1 labels of surprise leave none for training"),
    ],
)
def test_impossible_budgets(budget, options, message):
    with pytest.raises(UserError, match=message):
        split(budget, **options)
