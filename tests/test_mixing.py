"""MixUp: what is mixed with what, by how much, and from which draws."""

import pytest
import torch

from fercore.mixing import mixup


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def shares(n, alpha, seed=0):
    """Own share and partner of every row: unit vectors are mixed as the targets."""
    _, mixed = mixup(torch.zeros(n, 3, 1, 1), torch.eye(n), alpha, draws(seed))
    own = mixed.diagonal()
    return own, (mixed - own.diag()).argmax(1)


def test_images_and_targets_are_mixed_alike():
    images = torch.randn(6, 3, 4, 4, generator=draws(1))
    targets = torch.randn(6, 5, generator=draws(2)).softmax(1)
    own, other = shares(6, 0.75)
    mixed, names = mixup(images, targets, 0.75, draws())
    for i in range(6):
        share, j = own[i], int(other[i])
        j = i if share == 1 else j
        assert torch.allclose(mixed[i], share * images[i] + (1 - share) * images[j], atol=1e-6)
        assert torch.allclose(names[i], share * targets[i] + (1 - share) * targets[j], atol=1e-6)


def test_alpha_zero_mixes_nothing():
    images, targets = torch.randn(4, 3, 2, 2), torch.eye(4)
    mixed, names = mixup(images, targets, 0.0, draws())
    assert mixed is images and names is targets


@pytest.mark.parametrize("alpha, mean", [(0.5, 0.8183), (0.75, 0.7784), (1.0, 0.7501)])
def test_a_row_stays_closest_to_its_own_source(alpha, mean):
    own, _ = shares(2000, alpha)
    assert own.min() >= 0.5 and own.max() <= 1 and len(own.unique()) > 1000  # max(l, 1 - l), one l for each row
    # E[max(l, 1 - l)], facts; a row that meets itself counts as 1: 1 of 2,000. Five standard errors.
    assert own.mean().item() == pytest.approx(mean, abs=5 * 0.16 / 2000**0.5)


def test_partners_are_a_permutation():
    own, other = shares(200, 0.75)
    assert len({int(j) for i, j in enumerate(other) if own[i] < 1}) == int((own < 1).sum()) >= 195


def test_draws_are_of_the_generator_alone():
    one = shares(50, 0.75)
    torch.manual_seed(5)
    again, another = shares(50, 0.75), shares(50, 0.75, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one, again))
    assert not any(torch.equal(a, b) for a, b in zip(one, another))
