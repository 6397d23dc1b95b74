"""Ramps and the signal of the training, against the oracles of the fact sheet."""

import pytest
import torch

from fercore.schedules import SIGNALS, ramp, training_signal

ORACLE = {  # at the shares 0, 1/4, 1/2, 3/4 and 1 of the training, for seven classes
    "none": [1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.1429, 0.3571, 0.5714, 0.7857, 1.0],
    "exp": [0.1486, 0.1630, 0.2132, 0.3884, 1.0],
    "log": [0.1429, 0.7544, 0.9296, 0.9798, 0.9942],
}


def test_every_signal_has_an_oracle():
    assert set(ORACLE) == set(SIGNALS)


@pytest.mark.parametrize("kind", SIGNALS)
def test_training_signal(kind):
    at = [training_signal(torch.tensor(t), kind, 7).item() for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert at == pytest.approx(ORACLE[kind], abs=6e-5)


@pytest.mark.parametrize(
    "length, expected", [(0.4, [0.0, 0.25, 1.0, 1.0]), (1.0, [0.0, 0.1, 0.4, 1.0]), (0.0, [1.0] * 4)]
)
def test_ramp(length, expected):
    assert [ramp(torch.tensor(t), length).item() for t in (0.0, 0.1, 0.4, 1.0)] == pytest.approx(expected)
