"""Labels only: the baseline of SIT-FER's Table I, "our model trained using only limited labeled data".

    L_s = (1/B) sum_b H(y_b, p_b)                                                                (1)

The step count, the weak view and the encoder are those of every other row.
"""

from dataclasses import dataclass

from torch import nn
from torch.nn.functional import cross_entropy

from fercore.encoders import ImageEncoder
from fercore.methods.api import Batch, Step

NAME, FAMILY = "Labels only", "supervised"
VIEWS = {"weak": 0, "strong": 0}


@dataclass(frozen=True)
class Config:
    """No constants."""


def step(model: ImageEncoder, batch: Batch, state: nn.Module, config: Config) -> Step:
    """The labelled loss alone."""
    loss = cross_entropy(model(batch.labelled).logits, batch.labels)  # (1)
    return Step(loss, {"labelled": loss})
