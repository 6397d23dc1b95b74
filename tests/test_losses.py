"""Losses against loops written from the equations, and the learning rates."""

import math

import pytest
import torch
import toy

from fercore.losses import info_nce, kept_mean, masked_mean, soft_cross_entropy
from fercore.training import loop, simclr


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


def test_masked_mean_divides_by_the_whole_batch():
    values, keep = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, False])
    assert masked_mean(values, keep) == 1.0  # (1 + 3) / 4, not / 2
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool)) == 0.0


def test_kept_mean_divides_by_the_kept():
    values, keep = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, False])
    assert kept_mean(values, keep) == 2.0
    assert kept_mean(values, torch.zeros(4, dtype=torch.bool)) == 0.0


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


@pytest.mark.parametrize(
    "share, expected", [(0, 1.0), (0.25, 0.9415), (0.5, 0.7730), (0.75, 0.5141), (1, 0.1951)]
)
def test_cosine_schedule(share, expected):
    config = toy.config(schedule="cosine", steps=400, lr=0.1)
    assert loop.rate(config, round(share * 400)) == pytest.approx(0.1 * expected, abs=1e-5)


def test_constant_schedule():
    assert {loop.rate(toy.config(lr=0.1, steps=50), step) for step in range(50)} == {0.1}


def test_rate_of_pretraining_warms_up_and_falls_to_zero():
    config = simclr.Pretrain("own", 100, 24, warmup=0.1, lr=2.0)
    assert [simclr.rate(config, step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert simclr.rate(config, 55) == pytest.approx(1.0)  # half of the cosine
    assert 0 < simclr.rate(config, 99) < 0.01
