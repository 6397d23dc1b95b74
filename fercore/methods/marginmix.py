"""MarginMix (Florea et al., ECCV 2020), reconstructed: neither its margin loss nor its code is public.

Known: a network that gives an embedding and a prediction; MixMatch's mixing; self-labels by the distance to the class
centroids in the embedding space; a loss that asks for a large margin between clusters. Ours is the rest:

    e = unit feature;   c_k <- rho c_k + (1 - rho) mean of the batch's labelled e of class k, to unit length
    q_u proportional to exp(-||e_u - c_k||^2 / t), e_u the mean of two weak views, then sharpened by T
    L_X, L_U: MixMatch's, on mixed images                                                        (its 3, 4)
    L_M = (1/B) sum_b max(0, ||e_b - c_yb||^2 - min_{j != yb} ||e_b - c_j||^2 + margin), labelled, not mixed
    L   = L_X + r(t) (lambda_u L_U + lambda_m L_M)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.config import Positive, Share, Weight
from fercore.encoders import ImageEncoder
from fercore.fusion import sharpen
from fercore.losses import soft_cross_entropy
from fercore.memory import Centroids
from fercore.methods.api import Batch, Context, Encode, Step
from fercore.mixing import mixup_views
from fercore.schedules import ramp

NAME, FAMILY = "MarginMix, reconstructed", "mixing"
VIEWS = {"weak": 2, "strong": 0}
LEARNS_FROM_WEAK = True  # the mixed images hold them
SUPERVISED = {"alpha": 0.0}


@dataclass(frozen=True)
class Config:
    """MixMatch's constants; those of centroids and margin are chosen by us. There are no authors' ones to select."""

    temperature: Positive = 0.5  # MixMatch: T
    alpha: Weight = 0.75  # MixMatch
    lambda_u: Weight = 10.0  # as in our MixMatch row
    ramp: Share = 1.0  # as in our MixMatch row
    scale: Positive = 0.1  # chosen: t; for unit vectors a cosine temperature of 0.05, SIT-FER's T'
    rho: Share = 0.9  # chosen
    margin: Weight = 0.5  # chosen
    lambda_m: Weight = 0.1  # chosen


class State(nn.Module):
    """The centroids."""

    def __init__(self, context: Context, config: Config):
        super().__init__()
        self.centroids = Centroids(context.classes, context.width, config.rho)


state = State


def prepare(encode: Encode, slots: Tensor, labels: Tensor, state: State) -> None:
    """Centroids of all labelled faces."""
    state.centroids.begin(encode().embedding, labels)


def step(model: ImageEncoder, batch: Batch, state: State, config: Config) -> Step:
    """MixMatch's losses under labels from the centroids, and the margin."""
    one, two = model.untracked_forward(*batch.weak)
    p = (-state.centroids((one.embedding + two.embedding) / 2) / config.scale).softmax(1)
    q = sharpen(p, config.temperature)
    images, targets = mixup_views(batch.labelled, batch.labels, batch.weak, q, config.alpha, batch.generator)
    mixed, labelled = model.joint_forward(images, batch.labelled)
    b, y = len(batch.labels), F.one_hot(batch.labels, p.shape[1])
    d = state.centroids(labelled.embedding)
    own, nearest = (d * y).sum(1), d.masked_fill(y.bool(), float("inf")).amin(1)
    losses = {
        "labelled": soft_cross_entropy(mixed.logits[:b], targets[:b]).mean(),
        "unlabelled": F.mse_loss(mixed.logits[b:].softmax(1), targets[b:]),
        "margin": F.relu(own - nearest + config.margin).mean(),
    }
    extra = config.lambda_u * losses["unlabelled"] + config.lambda_m * losses["margin"]
    state.centroids.move(labelled.embedding, batch.labels)
    total = losses["labelled"] + ramp(batch.progress, config.ramp) * extra
    return Step(total, losses, q, torch.ones_like(q[:, 0], dtype=torch.bool), {"centroids": p})
