"""ReMixMatch (Berthelot et al. 2020): MixMatch with distribution alignment and augmentation anchoring.

    q_u   = sharpen(DA(softmax(g(w(u)))), T), no gradient; one target for every view of u
    x', y'= MixUp over the labelled faces, the strong views s_1 ... s_K and the weak view     (MixMatch 8-11)
    L_X   = (1/B) sum H(y', p(x')),   L_U = (1/|U'|) sum H(q', p(u'))
    L_1   = (1/m) sum_u H(q_u, p(s_1(u)))                                                    (before MixUp)
    L_rot = (1/m) sum_u H(angle_u, p_rot(rotate(s_1(u), angle_u)))
    L     = L_X + r(t) (lambda_match L_U + lambda_first L_1) + lambda_rotation L_rot

DA aligns to the labelled marginal. Labelled faces keep the weak view of the shared protocol, and RandAugment stands for
CTAugment. Angles: a quarter of the batch each.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from fercore.augment import quarter_turns
from fercore.config import Count, Positive, Share, Weight
from fercore.encoders import ImageEncoder
from fercore.fusion import MarginalAlignment, sharpen
from fercore.losses import soft_cross_entropy
from fercore.methods.api import Batch, Context, Encode, Step
from fercore.mixing import mixup_views
from fercore.schedules import ramp

NAME, FAMILY = "ReMixMatch", "mixing"
ALIGNS = "targets"  # its pseudo-labels are moved towards a class distribution
LEARNS_FROM_WEAK = True  # the mixed images hold them
SUPERVISED = {"alpha": 0.0}


@dataclass(frozen=True)
class Config:
    """The authors' constants, but for K and the length of the ramp."""

    strong: Annotated[int, Field(ge=1, le=64)] = 2  # TorchSSL: K
    temperature: Positive = 0.5  # ReMixMatch: T
    alpha: Weight = 0.75  # ReMixMatch
    lambda_match: Weight = 1.5  # ReMixMatch
    lambda_first: Weight = 0.5  # ReMixMatch
    lambda_rotation: Weight = 0.5  # ReMixMatch
    ramp: Share = 1 / 16  # chosen, for a training of 10^4 steps; share of it
    window: Count = 128  # ReMixMatch: batch means in the alignment


VARIANTS: dict[str, dict] = {"authors": {"strong": 8, "ramp": 1 / 64}}  # 2^14 of 2^20 steps


def views(config: Config) -> dict[str, int]:
    """One weak anchor, K strong views."""
    return {"weak": 1, "strong": config.strong}


class State(nn.Module):
    """The alignment, and the head [4, d] that tells the angle."""

    def __init__(self, context: Context, config: Config):
        super().__init__()
        self.alignment = MarginalAlignment(context.classes, config.window)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.angle = nn.Linear(context.feature, 4)


state = State


def prepare(encode: Encode, slots: Tensor, labels: Tensor, state: State) -> None:
    """Align to the labelled marginal."""
    target = state.alignment.target
    target.copy_(one_hot(labels, len(target)).float().mean(0))


def step(model: ImageEncoder, batch: Batch, state: State, config: Config) -> Step:
    """Four losses in one forward."""
    (weak,) = model.untracked_forward(batch.weak[0])
    p = weak.logits.softmax(1)
    with torch.no_grad():
        q = sharpen(state.alignment(p), config.temperature)
    anchored = batch.strong + batch.weak
    images, targets = mixup_views(batch.labelled, batch.labels, anchored, q, config.alpha, batch.generator)
    turned, angles = quarter_turns(batch.strong[0])
    mixed, plain, rotated = model.joint_forward(images, batch.strong[0], turned)
    b = len(batch.labels)
    losses = {
        "labelled": soft_cross_entropy(mixed.logits[:b], targets[:b]).mean(),
        "match": soft_cross_entropy(mixed.logits[b:], targets[b:]).mean(),
        "first": soft_cross_entropy(plain.logits, q).mean(),
        "rotation": cross_entropy(state.angle(rotated.feature), angles),
    }
    unlabelled = config.lambda_match * losses["match"] + config.lambda_first * losses["first"]
    total = losses["labelled"] + ramp(batch.progress, config.ramp) * unlabelled
    total = total + config.lambda_rotation * losses["rotation"]
    return Step(total, losses, q, torch.ones_like(q[:, 0], dtype=torch.bool), {"semantic": p})
