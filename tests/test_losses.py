"""Losses against loops written from the equations, and the schedules of learning rates."""

import math

import pytest
import torch
import toy

from fercore.losses import info_nce, kept_mean, masked_mean, soft_cross_entropy
from fercore.training import loop


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(rows(*shape, seed=seed), dim=1)


def test_soft_cross_entropy_is_minus_sum_q_log_p():
    logits, target = rows(5, 7), rows(5, 7, seed=1).softmax(1)
    expected = []
    for z, q in zip(logits.tolist(), target.tolist()):
        total = sum(math.exp(v) for v in z)
        expected.append(-sum(q[c] * math.log(math.exp(z[c]) / total) for c in range(7)))
    assert torch.allclose(soft_cross_entropy(logits, target), torch.tensor(expected), atol=1e-5)


def test_soft_cross_entropy_of_certain_logits_is_finite():
    logits = torch.tensor([[1e4, 0.0, 0.0]])
    assert soft_cross_entropy(logits, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(1e4)


def test_means_over_the_whole_batch_and_over_the_kept():
    values, keep, none = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 0, 1, 0]) > 0, torch.zeros(4) > 0
    assert masked_mean(values, keep) == 1.0  # (1 + 3) / 4, not / 2
    assert kept_mean(values, keep) == 2.0
    assert masked_mean(values, none) == kept_mean(values, none) == 0.0


def test_info_nce_as_a_loop_over_the_2b_rows():
    first, second, temperature = unit(4, 6), unit(4, 6, seed=1), 0.3
    z, terms = torch.cat([first, second]).tolist(), []
    for i in range(8):
        score = [math.exp(sum(a * b for a, b in zip(z[i], z[j])) / temperature) for j in range(8)]
        partner = (i + 4) % 8
        terms.append(-math.log(score[partner] / sum(score[j] for j in range(8) if j != i)))
    assert info_nce(first, second, temperature).item() == pytest.approx(sum(terms) / 8, rel=1e-5)


def test_info_nce_knows_pairs_from_strangers():
    views = unit(6, 8)
    assert info_nce(views, views, 0.1) < info_nce(views, views.roll(1, 0), 0.1)


@pytest.mark.parametrize("kept", [(0, 2, 3), (1, 4), (0, 1, 2, 3, 4)])
def test_info_nce_among_the_kept_is_that_of_the_kept_alone(kept):
    first, second = unit(5, 6), unit(5, 6, seed=1)
    for view in (first, second):
        view.requires_grad_()
    keep = torch.tensor([i in kept for i in range(5)])
    loss, alone = info_nce(first, second, 0.07, keep), info_nce(first[list(kept)], second[list(kept)], 0.07)
    assert torch.allclose(loss, alone, atol=1e-5)
    loss.backward()
    for view in (first, second):
        assert torch.equal(view.grad.abs().sum(1) > 0, keep)


@pytest.mark.parametrize("kept", [(), (2,)])
def test_info_nce_of_less_than_two_faces_is_zero(kept):
    first = unit(4, 6).requires_grad_()
    loss = info_nce(first, unit(4, 6, seed=1), 0.07, torch.tensor([i in kept for i in range(4)]))
    loss.backward()
    assert loss == 0 and first.grad.isfinite().all() and first.grad.abs().max() < 1e-6


def test_schedules_as_shares_of_the_learning_rate():
    cosine = toy.config(schedule="cosine", steps=400)
    shares = [loop.schedule(cosine, step) for step in (0, 100, 200, 300, 400)]
    assert shares == pytest.approx([1.0, 0.9415, 0.7730, 0.5141, 0.1951], abs=1e-4)
    assert {loop.schedule(toy.config(steps=50), step) for step in range(50)} == {1.0}
