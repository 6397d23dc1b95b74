"""MixUp of a batch with itself (Zhang et al. 2018), in MixMatch's form."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from fercore.augment import send


def mixup(
    inputs: Float[Tensor, "n c h w"], targets: Float[Tensor, "n k"], alpha: float, generator: Generator
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k"]]:
    """x' = l' x + (1 - l') x[pi], y' likewise (MixMatch eqs. 8-11), l' = max(l, 1 - l), l ~ Beta(alpha, alpha).

    One l for each row, as its authors draw it. l' >= 1/2 keeps a row closest to its own source, so that rows of
    labelled faces still count as labelled. With alpha = 0 nothing is mixed. The draws are made on the host.
    """
    if not alpha:
        return inputs, targets
    n = len(inputs)
    draw = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
    share = draw.beta(alpha, alpha, n).astype(np.float32)
    share = send(torch.from_numpy(np.maximum(share, 1 - share))[:, None], inputs.device)
    other = send(torch.randperm(n, generator=generator), inputs.device)
    mixed = torch.lerp(inputs[other], inputs, share[:, :, None, None])
    return mixed, torch.lerp(targets[other], targets, share)


def mixup_views(
    labelled: Float[Tensor, "b c h w"],
    labels: Int64[Tensor, " b"],
    views: tuple[Float[Tensor, "m c h w"], ...],
    target: Float[Tensor, "m k"],
    alpha: float,
    generator: Generator,
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k"]]:
    """MixUp over the labelled faces, first, and all views of the unlabelled ones, which share one target."""
    y = one_hot(labels, target.shape[1]).to(target.dtype)
    return mixup(torch.cat([labelled, *views]), torch.cat([y, *[target] * len(views)]), alpha, generator)
