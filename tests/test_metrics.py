"""Metrics against loops, and the two scores of a start."""

import math

import pytest
import torch
import torch.nn.functional as F

from fercore.training import metrics, probe

K = 5


def predictions(n=200, seed=0):
    """Class probabilities and truths in which class 3 never occurs."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor([0, 1, 2, 4])[torch.randint(4, (n,), generator=generator)]
    logits = torch.randn(n, K, generator=generator) + 1.2 * F.one_hot(truth, K)
    return logits.softmax(1), truth


def test_confusion_recall_and_f1_as_loops():
    p, truth = predictions()
    predicted = p.argmax(1)
    counts = metrics.confusion(predicted, truth, K)
    pairs = list(zip(truth.tolist(), predicted.tolist()))
    assert counts.tolist() == [[pairs.count((t, c)) for c in range(K)] for t in range(K)]
    recall, f1 = [], []
    for c in range(K):
        hit = sum(t == c == q for t, q in pairs)
        true, named = sum(t == c for t, _ in pairs), sum(q == c for _, q in pairs)
        recall.append(hit / true if true else None)
        if true:
            precision = hit / named if named else 0.0
            f1.append(2 * precision * recall[c] / (precision + recall[c]) if hit else 0.0)
    assert pairs and any(q == 3 for _, q in pairs)  # named, and never right
    assert recall[3] is None and metrics.recall(counts) == pytest.approx(recall)
    assert len(f1) == K - 1 and metrics.macro_f1(counts) == pytest.approx(sum(f1) / (K - 1))
    assert metrics.untested(counts.tolist(), "abcde") == ["d"]


@pytest.mark.parametrize(
    "counts, recall, f1, absent",
    [
        ([[3, 0, 0], [0, 4, 0], [0, 0, 0]], [1.0, 1.0, None], 1.0, ["c"]),  # all are right: two classes, both whole
        ([[0, 0, 3], [0, 4, 0], [0, 0, 0]], [0.0, 1.0, None], 0.5, ["c"]),  # taken for a class that cannot be tested
        ([[3, 0, 0], [0, 4, 0], [2, 0, 0]], [1.0, 1.0, 0.0], (0.75 + 1 + 0) / 3, []),  # never right: 0, and counted
        ([[5, 0, 0], [0, 0, 0], [0, 0, 0]], [1.0, None, None], 1.0, ["b", "c"]),
    ],
)
def test_a_class_without_a_test_face_is_in_no_mean(counts, recall, f1, absent):
    assert metrics.recall(torch.tensor(counts)) == recall
    assert metrics.macro_f1(torch.tensor(counts)) == pytest.approx(f1)
    assert metrics.untested(counts, ["a", "b", "c"]) == absent


def test_calibration_error_as_a_loop():
    p, truth = predictions(300)
    confidence, predicted = p.max(1)
    error = 0.0
    for b in range(15):
        inside = [i for i in range(300) if b <= confidence[i] * 15 < b + 1 or (b == 14 and confidence[i] == 1)]
        if inside:
            accuracy = sum(bool(predicted[i] == truth[i]) for i in inside) / len(inside)
            error += len(inside) / 300 * abs(accuracy - sum(float(confidence[i]) for i in inside) / len(inside))
    assert metrics.calibration_error(p, truth) == pytest.approx(error, abs=1e-6)


def test_calibration_error_of_certainty():
    truth = torch.tensor([0, 1, 1, 0])
    p = F.one_hot(torch.tensor([0, 1, 0, 0]), 2).float()  # confidence 1 lies in the last bin
    assert metrics.calibration_error(p, truth) == pytest.approx(0.25)
    assert metrics.calibration_error(F.one_hot(truth, 2).float(), truth) == 0.0


def test_evaluation_says_the_same_as_its_parts():
    p, truth = predictions()
    entry = metrics.evaluation(p, truth, step=7)
    assert entry["step"] == 7
    assert entry["accuracy"] == pytest.approx(float((p.argmax(1) == truth).float().mean()), abs=1e-5)
    assert sum(map(sum, entry["confusion"])) == 200 and len(entry["recall"]) == K
    assert [sum(row) for row in entry["confusion"]] == torch.bincount(truth, minlength=K).tolist()


def test_nearest_neighbours_by_brute_force():
    generator = torch.Generator().manual_seed(1)
    train, test = torch.randn(60, 4, generator=generator), torch.randn(25, 4, generator=generator)
    labels = torch.randint(3, (60,), generator=generator)
    truth = torch.randint(3, (25,), generator=generator)
    right = 0
    for x, true in zip(test.tolist(), truth.tolist()):
        cosine = []
        for t in train.tolist():
            cosine.append(sum(a * b for a, b in zip(x, t)) / (math.hypot(*x) * math.hypot(*t)))
        nearest = sorted(range(60), key=lambda i: -cosine[i])[:7]
        votes = [sum(math.exp(cosine[i] / 0.07) for i in nearest if labels[i] == c) for c in range(3)]
        right += votes.index(max(votes)) == true
    assert probe.nearest_neighbours(train, labels, test, truth, k=7) == pytest.approx(right / 25)


def test_more_neighbours_than_faces():
    x, labels = torch.eye(3), torch.arange(3)
    assert probe.nearest_neighbours(x, labels, x, labels, k=20) == 1.0


def test_linear_probe_separates_what_is_separable():
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (90,), generator=generator)
    x = torch.randn(90, 6, generator=generator) + 6 * F.one_hot(labels, 6)
    assert probe.linear_probe(x[:60], labels[:60], x[60:], labels[60:]) > 0.95
    shuffled = labels[torch.randperm(90, generator=generator)]
    assert probe.linear_probe(x[:60], shuffled[:60], x[60:], shuffled[60:]) < 0.7
