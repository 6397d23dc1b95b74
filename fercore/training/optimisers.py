"""Adam over the parameters as they lie in memory.

Convolution weights are channels last; fused Adam copies what is not contiguous in the order of its
dimensions, twice, at every step. Permuted views of the same memory are contiguous, and Adam is
elementwise: same numbers, half the time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def in_memory_order(tensor: Tensor) -> Tensor:
    """A view whose dimensions follow the memory of a channels-last tensor; others as they are."""
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor


class Adam:
    """`torch.optim.Adam` (AdamW with a `weight_decay`), fused, over views of `parameters`.

    Make it after the parameters are on their device. Arguments are those of torch.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        self.parameters = list(parameters)
        self.views = [nn.Parameter(in_memory_order(p.detach())) for p in self.parameters]
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        self.inner = kind(self.views, lr=lr, weight_decay=weight_decay, fused=True)

    def step(self, lr: float) -> None:
        """One update at this learning rate with the gradients at hand, which are then dropped."""
        for group in self.inner.param_groups:
            group["lr"] = lr
        for parameter, view in zip(self.parameters, self.views):
            view.grad = None if parameter.grad is None else in_memory_order(parameter.grad)
        self.inner.step()
        for parameter, view in zip(self.parameters, self.views):
            parameter.grad = view.grad = None

    def state_dict(self) -> dict:
        """Moments and step counts."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """The inverse of `state_dict`."""
        self.inner.load_state_dict(state)
