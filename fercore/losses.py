"""Losses, each a plain function, in fp32."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def soft_cross_entropy(logits: Float[Tensor, "m k"], target: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
    """H(q, p) = -sum_c q_c log p_c for each row; p = softmax(logits), q a distribution (SIT-FER eq. 9)."""
    return -(target * F.log_softmax(logits, dim=1)).sum(1)


def masked_mean(values: Float[Tensor, " m"], keep: Bool[Tensor, " m"]) -> Float[Tensor, ""]:
    """(1/m) sum_u 1[keep_u] v_u: over the whole batch, as in FixMatch and SIT-FER (eq. 9), not over the kept."""
    return (values * keep).mean()


def info_nce(
    first: Float[Tensor, "b e"], second: Float[Tensor, "b e"], temperature: float
) -> Float[Tensor, ""]:
    """NT-Xent over 2b unit embeddings (SimCLR, Chen et al. 2020, eq. 1).

    Row i of `first` and row i of `second` are two views of one face; for each of the 2b rows the
    other view is the positive and the remaining 2b - 2 rows are the negatives.
    """
    z = torch.cat([first, second])
    similarity = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    b = len(first)
    partner = torch.arange(2 * b, device=z.device).roll(b)
    return F.cross_entropy(similarity, partner)
