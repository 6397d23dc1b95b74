"""MixMatch (Berthelot et al. 2019). Equation numbers are the paper's.

    q_u = sharpen((1/2) sum_v softmax(g(w_v(u))), T), no gradient                                (6, 7)
    x'  = l' x + (1 - l') x[pi],  y' likewise,  l' = max(l, 1 - l),  l ~ Beta(alpha, alpha)     (8-11)
          over the labelled faces and both views of the unlabelled ones
    L_X = (1/B) sum H(y', p(x'))                                                                   (3)
    L_U = (1/(k |U'|)) sum ||q' - p(u')||^2                                                        (4)
    L   = L_X + lambda_u r(t) L_U                                                                  (5)

The mixed images pass as one batch, so that the authors' interleaving of batches has nothing left to do; the guessing
leaves no trace in the running statistics, as theirs does not.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss

from fercore.config import Positive, Share, Weight
from fercore.encoders import ImageEncoder
from fercore.fusion import sharpen
from fercore.losses import soft_cross_entropy
from fercore.methods.api import Batch, Step
from fercore.mixing import mixup_views
from fercore.schedules import ramp

NAME, FAMILY = "MixMatch", "mixing"
VIEWS = {"weak": 2, "strong": 0}
LEARNS_FROM_WEAK = True  # the mixed images hold them
SUPERVISED = {"alpha": 0.0}


@dataclass(frozen=True)
class Config:
    """The authors' constants but for weight and ramp: theirs guess one class for every face in a short training."""

    temperature: Positive = 0.5  # MixMatch: T
    alpha: Weight = 0.75  # MixMatch
    lambda_u: Weight = 10.0  # USB, for a network that is trained already and small batches
    ramp: Share = 1.0  # YU1ut: the whole training


VARIANTS: dict[str, dict] = {"authors": {"lambda_u": 75.0, "ramp": 1 / 64}}  # CIFAR-10's; 2^14 of 2^20 steps


def step(model: ImageEncoder, batch: Batch, state: nn.Module, config: Config) -> Step:
    """Both losses on mixed images."""
    one, two = model.untracked_forward(*batch.weak)
    p = (one.logits.softmax(1) + two.logits.softmax(1)) / 2  # (6)
    q = sharpen(p, config.temperature)  # (7)
    images, targets = mixup_views(batch.labelled, batch.labels, batch.weak, q, config.alpha, batch.generator)  # (8-11)
    (mixed,) = model.joint_forward(images)
    b = len(batch.labels)
    losses = {
        "labelled": soft_cross_entropy(mixed.logits[:b], targets[:b]).mean(),  # (3)
        "unlabelled": mse_loss(mixed.logits[b:].softmax(1), targets[b:]),  # (4)
    }
    total = losses["labelled"] + config.lambda_u * ramp(batch.progress, config.ramp) * losses["unlabelled"]  # (5)
    return Step(total, losses, q, torch.ones_like(q[:, 0], dtype=torch.bool), {"semantic": p})
