"""Weights and thresholds that move with the share of the training that is done.

Lengths are shares, not steps: the originals count on 2^20 steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SIGNALS = ("none", "linear", "exp", "log")


def ramp(progress: Float[Tensor, ""], length: float) -> Float[Tensor, ""]:
    """0 at the start, 1 once the share `length` of the training is done, a straight line between."""
    return (progress / length).clamp(max=1.0) if length else torch.ones_like(progress)


def training_signal(progress: Float[Tensor, ""], kind: str, classes: int) -> Float[Tensor, ""]:
    """eta_t = a_t (1 - 1/k) + 1/k (UDA, Xie et al. 2020): from 1/k to 1 over the training.

    a_t is t (linear), exp(5 (t - 1)) (exp) or 1 - exp(-5 t) (log); for "none", 1 from the start.
    """
    a = {
        "none": torch.ones_like,
        "linear": lambda t: t,
        "exp": lambda t: torch.exp(5 * (t - 1)),
        "log": lambda t: 1 - torch.exp(-5 * t),
    }[kind](progress)
    return a * (1 - 1 / classes) + 1 / classes
